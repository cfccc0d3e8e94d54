"""What the review finds of labels that are flipped on purpose: precision, recall, seconds.

Run it in a checkout after `dvc exp run $(python -m stages.recipe caltech101-lite0)`, from the top folder:
python -m tests.bench.review. Flipped labels get any other class, or the one that the image's class is most often taken
for. `--images 100000` clocks the same on made-up features instead.
"""

import argparse
import resource
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from stages import paths
from stages.datasets import index_file
from stages.features import h5
from stages.params import load
from stages.reviewing import labels, vectors
from stages.reviewing.pixels import Pixels, Thumbnails
from stages.reviewing.suspect import numbers, suspect
from stages.reviewing.vectors import Vectors

SEEDS = (0, 1, 2)
CASES = ((0.02, "any"), (0.05, "any"), (0.1, "any"), (0.05, "most confused"))
Labels = npt.NDArray[np.int64]


class Score(NamedTuple):
    """Precision of the k most suspected images, k labels being flipped; recall of 2 k; seconds of the CPU."""

    precision: float
    recall: float
    seconds: float


def main() -> None:
    """Prints a row per case, or the seconds and the memory for made-up images."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.review", description=main.__doc__)
    parser.add_argument("--images", type=int, help="clock so many made-up images, 1,280 numbers each, 100 classes")
    if count := parser.parse_args().images:
        clock(count)
        return
    described, y, classes = cached()
    print(f"{'share':>6} {'flipped to':14}{'precision at k':>16}{'recall at 2k':>14}{'CPU s':>9}")
    for share, to, score in scores(described, y, classes):
        print(f"{share:6.0%} {to:14}{score.precision:16.3f}{score.recall:14.3f}{score.seconds:9.1f}", flush=True)


def cached() -> tuple[Vectors, Labels, int]:
    """Vectors and labels of the dataset that params.yaml names."""
    params = load()
    described = vectors.load(h5.read(paths.features(params.dataset, params.backbone, params.cut)))
    assert described is not None
    rows = index_file.read(params.dataset)
    names, y = np.unique([rows[image].label for image in described.images], return_inverse=True)
    return described, y.astype(np.int64), len(names)


def scores(described: Vectors, y: Labels, classes: int) -> Iterator[tuple[float, str, Score]]:
    """The mean over SEEDS of every case."""
    taken_for = most_confused(described, y, classes)
    for share, to in CASES:
        each = [score(described, y, classes, share, taken_for if to != "any" else None, seed) for seed in SEEDS]
        yield share, to, Score(*np.mean(each, 0).tolist())


def score(described: Vectors, y: Labels, classes: int, share: float, taken_for: Labels | None, seed: int) -> Score:
    """Flips a share of the labels and looks for them."""
    generator = np.random.default_rng(seed)
    flipped = generator.permutation(len(y))[: round(share * len(y))]
    changed = y.copy()
    other = (y[flipped] + generator.integers(1, classes, len(flipped))) % classes
    changed[flipped] = other if taken_for is None else taken_for[y[flipped]]
    started = time.process_time()
    order = np.argsort(-labels.leave_one_out(described, changed, classes).doubt, kind="stable")
    seconds = time.process_time() - started
    hits = np.isin(order, flipped)
    return Score(hits[: len(flipped)].mean(), hits[: 2 * len(flipped)].sum() / len(flipped), seconds)


def most_confused(described: Vectors, y: Labels, classes: int) -> Labels:
    """(C,): the class that images of each class are most often taken for, by the predictions of all others."""
    left_out = labels.leave_one_out(described, y, classes)
    counts = np.zeros((classes, classes))
    np.add.at(counts, (y, left_out.other), 1 + 1000 * (left_out.doubt > 0))  # mistakes first, then near mistakes
    return counts.argmax(1)


def clock(count: int) -> None:
    """All of the review of made-up images, whose thumbnails are random too; a hundredth of them are copies."""
    generator = np.random.default_rng(0)
    y = generator.integers(0, 100, count)
    centres = generator.normal(size=(100, 1280)).astype(np.float32)
    rows = np.concatenate(
        [(centres[part] + 3 * generator.standard_normal((len(part), 1280), np.float32)).astype(np.float16)
         for part in np.array_split(y, max(1, count // 2048))]
    )  # fmt: skip
    thumbnails = generator.integers(0, 256, (count, 32, 32, 3), np.uint8)
    copies = np.arange(0, count - 1, 100)
    rows[copies + 1], thumbnails[copies + 1] = rows[copies], thumbnails[copies]
    images = [index_file.IndexRow(f"{n}.jpg", f"{n:064x}", 320, 240, f"class {y[n]}", (), None) for n in range(count)]
    members = {"features/pooled": rows[:, None], "ok": np.ones(count, "u1")}
    looks = np.exp(generator.normal(size=(3, count))).astype(np.float32)
    pixels = Pixels(
        np.ones(count, bool), Thumbnails(thumbnails, np.arange(count)), 50 + looks[0], looks[1], 30 + looks[2]
    )
    held, before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    started = time.perf_counter()
    suspected, checked = suspect(
        images,
        split_names=["train", "test"] * (count // 2) + ["val"] * (count % 2),
        conflicts=[],
        features=h5.Features(members, {}),
        pixels=pixels,
    )
    seconds, cpu = time.perf_counter() - started, time.process_time() - before
    counts = {name: value for name, value in numbers(suspected, pixels, checked).items() if value}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"{count:,} images: {seconds:.1f} s, {cpu:.0f} s of the CPU; {peak / 1e6:.2f} GB at most, of which "
        f"{held / 1e6:.2f} before the review; {counts}"
    )


if __name__ == "__main__":
    main()
