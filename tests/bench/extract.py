"""Extraction against a plain loop, the engine alone and decoding alone, alternating: images a second and their ratios.

Run it from the top folder of a checkout: python -m tests.bench.extract [--images FOLDER] [--backbones resnet18]

- ours: from image files to the feature file, rows kept in a store as always; the network is loaded before.
- plain: Pillow, torchvision's transforms, a DataLoader with a worker a core, torch in float32.
- engine: batches of pixels that lie ready in memory, as many at a time as the engine takes.
- decoding: files to pixels, a thread a core.

Weights are random, which takes as long. CPU milliseconds (of all threads and workers) stand beside the images a second:
other processes blur the latter more.
"""

import argparse
import hashlib
import io
import json
import os
import platform
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import stages  # noqa: F401  # isort: skip  (before torch: it keeps OpenMP's threads from spinning)
import numpy as np
import torch
from PIL import Image as Pillow
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from stages import paths
from stages.backbones import cuts, zoo
from stages.backbones.device import half
from stages.backbones.engine import callers
from stages.features import extraction
from stages.features.decoders import ImageRef
from stages.features.extraction import Extractor, Spec
from stages.images import views
from stages.images.options import Augment
from stages.images.preprocessing import Preprocessing

OUT = paths.TIMINGS / "bench-extract.json"
BACKBONES = ("resnet18", "efficientnet_lite0", "squeezenet1_1")
BATCH = 32
CORES = os.cpu_count() or 1
AUGMENT = Augment(crop=0.4, flip=True, rotate=0.0, lighting=0.2)
PLAIN, DECODING = "plain loop, torch float32", "decoding alone"
COLUMNS = ("", "images/s", "CPU ms an image", "of the plain loop", "of the engine alone")
MADE_UP = (300, 200)  # width and height, about Caltech-101's
Work = Callable[[], Any]


def main() -> None:
    """Prints a table for each backbone and writes the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--images", type=Path, help="a folder with JPEGs, at any depth")
    source.add_argument("--made-up", action="store_true", help="JPEGs made here (the default)")
    parser.add_argument("--backbones", nargs="+", default=BACKBONES)
    parser.add_argument("--count", type=int, default=1024, help="images, evenly from the folder")
    parser.add_argument("--rounds", type=int, default=3, help="of all measurements; medians are shown")
    parser.add_argument("--json", type=Path, default=OUT)
    given = parser.parse_args()
    out, found = given.json.absolute(), dict[str, Any]()
    with tempfile.TemporaryDirectory() as folder:
        images = given.images or made_up(Path(folder) / "images", given.count)
        wanted = listed(images.absolute(), given.count)
        os.environ["DVC_ROOT"] = folder  # the store
        print(f"{machine_in_words()}; {len(wanted)} images, {given.rounds} rounds")
        for name in given.backbones:
            found[name] = measure(images.absolute(), wanted, name, given.rounds)
            print(f"\n{name}", *table(found[name]), sep="\n", flush=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(
        json.dumps({"machine": machine_in_words(), "images": len(wanted), "results": found}, indent=1) + "\n"
    )


def machine_in_words() -> str:
    """The processor, and the versions that matter."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    versions = ", ".join(f"{library} {version(library)}" for library in ("torch", "torchvision", "openvino"))
    return f"{CORES} cores of {name}; {versions}"


def made_up(folder: Path, count: int) -> Path:
    """JPEGs with edges and a little noise."""
    folder.mkdir()
    for number in range(count):
        generator = np.random.default_rng(number)
        blocks = Pillow.fromarray(generator.integers(0, 256, (8, 12, 3), dtype=np.uint8)).resize(MADE_UP)
        pixels = np.asarray(blocks) + generator.normal(0, 8, (MADE_UP[1], MADE_UP[0], 3))
        Pillow.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.jpg", quality=80)
    return folder


def listed(folder: Path, count: int) -> list[ImageRef]:
    """Path and sha256 of some images, evenly from all below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    chosen = files[:: max(1, len(files) // count)][:count]
    return [(str(path.relative_to(folder)), hashlib.sha256(path.read_bytes()).hexdigest()) for path in chosen]


def measure(folder: Path, wanted: Sequence[ImageRef], name: str, rounds: int) -> dict[str, Any]:
    """What -> medians of images a second and CPU milliseconds an image, and the ratios taken round by round."""
    spec = Spec(
        folder, name, "random", "pooled", "auto", "crop", "float32", "float16", BATCH, "cpu", (views.EVALUATION,),
        AUGMENT, "torch",
    )  # fmt: skip
    precisions = ["float32", *filter(None, [half(torch.device("cpu"))])]
    specs = {
        f"{engine} {precision}": replace(spec, engine=engine, precision=precision)
        for engine in ("torch", "openvino")
        for precision in precisions
    }
    ready = {what: extraction.load_extractor(one) for what, one in specs.items()}
    work: dict[str, Work] = {PLAIN: plain(spec, wanted), DECODING: decoding(spec, wanted)}
    for what, one in specs.items():
        work |= {f"engine alone, {what}": alone(ready[what], len(wanted)), f"ours, {what}": ours(one, wanted)}
    times: dict[str, list[tuple[float, float]]] = {what: [] for what in work}
    for _ in range(rounds):
        for what, one_work in work.items():
            times[what].append(timed(one_work, len(wanted)))
    return {what: row(times, what) for what in work}


def row(times: dict[str, list[tuple[float, float]]], what: str) -> dict[str, Any]:
    """A line of the table."""

    def ratio(other: str) -> float | None:
        pairs = zip(times[what], times.get(other, []), strict=False)
        return median([mine / theirs for (mine, _), (theirs, _) in pairs]) if other in times else None

    return {
        "images/s": median(speed for speed, _ in times[what]),
        "cpu_ms": median(cpu for _, cpu in times[what]),
        "of_plain": ratio(PLAIN),
        "of_engine": ratio(what.replace("ours", "engine alone")) if what.startswith("ours") else None,
        "rounds": times[what],
    }


def table(found: dict[str, Any]) -> list[str]:
    """Markdown."""
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    for what, line in found.items():
        own = f"{line['of_engine']:.2f}" if line["of_engine"] else ""
        lines.append(f"| {what} | {line['images/s']:.0f} | {line['cpu_ms']:.2f} | {line['of_plain']:.2f} × | {own} |")
    return lines


def timed(work: Work, count: int) -> tuple[float, float]:
    """Images a second by the clock, and CPU milliseconds an image."""
    clock, cpu = time.perf_counter(), cpu_seconds()
    work()
    return count / (time.perf_counter() - clock), 1000 * (cpu_seconds() - cpu) / count


def cpu_seconds() -> float:
    """Of all threads and of processes that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def ours(spec: Spec, wanted: Sequence[ImageRef]) -> Work:
    """Everything that the stage does once the network is loaded."""

    def work() -> None:
        shutil.rmtree(paths.store(), ignore_errors=True)
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            extraction.extract(spec, wanted, paths.main_checkout() / "features.h5")

    return work


def alone(ready: Extractor, count: int) -> Work:
    """The engine on pixels that lie ready."""
    assert ready.engine is not None
    size = ready.preprocessing.crop
    shape = (ready.batch_size, size, size, 3)
    batches = [torch.randint(256, shape, dtype=torch.uint8).permute(0, 3, 1, 2) for _ in range(4)]

    def work() -> None:
        with callers(ready.parallel) as pool:
            list(pool.map(ready.engine, [batches[number % 4] for number in range(count // ready.batch_size)]))  # type: ignore[arg-type]

    return work


def decoding(spec: Spec, wanted: Sequence[ImageRef]) -> Work:
    """Files to pixels."""
    how = extraction.load_extractor(spec).preprocessing

    def one(image: ImageRef) -> None:
        pixels = extraction.try_decode(spec, image)
        assert pixels is not None
        views.view(pixels, views.EVALUATION, sha256=image[1], preprocessing=how, augment=AUGMENT)

    def work() -> None:
        with ThreadPoolExecutor(CORES) as pool:
            list(pool.map(one, wanted))

    return work


class Files(Dataset[torch.Tensor]):
    """Images as torchvision's tutorials read them."""

    def __init__(self, folder: Path, wanted: Sequence[ImageRef], how: Preprocessing) -> None:
        self.files = [folder / path for path, _ in wanted]
        self.transform = transforms.Compose(
            [
                transforms.Resize(how.resize, InterpolationMode(how.interpolation)),
                transforms.CenterCrop(how.crop),
                transforms.ToTensor(),
                transforms.Normalize(how.mean, how.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, place: int) -> torch.Tensor:
        pixels: torch.Tensor = self.transform(Pillow.open(self.files[place]).convert("RGB"))
        return pixels


def plain(spec: Spec, wanted: Sequence[ImageRef]) -> Work:
    """A loop as one writes it by hand."""
    backbone = zoo.load(spec.backbone, "random")
    files = Files(spec.folder, wanted, backbone.preprocessing)
    trunk: nn.Module = cuts.Network(backbone.model, backbone.preprocessing.crop, spec.backbone).trunk(spec.cut)

    @torch.inference_mode()
    def work() -> None:
        np.concatenate([trunk(batch).numpy() for batch in DataLoader(files, BATCH, num_workers=CORES)])

    return work


if __name__ == "__main__":
    main()
