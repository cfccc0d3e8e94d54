"""The formats of exported files: how each is written, and how it is run to check it."""

import json
import sys
import warnings
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from stages.errors import UserError
from stages.exporting import suppression
from stages.exporting.network import ExportedNetwork

INPUT, METADATA = "pixels", "coldcut"
IMAGES = ({0: torch.export.Dim("images")},)  # the first dimension of the input is free
Pixels = npt.NDArray[np.uint8]
Runner = Callable[[Pixels], dict[str, npt.NDArray[np.float32]]]  # (N, 3, S, S) to output -> array


class Program(NamedTuple):
    """A network as a graph.

    Attributes:
        graph: takes any number of images.
        size: side of an image in pixels.
        outputs: names of what it returns.
    """

    graph: torch.export.ExportedProgram
    size: int
    outputs: tuple[str, ...]


class Format(NamedTuple):
    """A format of exported files.

    Attributes:
        suffix: what the names of its files end in.
        write: writes a program with its metadata to a path.
        open: opens a file as a function that computes on the CPU in float32.
        needs: packages that must be installed.
        suppresses: whether it can hold the suppression of boxes.
    """

    suffix: str
    write: Callable[[Program, Mapping[str, Any], Path], None]
    open: Callable[[Path], Runner]
    needs: tuple[str, ...]
    suppresses: bool


def capture(network: ExportedNetwork, size: int) -> Program:
    """Captures a network as a graph; `size` is the side of its input in pixels.

    Raises:
        UserError: the network cannot be captured.
    """
    example = torch.zeros((2, 3, size, size), dtype=torch.uint8)
    try:
        graph = torch.export.export(network, (example,), dynamic_shapes=IMAGES)
    except Exception as error:  # whatever torch's exporter meets in a network's own code
        raise UserError(f"This network cannot be captured as a graph: {_first_line(error)}") from None
    return Program(graph, size, tuple(network(example)))


def write(program: Program, path: Path, *, format_: str, metadata: Mapping[str, Any]) -> Runner:
    """Writes a file and returns it as a function.

    Args:
        program: what is written.
        path: of the file.
        format_: name of the format.
        metadata: what the file says about itself; values that JSON can have.

    Raises:
        UserError: a package is not installed, or the format cannot express the graph.
    """
    chosen = FORMATS[format_]
    if missing := [package for package in chosen.needs if find_spec(package) is None]:
        raise UserError(f"`--format {format_}` needs {', '.join(missing)}: pip install '.[export]'")
    try:
        with warnings.catch_warnings(), redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")  # what matters is checked afterwards
            chosen.write(program, metadata, path)
            return chosen.open(path)
    except Exception as error:  # exporters and runtimes have dozens of their own
        raise UserError(f"This network cannot be written as {format_}: {_first_line(error)}") from None


def _write_onnx(program: Program, metadata: Mapping[str, Any], path: Path) -> None:
    options: dict[str, Any] = {"input_names": [INPUT], "output_names": program.outputs, "dynamic_shapes": IMAGES}
    options["custom_translation_table"] = suppression.onnx_translations()
    exported = torch.onnx.export(program.graph, dynamo=True, verbose=False, **options)
    assert exported is not None
    exported.model.metadata_props.update({name: json.dumps(value) for name, value in metadata.items()})
    exported.save(path, external_data=False)


def _open_onnx(path: Path) -> Runner:
    onnxruntime = import_module("onnxruntime")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda pixels: dict(zip(names, session.run(None, {INPUT: pixels}), strict=True))


def _write_openvino(program: Program, metadata: Mapping[str, Any], path: Path) -> None:
    openvino = import_module("openvino")
    if "all_boxes" in program.outputs:  # OpenVINO knows ONNX's suppression, and not the operator that torch has here
        with TemporaryDirectory() as folder:
            _write_onnx(program, {}, Path(folder) / "network.onnx")
            model = openvino.convert_model(Path(folder) / "network.onnx")
    else:
        model = openvino.convert_model(program.graph)
    model.reshape([-1, 3, program.size, program.size])
    for name, output in zip(program.outputs, model.outputs, strict=True):
        output.get_tensor().set_names({name})
    for name, value in metadata.items():
        model.set_rt_info(json.dumps(value), [METADATA, name])
    openvino.save_model(model, path, compress_to_fp16=False)


def _open_openvino(path: Path) -> Runner:
    openvino = import_module("openvino")
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    names = [name for output in compiled.outputs for name in output.names]  # an output has several

    def run(pixels: Pixels) -> dict[str, npt.NDArray[np.float32]]:
        outputs = compiled([pixels])
        return {name: outputs[name] for name in names}

    return run


def _write_torch(program: Program, metadata: Mapping[str, Any], path: Path) -> None:
    torch.export.save(program.graph, path, extra_files={f"{METADATA}.json": json.dumps(metadata)})


def _open_torch(path: Path) -> Runner:
    module = torch.export.load(path).module()

    @torch.inference_mode()
    def run(pixels: Pixels) -> dict[str, npt.NDArray[np.float32]]:
        return {name: value.numpy() for name, value in module(torch.from_numpy(pixels)).items()}

    return run


FORMATS = {
    "onnx": Format(".onnx", _write_onnx, _open_onnx, ("onnx", "onnxscript", "onnxruntime"), suppresses=True),
    "openvino": Format(".xml", _write_openvino, _open_openvino, ("openvino", "onnx", "onnxscript"), suppresses=True),
    "torch": Format(".pt2", _write_torch, _open_torch, (), suppresses=False),
}


def _first_line(error: Exception) -> str:
    """What an error says first, after the places in OpenVINO's own code."""
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith("Exception from")]
    return (lines or [type(error).__name__])[0].strip()[:200]
