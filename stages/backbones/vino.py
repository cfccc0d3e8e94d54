"""Running a trunk with OpenVINO on the CPU: converted once, then stored under `cache/engine`.

A stored model is one file that is written whole; its zip checksums are verified as it is read, and a damaged one is
converted again. Deleting the folder costs the conversions.
"""

import hashlib
import io as streams
import json
import sys
import tempfile
import warnings
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from stages import files, paths
from stages.backbones import trunk
from stages.backbones.engine import Turns, as_stored, at_a_time
from stages.backbones.trunk import Trunk, TrunkInfo
from stages.backbones.weights import weights_file
from stages.errors import UserError
from stages.images.decode import PIPELINE
from stages.machine import cores

HINTS = {"float32": "f32", "bfloat16": "bf16"}
TOLERANCE = 1e-3  # of a layer's largest value, float32 against torch: what differs by more was converted wrongly
LIBRARIES = ("openvino", "torch", "torchvision", "timm")


class Unconvertible(Exception):
    """A trunk that OpenVINO cannot convert, or converts wrongly; the message is the reason."""


class Converted(NamedTuple):
    """A converted model as OpenVINO's two files, and the description of its trunk."""

    xml: bytes
    weights: bytes
    info: TrunkInfo


class OpenVinoEngine:
    """A converted trunk, compiled for this CPU.

    Args:
        converted: what to run.
        precision: `float32` or `bfloat16`.
        dtype: in which features are stored, `float16` or `float32`.

    Raises:
        UserError: OpenVINO does not compute in this precision here.
    """

    def __init__(self, converted: Converted, precision: str, *, dtype: str = "float32") -> None:
        import openvino  # some machines have none

        self.parallel, self.dtype = at_a_time(), dtype
        core = openvino.Core()
        compiled = core.compile_model(
            core.read_model(converted.xml, converted.weights),
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": HINTS[precision],
                "NUM_STREAMS": self.parallel,
                "INFERENCE_NUM_THREADS": cores(),
                "ENABLE_CPU_PINNING": False,  # a second experiment would be pinned to the same cores
            },
        )
        computes = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if computes != HINTS[precision]:
            raise UserError(f"`extract.precision`: OpenVINO computes in {computes} here, found {precision}: take auto.")
        self._batch = compiled.input().shape[0]
        requests = [compiled.create_infer_request() for _ in range(self.parallel)]
        # The first call makes tables of types: two threads that make it at the same time wait for each other for ever
        self._run(requests[0], np.zeros(compiled.input().shape, np.uint8))
        self._requests = Turns(requests)

    def __call__(self, pixels: torch.Tensor) -> list[npt.NDArray[Any]]:
        """Features (N, …) of uint8 pixels (N, 3, S, S), one array per layer of the trunk.

        Raises:
            UserError: a feature is not finite.
        """
        batch = pixels.permute(0, 2, 3, 1).contiguous().numpy()
        with self._requests.take() as request:
            pieces = [
                self._run(request, batch[first : first + self._batch]) for first in range(0, len(batch), self._batch)
            ]
        return as_stored([torch.from_numpy(np.concatenate(layer)) for layer in zip(*pieces, strict=True)], self.dtype)

    def _run(self, request: Any, pixels: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.float32]]:
        """The same of pixels (n, S, S, 3), n at most the model's fixed batch."""
        count = len(pixels)
        if count < self._batch:
            pixels = np.concatenate([pixels, np.zeros((self._batch - count, *pixels.shape[1:]), np.uint8)])
        request.start_async({0: pixels}, share_inputs=True)
        request.wait()
        return [output.data[:count].astype(np.float32) for output in request.output_tensors]


def load(
    name: str,
    weights: str,
    *,
    cut: str,
    image_size: int | Literal["auto"],
    resize: Literal["crop", "squash"],
    batch_size: int,
) -> Converted:
    """The converted trunk of a backbone: the stored one, or converted and stored now.

    Args:
        name: as `trunk.load` takes it, like all but the last.
        weights: the same.
        cut: the same.
        image_size: the same.
        resize: the same.
        batch_size: number of images that are computed at once.

    Raises:
        Unconvertible: OpenVINO cannot run this trunk.
        UserError: the backbone, its weights or the cut is not available, or the disk is full.
    """
    path = _path(name, weights, cut, image_size, resize, batch_size)
    if stored := _read(path):
        return stored
    network, info = trunk.load(name, weights, cut=cut, image_size=image_size, resize=resize)
    converted = convert(network, info, batch_size)
    files.write_bytes(path, _packed(converted))
    return converted


def convert(network: Trunk, info: TrunkInfo, batch_size: int) -> Converted:
    """Converts a trunk for batches of a fixed size and compares it with torch.

    Raises:
        Unconvertible: it cannot be converted, or computes something else.
    """
    import openvino

    side, generator = info.preprocessing.crop, torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (batch_size, side, side, 3), dtype=torch.uint8, generator=generator)
    try:
        with torch.inference_mode(), warnings.catch_warnings(action="ignore"):  # that tracing is deprecated
            expected = network(pixels)
            traced = torch.jit.trace(network, pixels, check_trace=False)  # type: ignore[no-untyped-call]
        model = openvino.convert_model(traced, example_input=pixels, input=[pixels.shape])
        converted = Converted(*_serialised(model), info)
        computed = OpenVinoEngine(converted, "float32")(pixels.permute(0, 3, 1, 2))
    except Exception as error:  # whatever the tracer, a network's own code or the converter raises
        raise Unconvertible(_reason(error)) from error
    for layer, ours, theirs in zip(info.layers, computed, expected, strict=True):
        difference, largest = np.abs(ours - theirs.numpy()).max(), np.abs(theirs.numpy()).max()
        if not difference <= TOLERANCE * largest:
            raise Unconvertible(f"{layer} differs from torch's by {difference:.1e} of {largest:.1e}")
    return converted


def _reason(error: Exception) -> str:
    """The most telling line of a message."""
    lines = (str(error).strip() or type(error).__name__).splitlines()
    return next((line.removeprefix("-- ") for line in lines if "No conversion rule" in line), lines[0])


def _path(name: str, weights: str, *settings: object) -> Path:
    """Where a converted trunk is stored: the file name is a hash of everything that it depends on."""
    file = weights_file(name, weights)
    content = hashlib.sha256(file.read_bytes()).hexdigest() if file else None
    key = [name, weights, *settings, content, PIPELINE, *(version(library) for library in LIBRARIES)]
    return paths.engine() / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]}.zip"


def _serialised(model: Any) -> tuple[bytes, bytes]:
    """The network and the weights of a model, as OpenVINO writes them."""
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        openvino.save_model(model, path, compress_to_fp16=False)
        return path.read_bytes(), path.with_suffix(".bin").read_bytes()


def _packed(converted: Converted) -> bytes:
    stream = streams.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("about.json", json.dumps(converted.info.plain()))
        archive.writestr("model.xml", converted.xml)
        archive.writestr("model.bin", converted.weights)
    return stream.getvalue()


def _read(path: Path) -> Converted | None:
    """A stored model; None where there is none, or it is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:  # reading a member to its end verifies its checksum
            info = TrunkInfo.parse(json.loads(archive.read("about.json")))
            return Converted(archive.read("model.xml"), archive.read("model.bin"), info)
    except FileNotFoundError:
        return None
    except Exception as error:  # zipfile raises a dozen kinds on flipped bits
        print(f"{path} is damaged ({error}): converted again.", file=sys.stderr)
        return None
