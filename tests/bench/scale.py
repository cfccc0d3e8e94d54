"""What a large dataset costs each stage: seconds, and the most memory that its process held.

Of COCO's size, by default: tiny images with 7.3 boxes each in 80 classes are made up in a temporary folder, and so are
the weights; a head for boxes trains for one epoch: python -m tests.bench.scale [--images 118000] [--stages index,split]

Of many rows: tiny images in 100 classes, and features of 1,280 numbers that are made up, on which each head trains, is
judged and gets its page: python -m tests.bench.scale --rows 100000 300000 1000000 [--heads linear mlp auto]
[--classes 10000]. It exits with 1 where a stage holds more than 4 GB of its own; `own` are pages of no file.
"""

import argparse
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import yaml
from PIL import Image
from tqdm import tqdm

from stages import paths
from stages.features import h5

REPO = Path(__file__).parents[2]
OUT = paths.TIMINGS / "bench-scale.json"
STAGES = ("index", "split", "extract", "review", "lr_sweep", "train", "evaluate", "report")
SIDE, CLASSES, DETECTION = 32, 80, 7.3  # pixels; classes and mean boxes an image of COCO's 118,287 train images
KNOBS = {"dataset": "coco", "backbone": "resnet18", "weights": "random", "cut": "map", "image_size": 64,
         "head": "grid", "monitor": "val_map_50", "epochs": 1, "hidden": 32}  # fmt: skip


ROW_STAGES, HEAD_STAGES = ("index", "split", "review"), ("train", "evaluate", "report")
HEADS = ("linear", "mlp", "auto")
NUMBERS, ROW_CLASSES = 1280, 100
ROW_KNOBS = {"dataset": "folder", "backbone": "efficientnet_lite0", "epochs": 10, "refit": "none"}
BOUND = 4096  # MB of its own that a stage may hold
EVERY = 0.2  # seconds between two looks at the memory


class Cost(NamedTuple):
    """What a process took."""

    seconds: float
    cpu: float  # seconds of all its threads
    megabytes: float
    own: float = 0.0  # megabytes that are pages of no file, its children's too


def main() -> None:
    """Prints a table and writes the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--stages", default=",".join(STAGES), help="those to run, with commas between")
    parser.add_argument("--rows", type=int, nargs="+", help="numbers of rows with made-up features, each in its turn")
    parser.add_argument("--heads", nargs="+", default=list(HEADS), help="that train on the rows")
    parser.add_argument("--classes", type=int, default=ROW_CLASSES, help="of the rows")
    parser.add_argument("--folder", help="where to make up the dataset; else where temporary files go")
    given = parser.parse_args()
    if given.rows:
        sys.exit(of_rows(given.rows, given.heads, given.stages.split(","), given.folder, given.classes))
    found = {}
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        objects = make_up(Path(folder) / "images", given.images)
        write_params(Path(folder))
        print(f"{given.images:,} images, {objects:,} boxes", "", "| stage | s | s of the CPU | MB |", sep="\n")
        print("|---|---|---|---|", flush=True)
        for stage in given.stages.split(","):
            cost = found[stage] = run(stage, Path(folder))
            print(f"| {stage} | {cost.seconds:.1f} | {cost.cpu:.1f} | {cost.megabytes:,.0f} |", flush=True)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    costs = {stage: cost._asdict() for stage, cost in found.items()}
    OUT.write_text(json.dumps({"images": given.images, "objects": objects, "stages": costs}, indent=1) + "\n")


def make_up(folder: Path, images: int) -> int:
    """Writes noise and COCO's JSON; returns how many boxes there are."""
    folder.mkdir()
    rng, described, objects = np.random.default_rng(0), [], list[dict[str, object]]()
    for number in tqdm(range(images), "made up", unit=" images", delay=2):
        stream = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(stream, "JPEG", quality=30)
        (folder / f"{number:06}.jpg").write_bytes(stream.getvalue())
        described.append({"id": number, "file_name": f"{number:06}.jpg", "width": SIDE, "height": SIDE})
        for x, y, width, height in rng.uniform(1, SIDE / 2, (rng.poisson(DETECTION), 4)).round(2).tolist():
            box = {"image_id": number, "category_id": int(rng.integers(CLASSES)), "bbox": [x, y, width, height]}
            objects.append(box | {"id": len(objects) + 1, "area": width * height, "iscrowd": 0})
    names = [{"id": number, "name": f"class {number:02}"} for number in range(CLASSES)]
    text = json.dumps({"images": described, "annotations": objects, "categories": names})
    (folder / "all.json").write_text(text)
    return len(objects)


def write_params(home: Path) -> None:
    """The params.yaml of the checkout with the knobs of this run."""
    tree = yaml.safe_load((REPO / paths.PARAMS).read_text()) | KNOBS | {"root": str(home / "images")}
    tree["datasets"]["coco"]["annotations"]["all"] = "all.json"
    (home / paths.PARAMS).write_text(yaml.safe_dump(tree))


def run(stage: str, home: Path) -> Cost:
    """Runs a stage as DVC does.

    Raises:
        SystemExit: it failed; its messages came before.
    """
    environment = os.environ | {"PYTHONPATH": str(REPO), "DVC_ROOT": str(home)}
    started, own = time.perf_counter(), 0.0
    process = subprocess.Popen([sys.executable, "-m", f"stages.{stage}", "-q"], cwd=home, env=environment)
    while True:
        number, status, used = os.wait4(process.pid, os.WNOHANG)
        if number:
            break
        own = max(own, own_memory(process.pid))
        time.sleep(EVERY)
    seconds = time.perf_counter() - started
    if status:
        sys.exit(f"{stage} failed")
    return Cost(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, own)


def own_memory(number: int) -> float:
    """Megabytes of a process and its children that are pages of no file."""
    total = 0.0
    with suppress(psutil.Error, OSError):
        for process in (psutil.Process(number), *psutil.Process(number).children(recursive=True)):
            pages = re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())
            total += int(pages[1]) / 1024 if pages else 0  # it may have ended
    return total


def of_rows(counts: list[int], heads: list[str], stages: list[str], folder: str | None, classes: int) -> int:
    """Prints a table for each number of rows, with seconds and memory per row; 1 where a stage is above BOUND."""
    found = dict[int, dict[str, Cost]]()
    for count in counts:
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            home = Path(temporary)
            draw_tiny(home / "images", count, classes)
            print(f"\n{count:,} rows of {NUMBERS:,} numbers in {classes:,} classes\n")
            print("| stage | s | s of the CPU | own, MB | own, kB per row |")
            print("|---|---|---|---|---|", flush=True)
            found[count] = costs = {}
            for stage, head in [
                *product(ROW_STAGES, [""]),
                *((stage, head) for head in heads for stage in HEAD_STAGES),
            ]:
                write_row_params(home, head or "linear")
                if stage == "review":
                    make_up_features(home, classes)
                if stage not in stages:
                    continue
                name = f"{stage} {head}".strip()
                cost = costs[name] = run(stage, home)
                per_row = 1024 * cost.own / count
                print(f"| {name} | {cost.seconds:.1f} | {cost.cpu:.1f} | {cost.own:,.0f} | {per_row:.1f} |", flush=True)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    values = {count: {name: cost._asdict() for name, cost in costs.items()} for count, costs in found.items()}
    (OUT.parent / "bench-scale-rows.json").write_text(json.dumps(values, indent=1) + "\n")
    return int(max((cost.own for costs in found.values() for cost in costs.values()), default=0) > BOUND)


def draw_tiny(folder: Path, count: int, classes: int) -> None:
    """Noise of 4 x 4 pixels that all differ, a folder a class."""
    for label in range(classes):
        (folder / f"{label:03}").mkdir(parents=True)
    stream = io.BytesIO()
    Image.new("RGB", (4, 4)).save(stream, "BMP")
    start, noise = stream.getvalue()[:-48], np.random.default_rng(0)  # a BMP ends with its pixels as they are
    for number in tqdm(range(count), "drawn", unit=" images", delay=2):
        path = folder / f"{number % classes:03}" / f"{number:07}.bmp"
        path.write_bytes(start + noise.bytes(44) + number.to_bytes(4, "little"))


def write_row_params(home: Path, head: str) -> None:
    tree = yaml.safe_load((REPO / paths.PARAMS).read_text()) | ROW_KNOBS | {"root": str(home / "images"), "head": head}
    (home / paths.PARAMS).write_text(yaml.safe_dump(tree))


def make_up_features(home: Path, classes: int) -> None:
    """Noise around a centre for each class, in the order of the index, and what other stages would leave."""
    lines = [json.loads(line) for line in (home / paths.index("folder")).read_text().splitlines()]
    centres = np.random.default_rng(1).normal(size=(classes, NUMBERS)).astype(np.float32)
    members = h5.layout(len(lines), 1, {"pooled": ((NUMBERS,), "f2")})

    def pieces() -> Iterator[tuple[int, dict[str, h5.Array]]]:
        for first in range(0, len(lines), 8192):
            part = lines[first : first + 8192]
            labels = np.array([int(line["label"]) for line in part])
            noise = np.random.default_rng(first).standard_normal((len(part), NUMBERS), np.float32)
            yield (
                first,
                {
                    "features/pooled": (centres[labels] + 6 * noise).astype("f2")[:, None],
                    "sha256": np.array([line["sha256"] for line in part], "S64"),
                    "ok": np.ones(len(part), "u1"),
                    "views": np.zeros((len(part), 1, 2, 3), "f4"),
                },
            )

    network = {"backbone": "efficientnet_lite0", "cut": "pooled", "parameters": 0, "image_size": 224}
    provenance = network | {"views": ["evaluation"], "preprocessing": "made up", "versions": {}}
    out = home / paths.features("folder", "efficientnet_lite0", "pooled")
    h5.write(out, members=members, provenance=provenance, pieces=pieces())
    out.with_suffix(".bad.json").write_text("[]")
    (home / paths.PLOTS).mkdir(parents=True, exist_ok=True)
    (home / paths.REPORTS / "lr_sweep.json").write_text("{}")
    (home / paths.PLOTS / "lr_sweep.csv").write_text("lr,loss,smoothed\n")


if __name__ == "__main__":
    main()
