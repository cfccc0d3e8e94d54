"""The clock of a day's work, DVC included: nothing to do, another learning rate, ten images more.

In a checkout made for it, on images with a folder a class, or on made-up ones; your own folder is only read:
python -m tests.bench.experiment [--images FOLDER] [-S KNOB=VALUE ...] [--rounds 3]

It also tells where the seconds of another learning rate go in each stage (clock/sitecustomize.py), and with --against
COMMIT how many times as long they take as with the code of that commit, in turn.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import pytest
from PIL import Image

from tests import checkout
from tests.checkout import Project

OUT = checkout.REPO / "cache/timings/bench-experiment.json"
MORE = 10  # images that come in a round
CLASSES, EACH = 10, 100  # of made-up images


def main() -> None:
    """Prints a table of seconds and writes them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="a folder with a folder a class, of which a copy is used")
    parser.add_argument(
        "-S", dest="knobs", action="append", default=[], metavar="KNOB=VALUE", help="as for dvc exp run"
    )
    parser.add_argument("--rounds", type=int, default=3, help="medians of them are shown")
    parser.add_argument("--against", metavar="COMMIT", help="the code to compare another learning rate with")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        project, later = checkout.fresh(Path(folder) / "project"), Path(folder) / "later"
        if given.images:
            shutil.copytree(given.images, project.images)
        else:
            make_up(project.images)
        hold_back(project.images, later, given.rounds * MORE)
        found = measure(project, later, given.knobs, given.rounds)
        parts = anatomy(project, Path(folder) / "clock")
        against = compare(project, Path(folder), given.against, given.knobs, given.rounds) if given.against else {}
    print("|  | seconds (median) | each |", "| --- | --- | --- |", sep="\n")
    for what, seconds in found.items():
        print(f"| {what} | {median(seconds):.1f} | {', '.join(f'{one:.1f}' for one in seconds)} |")
    print("", "| of one | start | imports | reading | writing | work | all |", "|---" * 7 + "|", sep="\n")
    for stage, values in parts.items():
        print(f"| {stage} | {' | '.join(f'{value:.2f}' for value in values.values())} |")
    for what, seconds in against.items():
        print(f"{what}: {median(seconds):.2f} ({', '.join(f'{one:.2f}' for one in seconds)})")
    OUT.parent.mkdir(parents=True, exist_ok=True)
    told = {"images": str(given.images), "knobs": given.knobs, "seconds": found, "parts": parts, "against": against}
    OUT.write_text(json.dumps(told, indent=1) + "\n")


def make_up(images: Path) -> None:
    """Photographs of nothing, a colour a class, 300 x 240 pixels."""
    generator = np.random.default_rng(0)
    for name in range(CLASSES):
        (images / str(name)).mkdir(parents=True)
        colour = generator.integers(0, 128, 3)
        for number in range(EACH):
            blocks = (generator.integers(0, 128, (8, 10, 3)) + colour).astype(np.uint8)
            picture = Image.fromarray(blocks).resize((300, 240), Image.Resampling.BICUBIC)
            picture.save(images / str(name) / f"{number}.jpg", quality=90)


def hold_back(images: Path, later: Path, count: int) -> None:
    """Takes some images away, which come back ten at a time."""
    files = sorted(path for path in images.rglob("*") if path.is_file())
    for number in np.random.default_rng(0).choice(len(files), count, replace=False):
        target = later / files[number].relative_to(images)
        target.parent.mkdir(parents=True, exist_ok=True)
        files[number].rename(target)


def measure(project: Project, later: Path, knobs: list[str], rounds: int) -> dict[str, list[float]]:
    """Seconds of each kind of run, one a round, taken in turn."""
    settings = [part for knob in ["dataset=folder", f"root={project.images}", *knobs] for part in ("-S", knob)]
    found = {"the first run, all images but those": [timed(project, "dvc", "exp", "run", *settings)]}
    kinds = "`dvc repro`, nothing to do", "`dvc exp run -S lr=…`", f"{MORE} images more, `dvc repro`", "to its metrics"
    found |= {kind: [] for kind in kinds}
    held = sorted(path for path in later.rglob("*") if path.is_file())
    for number in range(rounds):
        project.commit("what a person does now and then; experiments start from a commit")
        found[kinds[0]].append(timed(project, "dvc", "repro"))
        found[kinds[1]].append(timed(project, "dvc", "exp", "run", "-S", f"lr={0.0011 + 0.0004 * number:.4f}"))
        for path in held[number * MORE : (number + 1) * MORE]:
            path.rename(project.images / path.relative_to(later))
        started = time.time()
        found[kinds[2]].append(timed(project, "dvc", "repro"))
        found[kinds[3]].append((project.home / "reports/metrics.json").stat().st_mtime - started)
    return found


def anatomy(project: Project, folder: Path) -> dict[str, dict[str, float]]:
    """Where the seconds of another learning rate go, stage by stage, and what DVC takes around them."""
    folder.mkdir()
    project.commit("before the anatomy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).with_name("clock")))
        patch.setenv("COLDCUT_CLOCK", str(folder))
        total = timed(project, "dvc", "exp", "run", "-S", "lr=0.00073")
    stages = [json.loads(path.read_text()) for path in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime)]
    parts = {}
    for values in stages:
        name, everything = values.pop("stage"), values.pop("all")
        parts[name] = {**values, "work": everything - sum(values.values()), "all": everything}
    outside = total - sum(values["all"] for values in parts.values())
    return parts | {
        "DVC": {"start": 0.0, "imports": 0.0, "reading": 0.0, "writing": 0.0, "work": outside, "all": outside}
    }


def compare(project: Project, folder: Path, commit: str, knobs: list[str], rounds: int) -> dict[str, list[float]]:
    """Seconds of another learning rate with the code of a commit and with that of now, in turn, and their ratio."""
    source = folder / "source"
    subprocess.run(["git", "clone", "-q", str(checkout.REPO), str(source)], check=True)
    subprocess.run(["git", "checkout", "-q", commit], cwd=source, check=True)
    subprocess.run(
        [sys.executable, "-c", "import sys; from pathlib import Path; from tests import checkout\n"
         "checkout.fresh(Path(sys.argv[1]))", str(folder / "before/project")], cwd=source, check=True,
    )  # fmt: skip
    before = Project(folder / "before/project")
    settings = [part for knob in ["dataset=folder", f"root={project.images}", *knobs] for part in ("-S", knob)]
    before.run("dvc", "exp", "run", *settings)
    seconds: dict[str, list[float]] = {commit: [], "now": []}
    for number in range(rounds):
        for name, one in ((commit, before), ("now", project)):
            one.commit("before another learning rate")
            seconds[name].append(timed(one, "dvc", "exp", "run", "-S", f"lr={0.0021 + 0.0004 * number:.4f}"))
    ratios = [now / then for now, then in zip(seconds["now"], seconds[commit], strict=True)]
    return seconds | {"now, in multiples of that": ratios}


def timed(project: Project, *command: str) -> float:
    """Seconds of a command, by the clock; what it said is shown where it fails."""
    started = time.perf_counter()
    project.run(*command)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
