"""Decoding alone, before an engine that answers at once: threads and processes, and what shrinking on the way brings.

Run it from the top folder of a checkout: python -m tests.bench.decoding [--images FOLDER] [--cores 1 2 …]

- Threads and processes: images per second on each number of cores, per core, and what one more core brings.
- The lock: CPU milliseconds per image of the process that works, of images of 4 x 4 pixels, so that next to nothing
  but Python is left. Python's lock lets one thread at a time do this, so no number of cores gets ahead of it.
- Shrinking: photographs of 12 megapixels and small ones, decoded whole and resized (as before PIPELINE 2), and decoded
  at 1/2, 1/4 or 1/8 (as now), one image each way in turn, so that other processes slow down both alike.
- With `--fidelity`: features in float32 of images enlarged to 12 megapixels, decoded both ways, and the accuracy of the
  nearest other image (each class a folder; weights are needed).

It prints tables and writes JSON.
"""

import argparse
import hashlib
import io
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import stages  # noqa: F401  # isort: skip  (before torch: it keeps OpenMP's threads from spinning)
import numpy as np
import torch
from PIL import Image as Pillow

from stages import paths
from stages.features import decoders, extraction
from stages.features.decoders import Decoders, ImageRef, Threads
from stages.features.extraction import Extractor, Spec
from stages.images import views
from stages.images.decode import decode, decode_shrunk, divisor, prepare
from stages.images.options import Augment
from stages.images.preprocessing import Preprocessing
from tests.bench.extract import listed, machine_in_words, made_up

OUT = paths.TIMINGS / "bench-decoding.json"
HOW = Preprocessing(256, 224, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
AUGMENT = Augment(crop=1.0, flip=False, rotate=0.0, lighting=0.0)
LARGE, SMALL = (4000, 3000), (500, 375)
BATCH, PARALLEL = 8, 2


def main() -> None:
    """Prints the tables and writes the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="a folder with JPEGs, at any depth (default: made here)")
    parser.add_argument("--count", type=int, default=1024, help="images, evenly from the folder")
    parser.add_argument("--cores", type=int, nargs="+", default=range(1, (os.cpu_count() or 1) + 1))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--fidelity", metavar="BACKBONE", help="such as efficientnet_lite0")
    parser.add_argument("--json", type=Path, default=OUT)
    options = parser.parse_args()
    results: dict[str, Any] = {"machine": machine_in_words()}
    print(results["machine"])
    with tempfile.TemporaryDirectory() as folder:
        images = (options.images or made_up(Path(folder) / "images", options.count)).absolute()
        refs = listed(images, options.count)
        results["shrinking"] = shrinking([(images / path).read_bytes() for path, _ in refs], options.rounds)
        print("\n" + shrinking_table(results["shrinking"]), flush=True)
        if options.fidelity:
            results["fidelity"] = fidelity(options.fidelity, images, refs)
            print(f"\n{results['fidelity']}", flush=True)
        results["scaling"] = scaling(images, refs, options.cores, options.rounds)
        print("\n" + scaling_table(results["scaling"]), flush=True)
        results["lock"] = lock(Path(folder) / "tiny", options.rounds)
        for name, own in results["lock"].items():
            print(f"{name}: {own:.3f} ms of the lock per image, at most {1000 / own:,.0f} images/s")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(results, indent=1) + "\n")


# --- threads and processes


class Idle:
    """An engine that answers at once."""

    parallel = PARALLEL

    def __call__(self, pixels: torch.Tensor) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
        return [np.zeros((len(pixels), 8), np.float32)]


@contextmanager
def idle_engine(preprocessing: Preprocessing) -> Iterator[None]:
    """Extraction with that engine."""
    extractor = Extractor(Idle(), preprocessing, {"pooled": ((8,), "f2")}, {}, BATCH, PARALLEL)
    own = extraction.load_extractor
    extraction.load_extractor = lambda _: extractor  # type: ignore[assignment]
    try:
        yield
    finally:
        extraction.load_extractor = own


def scaling(folder: Path, refs: Sequence[ImageRef], cores: Sequence[int], rounds: int) -> list[dict[str, Any]]:
    """For each number of cores, threads and processes in turn: images per second, and CPU ms of this process."""
    spec = specification(folder)
    before = os.environ.get("PYTHON_CPU_COUNT")
    rows = []
    try:
        for count in cores:
            os.environ["PYTHON_CPU_COUNT"] = str(count)
            window = decoders.Window(BATCH, PARALLEL, 1, HOW.crop)
            processes = decoders.Processes(count, parts=extraction.PARTS, images=extraction.PART_VIEWS, window=window)
            who: dict[str, Decoders] = {"threads": Threads(), "processes": processes}
            timings: dict[str, list[tuple[float, float]]] = {name: [] for name in who}
            with idle_engine(HOW):
                for chosen in who.values():  # processes start, files come into memory
                    timed_part(spec, refs, chosen)
                for _ in range(rounds):
                    for name, chosen in who.items():
                        timings[name].append(timed_part(spec, refs, chosen))
            processes.pool.shutdown()
            for name, pairs in timings.items():
                speed, own = (median(values) for values in zip(*pairs, strict=True))
                rows.append({"cores": count, "who": name, "images/s": speed, "own CPU ms": own})
    finally:
        os.environ.pop("PYTHON_CPU_COUNT") if before is None else os.environ.update(PYTHON_CPU_COUNT=before)
    return rows


def timed_part(spec: Spec, refs: Sequence[ImageRef], chosen: Decoders) -> tuple[float, float]:
    """Images per second, and CPU milliseconds per image of this process."""
    clock, cpu = time.perf_counter(), time.process_time()
    extraction.compute_part(spec, refs, spec.views, chosen)
    return len(refs) / (time.perf_counter() - clock), 1000 * (time.process_time() - cpu) / len(refs)


def lock(folder: Path, rounds: int) -> dict[str, float]:
    """CPU milliseconds per image of this process, with threads and with processes, of images that cost nothing else."""
    folder.mkdir()
    stream = io.BytesIO()
    Pillow.new("RGB", (4, 4)).save(stream, "JPEG")
    refs = []
    for number in range(4 * extraction.PART_VIEWS):
        data = stream.getvalue() + bytes(number)
        (folder / f"{number}.jpg").write_bytes(data)
        refs.append((f"{number}.jpg", hashlib.sha256(data).hexdigest()))
    tiny = Preprocessing(4, 4, "bilinear", HOW.mean, HOW.std)
    window = decoders.Window(BATCH, PARALLEL, 1, 4)
    processes = decoders.Processes(1, parts=1, images=extraction.PART_VIEWS, window=window)
    who: dict[str, Decoders] = {"threads": Threads(), "processes": processes}
    with idle_engine(tiny):
        timings = [{name: timed_part(specification(folder), refs, chosen)[1] for name, chosen in who.items()}
                   for _ in range(rounds + 1)]  # fmt: skip
    processes.pool.shutdown()
    return {name: median(timing[name] for timing in timings[1:]) for name in who}


def specification(folder: Path) -> Spec:
    """An extraction of one view."""
    return Spec(
        folder, "idle", "random", "pooled", "auto", "crop", "float32", "float16", BATCH, "cpu", (views.EVALUATION,),
        AUGMENT, "torch",
    )  # fmt: skip


def scaling_table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown."""
    lines = ["| cores | who decodes | images/s | per core | one more core brings |", "|---|---|---|---|---|"]
    for row in rows:
        fewer = [other for other in rows if other["who"] == row["who"] and other["cores"] == row["cores"] - 1]
        speed = row["images/s"]
        more = f"{speed - fewer[0]['images/s']:.0f}" if fewer else ""
        lines.append(f"| {row['cores']} | {row['who']} | {speed:.0f} | {speed / row['cores']:.0f} | {more} |")
    return "\n".join(lines)


# --- shrinking


def enlarged(data: bytes, size: tuple[int, int]) -> bytes:
    """A JPEG of another size with the same picture."""
    stream = io.BytesIO()
    with Pillow.open(io.BytesIO(data)) as image:
        image.convert("RGB").resize(size, Pillow.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def shrinking(files: Sequence[bytes], rounds: int) -> dict[str, dict[str, float]]:
    """CPU milliseconds per image both ways, and the median ratio over pairs of the same image, for each size."""
    pictures = files[:: max(1, len(files) // 8)][:8]
    results = {}
    for name, size in (("12 megapixels", LARGE), ("500 x 375", SMALL)):
        pairs = [
            (timed(lambda data=data: whole(data)), timed(lambda data=data: shrunk(data)))  # type: ignore[misc]
            for _ in range(rounds + 1)
            for data in (enlarged(picture, size) for picture in pictures)
        ][len(pictures) :]  # the first round warms up
        results[name] = {
            "whole, CPU ms": median(before for before, _ in pairs),
            "shrunk, CPU ms": median(after for _, after in pairs),
            "times as fast": median(before / after for before, after in pairs),
        }
    return results


def whole(data: bytes) -> torch.Tensor:
    """The view that the network sees, of the image as it is."""
    return prepare(decode(data), HOW)[0]


def shrunk(data: bytes) -> torch.Tensor:
    """The same, of an image that was shrunk while it was decoded."""
    return prepare(decode_shrunk(data, divisor(data, views.needed_side(views.EVALUATION, HOW)))[0], HOW)[0]


def timed(work: Any) -> float:
    """CPU milliseconds of all threads."""
    began = time.process_time()
    work()
    return 1000 * (time.process_time() - began)


def shrinking_table(results: dict[str, dict[str, float]]) -> str:
    """Markdown."""
    lines = ["| photographs | whole, CPU ms | shrunk, CPU ms | times as fast |", "|---|---|---|---|"]
    for name, row in results.items():
        lines.append(
            f"| {name} | {row['whole, CPU ms']:.1f} | {row['shrunk, CPU ms']:.1f} | {row['times as fast']:.2f} |"
        )
    return "\n".join(lines)


def fidelity(backbone: str, folder: Path, refs: Sequence[ImageRef]) -> dict[str, float]:
    """How images of 12 megapixels, decoded both ways, compare: cosine of the features in float32, and accuracy.

    Accuracy is that of the nearest other image, whose class is the name of its folder.
    """
    from stages.backbones import trunk

    network, about = trunk.load(backbone, "default", cut="pooled", image_size="auto", resize="crop")
    features, differences = [], []
    for path, _ in refs:
        data = enlarged((folder / path).read_bytes(), LARGE)
        by = divisor(data, views.needed_side(views.EVALUATION, about.preprocessing))
        both = [prepare(image, about.preprocessing)[0] for image in (decode(data), decode_shrunk(data, by)[0])]
        with torch.inference_mode():
            (pair,) = network(torch.stack(both).permute(0, 2, 3, 1))
        features.append(torch.nn.functional.normalize(pair, dim=1))
        differences.append(float((both[0].float() - both[1].float()).abs().mean()))
    whole_rows, shrunk_rows = torch.stack(features, 1)
    cosines, labels = (whole_rows * shrunk_rows).sum(1), [Path(path).parent.name for path, _ in refs]
    return {
        "images": len(refs),
        "least cosine": float(cosines.min()),
        "mean cosine": float(cosines.mean()),
        "mean difference of pixels, of 255": float(np.mean(differences)),
        "accuracy, whole": accuracy(whole_rows, labels),
        "accuracy, shrunk": accuracy(shrunk_rows, labels),
    }


def accuracy(rows: torch.Tensor, labels: Sequence[str]) -> float:
    """How often the nearest other row (n, D), all of length 1, has the same label."""
    nearest = (rows @ rows.T).fill_diagonal_(-1).argmax(1)
    return float(np.mean([labels[i] == label for i, label in zip(nearest, labels, strict=True)]))


if __name__ == "__main__":
    main()
