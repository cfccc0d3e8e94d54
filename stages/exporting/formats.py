"""The formats of a file: how each is written, and how it is run to check it."""

import json
import sys
import warnings
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from stages.errors import UserError
from stages.exporting.network import ExportedNetwork

INPUT, METADATA = "pixels", "coldcut"
IMAGES = ({0: torch.export.Dim("images")},)
Pixels = npt.NDArray[np.uint8]
Runner = Callable[[Pixels], dict[str, npt.NDArray[np.float32]]]  # (N, 3, S, S) to output -> array


class Program(NamedTuple):
    """A network as a graph that takes any number of images of `size` pixels a side, and what it gives."""

    graph: torch.export.ExportedProgram
    size: int
    outputs: tuple[str, ...]


class Format(NamedTuple):
    """A format.

    Attributes:
        suffix: of its file.
        write: a program, with what is to be told of it, to a path.
        open: a written file as a function, on the CPU and in float32.
        needs: packages that it takes.
    """

    suffix: str
    write: Callable[[Program, Mapping[str, Any], Path], None]
    open: Callable[[Path], Runner]
    needs: tuple[str, ...]


def program(network: ExportedNetwork, size: int) -> Program:
    """A network as a graph.

    Raises:
        UserError: it cannot be captured.
    """
    example = torch.zeros((2, 3, size, size), dtype=torch.uint8)
    try:
        graph = torch.export.export(network, (example,), dynamic_shapes=IMAGES)
    except Exception as error:  # whatever torch's exporter meets in a network's own code
        raise UserError(f"This network cannot be captured as a graph: {_first_line(error)}") from None
    return Program(graph, size, tuple(network(example)))


def write(name: str, made: Program, told: Mapping[str, Any], path: Path) -> Runner:
    """Writes a file in a format and returns it as a function.

    Raises:
        UserError: a package is not installed, or the graph has what the format has not.
    """
    chosen = FORMATS[name]
    if missing := [package for package in chosen.needs if find_spec(package) is None]:
        raise UserError(f"`--format {name}` needs {', '.join(missing)}: pip install '.[export]'")
    try:
        with warnings.catch_warnings(), redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")  # what matters is checked afterwards
            chosen.write(made, told, path)
            return chosen.open(path)
    except Exception as error:  # exporters and runtimes have dozens of their own
        raise UserError(f"This network cannot be written as {name}: {_first_line(error)}") from None


def _write_onnx(made: Program, told: Mapping[str, Any], path: Path) -> None:
    names: dict[str, Any] = {"input_names": [INPUT], "output_names": made.outputs, "dynamic_shapes": IMAGES}
    found = torch.onnx.export(made.graph, dynamo=True, verbose=False, **names)
    assert found is not None
    found.model.metadata_props.update({name: json.dumps(value) for name, value in told.items()})
    found.save(path, external_data=False)


def _open_onnx(path: Path) -> Runner:
    onnxruntime = import_module("onnxruntime")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda pixels: dict(zip(names, session.run(None, {INPUT: pixels}), strict=True))


def _write_openvino(made: Program, told: Mapping[str, Any], path: Path) -> None:
    openvino = import_module("openvino")
    model = openvino.convert_model(made.graph)
    model.reshape([-1, 3, made.size, made.size])
    for name, output in zip(made.outputs, model.outputs, strict=True):
        output.get_tensor().set_names({name})
    for name, value in told.items():
        model.set_rt_info(json.dumps(value), [METADATA, name])
    openvino.save_model(model, path, compress_to_fp16=False)


def _open_openvino(path: Path) -> Runner:
    openvino = import_module("openvino")
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    names = [name for output in compiled.outputs for name in output.names]  # an output has several

    def run(pixels: Pixels) -> dict[str, npt.NDArray[np.float32]]:
        found = compiled([pixels])
        return {name: found[name] for name in names}

    return run


def _write_torch(made: Program, told: Mapping[str, Any], path: Path) -> None:
    torch.export.save(made.graph, path, extra_files={f"{METADATA}.json": json.dumps(told)})


def _open_torch(path: Path) -> Runner:
    module = torch.export.load(path).module()

    @torch.inference_mode()
    def run(pixels: Pixels) -> dict[str, npt.NDArray[np.float32]]:
        return {name: value.numpy() for name, value in module(torch.from_numpy(pixels)).items()}

    return run


FORMATS = {
    "onnx": Format(".onnx", _write_onnx, _open_onnx, ("onnx", "onnxscript", "onnxruntime")),
    "openvino": Format(".xml", _write_openvino, _open_openvino, ("openvino",)),
    "torch": Format(".pt2", _write_torch, _open_torch, ()),
}


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
