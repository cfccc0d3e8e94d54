"""A check of extraction on a GPU (or, with small sizes, on a CPU): right, repeatable, how fast. Six minutes at most.

Run it from the top folder of a checkout: python -m tests.bench.gpu [--device cuda] [--small] [--out FILE]

It needs torch, torchvision, timm, h5py, numpy and pydantic: no DVC, no OpenVINO, no network and no params.yaml. Weights
are random, images are made on the spot. Each block has a time limit of its own; a block that fails or runs out of time
is said to, and the others run all the same. It ends with a table, and with all figures as JSON.

- right: features in float32 and in the device's own precision against those of the CPU in float32 (cosine).
- repeatable: the same bytes in a second run, and for an image whatever its neighbours in the batch.
- decoding, engine, end to end: images per second, from files to pixels, from pixels in memory to features, and both;
  where torchcodec is installed, decoding by the GPU too.
"""

import argparse
import hashlib
import json
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import stages  # noqa: F401  # isort: skip  (before torch: it keeps OpenMP's threads from spinning)
import numpy as np
import torch
from PIL import Image as Pillow

from stages.backbones.device import pick_device
from stages.backbones.engine import callers, pick_precision
from stages.features import extraction
from stages.features.decoders import GpuDecoder, ImageRef
from stages.features.extraction import Extractor, Spec
from stages.images.options import Augment
from stages.images.views import EVALUATION
from stages.machine import cores

BACKBONES = {  # the published cut of each, and the seconds that it may take
    "resnet50": ("pooled", 60.0),
    "efficientnet_lite0": ("pooled", 60.0),
    "timm:vit_base_patch16_224": ("pooled", 60.0),
    "timm:vit_large_patch16_dinov3": ("cls+avg", 90.0),
}
SMALL_BACKBONES = {"squeezenet1_1": ("pooled", 30.0), "timm:test_vit": ("cls+avg", 30.0)}
COSINE = {"float32": 0.9999, "bfloat16": 0.99, "float16": 0.999}
SECONDS = 5.0  # of each measurement
SIDE = (500, 375)  # pixels of a photograph, as those of ImageNet


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        files: images on the disk.
        checked: images whose features are compared with the CPU's.
        batch: images per batch.
        seconds: of each measurement.
        image_size: pixels a side that networks see; None for their own.
    """

    files: int
    checked: int
    batch: int
    seconds: float
    image_size: int | None


FULL = Sizes(files=2048, checked=32, batch=256, seconds=SECONDS, image_size=None)
SMALL = Sizes(files=16, checked=8, batch=8, seconds=0.3, image_size=64)


def photographs(folder: Path, count: int) -> list[ImageRef]:
    """Writes JPEGs that compress like photographs: smooth, with some noise."""
    generator = np.random.default_rng(0)
    refs: list[ImageRef] = []
    for number in range(count):
        coarse = generator.integers(0, 256, (9, 12, 3), dtype=np.uint8)
        smooth = np.asarray(Pillow.fromarray(coarse).resize(SIDE, Pillow.Resampling.BICUBIC), np.int16)
        noisy = (smooth + generator.integers(-12, 13, smooth.shape)).clip(0, 255).astype(np.uint8)
        path = f"{number:05}.jpg"
        Pillow.fromarray(noisy).save(folder / path, quality=88)
        refs.append((path, hashlib.sha256((folder / path).read_bytes()).hexdigest()))
    return refs


def specification(folder: Path, backbone: str, cut: str, sizes: Sizes, device: str) -> Spec:
    """How features are computed, in the precision that the device is fastest in."""
    return Spec(
        folder=folder,
        backbone=backbone,
        weights="random",
        cut=cut,
        image_size=sizes.image_size or "auto",
        resize="crop",
        precision=pick_precision("auto", torch.device(device)),
        dtype="float16",
        batch_size=sizes.batch,
        device=device,
        views=(EVALUATION,),
        augment=Augment(crop=1.0, flip=False, rotate=0.0, lighting=0.0),
        engine="torch",
    )


def features(spec: Spec, refs: list[ImageRef]) -> np.ndarray[Any, np.dtype[Any]]:
    """The rows of some images (n, D)."""
    part = extraction.compute_part(spec, refs, spec.views)
    (name,) = (name for name in part if name.startswith("features/"))
    return part[name][:, 0].reshape(len(refs), -1).astype(np.float32)


def cosine(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    """The smallest cosine between rows."""
    scale = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float(((one * other).sum(1) / scale).min())


def check(spec: Spec, refs: list[ImageRef]) -> dict[str, Any]:
    """Features against the CPU's, over runs and among other neighbours."""
    cpu = features(replace(spec, device="cpu", precision="float32", dtype="float32"), refs)
    figures: dict[str, Any] = {}
    for precision in dict.fromkeys(["float32", spec.precision]):
        here = features(replace(spec, precision=precision), refs)
        figures[f"cosine, {precision}"] = found = cosine(cpu, here)
        figures["right"] = figures.get("right", True) and found >= COSINE[precision]
    first, second = features(spec, refs), features(spec, refs)
    others = features(spec, refs[::-1])[::-1]
    figures["repeatable"] = bool((first == second).all())
    figures["whatever the neighbours"] = bool((first == others).all())
    return figures


def speed(work: Callable[[], int], seconds: float) -> float:
    """Images per second of work that is done again and again, after a first time that warms up."""
    work()
    began, done = time.perf_counter(), 0
    while (spent := time.perf_counter() - began) < seconds or not done:
        done += work()
    return done / spent if spent >= seconds else done / (time.perf_counter() - began)


def decoding(spec: Spec, extractor: Extractor, refs: list[ImageRef]) -> Callable[[], int]:
    """Files to pixels, one thread per core."""
    idle = replace(extractor, engine=Idle(extractor))
    return lambda: _compute(spec, idle, refs)


class Idle:
    """An engine that answers at once."""

    parallel = 2

    def __init__(self, extractor: Extractor) -> None:
        self._shapes = [shape for shape, _ in extractor.layers.values()]

    def __call__(self, pixels: torch.Tensor) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
        return [np.zeros((len(pixels), *shape), np.float32) for shape in self._shapes]


def _compute(spec: Spec, extractor: Extractor, refs: list[ImageRef]) -> int:
    """A part, with an extractor in place of the spec's own."""
    own, extraction.load_extractor = extraction.load_extractor, lambda _: extractor  # type: ignore[assignment]
    try:
        extraction.compute_part(spec, refs, spec.views)
    finally:
        extraction.load_extractor = own
    return len(refs)


def engine(extractor: Extractor) -> Callable[[], int]:
    """Pixels in memory to features, as many batches at a time as the engine takes."""
    side, batch = extractor.preprocessing.crop, extractor.batch_size
    pixels = torch.randint(256, (batch, side, side, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    assert extractor.engine is not None
    run = extractor.engine

    def work() -> int:
        with callers(extractor.parallel) as pool:
            list(pool.map(run, [pixels] * (2 * extractor.parallel)))
        return 2 * extractor.parallel * batch

    return work


def blocks(folder: Path, refs: list[ImageRef], device: str, sizes: Sizes, chosen: dict[str, tuple[str, float]]) -> Any:
    """Name, time limit in seconds and work of each block; each piece of work adds to its figures as it goes."""

    def block(backbone: str, cut: str) -> Callable[[dict[str, Any]], Iterator[None]]:
        def work(figures: dict[str, Any]) -> Iterator[None]:
            spec = specification(folder, backbone, cut, sizes, device)
            if device.startswith("cuda"):
                torch.cuda.reset_peak_memory_stats()
            figures.update(check(spec, refs[: sizes.checked]))
            yield
            extractor = extraction.load_extractor(spec)
            figures["precision"], figures["batch"] = spec.precision, extractor.batch_size
            figures["engine, images/s"] = speed(engine(extractor), sizes.seconds)
            yield
            figures["decoding, images/s"] = speed(decoding(spec, extractor, refs), sizes.seconds)
            yield
            if device.startswith("cuda") and find_spec("torchcodec"):
                by_gpu = replace(extractor, decoder=GpuDecoder(torch.device(device)))
                figures["decoding by the GPU, images/s"] = speed(decoding(spec, by_gpu, refs), sizes.seconds)
                figures["end to end so, images/s"] = speed(lambda: _compute(spec, by_gpu, refs), sizes.seconds)
                yield
            figures["end to end, images/s"] = speed(lambda: _compute(spec, extractor, refs), sizes.seconds)
            slower = min(figures["decoding, images/s"], figures["engine, images/s"])
            figures["of the slower"] = figures["end to end, images/s"] / slower
            if device.startswith("cuda"):
                figures["memory, MiB"] = torch.cuda.max_memory_allocated() / 2**20

        return work

    return [(name, limit, block(name, cut)) for name, (cut, limit) in chosen.items()]


def run_block(work: Callable[[dict[str, Any]], Iterator[None]], limit: float) -> dict[str, Any]:
    """The figures of a block; `failed` says why some are missing. What has begun is not interrupted."""
    figures: dict[str, Any] = {}
    began = time.perf_counter()
    try:
        for _ in work(figures):
            if time.perf_counter() - began > limit:
                figures["failed"] = f"out of time after {limit:.0f} s"
                break
    except Exception as error:  # the other blocks are to run
        traceback.print_exc(file=sys.stderr)
        figures["failed"] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    extraction.load_extractor.cache_clear()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return figures | {"seconds": time.perf_counter() - began}


def machine(device: str) -> dict[str, Any]:
    """What it ran on."""
    name = torch.cuda.get_device_name() if device.startswith("cuda") else platform.processor() or platform.machine()
    versions = {library: version(library) for library in ("torch", "torchvision", "timm")}
    return {"device": device, "name": name, "cores": cores(), "python": platform.python_version(), **versions}


def table(results: dict[str, dict[str, Any]]) -> str:
    """One column per backbone, one line per figure."""
    rows = dict.fromkeys(figure for figures in results.values() for figure in figures)
    width = max(map(len, results)) + 2
    lines = [f"{'':28}" + "".join(f"{name:>{width}}" for name in results)]
    for row in rows:
        lines.append(f"{row:28}" + "".join(f"{_text(figures.get(row)):>{width}}" for figures in results.values()))
    return "\n".join(lines)


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "" if value is None else {True: "yes", False: "NO"}.get(value, str(value)[:40])
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.4g}"


def main(arguments: list[str] | None = None) -> int:
    """Runs all blocks; 1 where features are wrong, not repeatable, or a block failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto", help="cuda, cuda:1, mps or cpu (default: what is there)")
    parser.add_argument("--small", action="store_true", help="tiny networks and few images: seconds on a CPU")
    parser.add_argument("--out", type=Path, help="where the JSON goes (default: standard output)")
    options = parser.parse_args(arguments)
    device = str(pick_device(options.device))
    sizes, chosen = (SMALL, SMALL_BACKBONES) if options.small else (FULL, BACKBONES)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        refs = photographs(Path(folder), sizes.files)
        for name, limit, work in blocks(Path(folder), refs, device, sizes, chosen):
            results[name] = run_block(work, limit)
            print(f"{name}: {results[name]['seconds']:.0f} s", file=sys.stderr, flush=True)
    print(table(results))
    text = json.dumps({"machine": machine(device), "results": results}, indent=1)
    options.out.write_text(f"{text}\n") if options.out else print(text)
    whole = all(figures.get(key) for figures in results.values() for key in ("right", "repeatable"))
    return 0 if whole and not any("failed" in figures for figures in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
