"""A large folder of tiny images through all stages, under DVC: seconds and peak memory of each stage at several sizes.

Run it from the top folder of a checkout: python -m tests.bench.folder [--images 10000 100000] [-S KNOB=VALUE ...]

Memory is what a stage and its children held in all, looked at ten times a second; of it `own` is not pages of files,
which the system takes back when it needs them. In a checkout and a folder made for it.
"""

import argparse
import io
import json
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from tests import checkout
from tests.bench.experiment import timed
from tests.checkout import Project

OUT = checkout.REPO / "cache/timings/bench-folder.json"
CLASSES, SIDE = 100, 32
KNOBS = ["image_size=64", "head=linear", "epochs=10"]
EVERY = 0.1  # seconds
MIB = 2**20
COLUMNS = ("stage", "seconds", "peak, MiB", "own, MiB")
Peaks = dict[str, tuple[float, float]]


def main() -> None:
    """Prints a table for each size and writes the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("-S", dest="knobs", action="append", default=[], metavar="KNOB=VALUE", help="as dvc exp run")
    given = parser.parse_args()
    found = {}
    for count in given.images:
        with tempfile.TemporaryDirectory() as folder:
            project = checkout.fresh(Path(folder) / "project")
            draw(project.images, count)
            found[count] = measure(project, [*KNOBS, *given.knobs])
        print(f"\n{count:,} images\n")
        print(f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|", sep="\n")
        for stage, row in found[count].items():
            shown = [f"{row[key]:.1f}" if key in row else "" for key in ("seconds", "peak", "own")]
            print(f"| {stage} | {' | '.join(shown)} |", flush=True)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(found, indent=1) + "\n")


def draw(folder: Path, count: int) -> None:
    """Distinct small JPEGs, a folder a class, a colour a class."""
    colours = np.random.default_rng(0).integers(0, 128, (CLASSES, 3))
    for name in range(CLASSES):
        (folder / f"{name:03}").mkdir(parents=True)
    for number in range(count):
        name = number % CLASSES
        noise = np.random.default_rng(number).integers(0, 128, (SIDE, SIDE, 3))
        stream = io.BytesIO()
        Image.fromarray((noise + colours[name]).astype(np.uint8)).save(stream, "JPEG")
        (folder / f"{name:03}" / f"{number}.jpg").write_bytes(stream.getvalue())


def measure(project: Project, knobs: list[str]) -> dict[str, dict[str, float]]:
    """Seconds and memory of each stage; seconds of DVC's first run, and the least of three with nothing to do."""
    settings = [part for knob in ["dataset=folder", f"root={project.images}", *knobs] for part in ("-S", knob)]
    with watched() as peaks:
        first = timed(project, "dvc", "exp", "run", *settings)
    project.commit("first run")
    again = min(timed(project, "dvc", "repro") for _ in range(3))
    found = {}
    for stage, (peak, own) in peaks.items():
        kept = project.home / "cache/timings" / f"{stage}.json"
        if kept.is_file():
            found[stage] = {"seconds": json.loads(kept.read_text())["seconds"], "peak": peak, "own": own}
    return found | {"`dvc exp run`, all of it": {"seconds": first}, "`dvc repro`, nothing to do": {"seconds": again}}


@contextmanager
def watched() -> Iterator[Peaks]:
    """The most that each stage below this process holds while the context lasts, by its name."""
    peaks, done, python = Peaks(), threading.Event(), psutil.Process().exe()

    def look() -> None:
        while not done.wait(EVERY):
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    note(process)

    def note(process: psutil.Process) -> None:
        stage = re.search(r"-m stages\.(\w+)$", " ".join(process.cmdline()))
        if stage and process.exe() == python:
            family = [process, *process.children(recursive=True)]
            held = [each.memory_info() for each in family]
            total = sum(info.rss for info in held) / MIB
            own = sum(info.rss - info.shared for info in held) / MIB
            peaks[stage[1]] = tuple(map(max, peaks.get(stage[1], (0.0, 0.0)), (total, own)))  # type: ignore[assignment]

    watching = threading.Thread(target=look)
    watching.start()
    try:
        yield peaks
    finally:
        done.set()
        watching.join()


if __name__ == "__main__":
    sys.exit(main())
