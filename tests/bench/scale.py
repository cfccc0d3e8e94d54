"""What a dataset of COCO's size costs each stage: seconds, and the most memory that its process held.

Tiny images with 7.3 boxes each in 80 classes are made up in a temporary folder, and so are the weights; a head for
boxes trains for one epoch: python -m tests.bench.scale [--images 118000] [--stages index,split] [--folder DIR]
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from PIL import Image
from tqdm import tqdm

from stages import paths

REPO = Path(__file__).parents[2]
OUT = paths.TIMINGS / "bench-scale.json"
STAGES = ("index", "split", "extract", "review", "lr_sweep", "train", "evaluate", "report")
SIDE, CLASSES, DETECTION = 32, 80, 7.3  # pixels; classes and mean boxes an image of COCO's 118,287 train images
KNOBS = {"dataset": "coco", "backbone": "resnet18", "weights": "random", "cut": "map", "image_size": 64,
         "head": "grid", "monitor": "val_map_50", "epochs": 1, "hidden": 32}  # fmt: skip


class Cost(NamedTuple):
    """What a process took."""

    seconds: float
    cpu: float  # seconds of all its threads
    megabytes: float


def main() -> None:
    """Prints a table and writes the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--stages", default=",".join(STAGES), help="those to run, with commas between")
    parser.add_argument("--folder", help="where to make up the dataset; else where temporary files go")
    given = parser.parse_args()
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
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", f"stages.{stage}", "-q"], cwd=home, env=environment)
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if status:
        sys.exit(f"{stage} failed")
    return Cost(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


if __name__ == "__main__":
    main()
