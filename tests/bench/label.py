"""Accuracy against the number of labels: images chosen by `stages.label`, and drawn at random.

Run it in a checkout after `dvc exp run $(python -m stages.recipe caltech101-lite0)`, from the top folder:
python -m tests.bench.label. The pool is train and val, whose labels are hidden until they are asked for; ridge
regression on those that are known is judged on test. Every figure is the mean over SEEDS.
"""

import argparse
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from stages import paths
from stages.datasets import index_file, splits
from stages.features import h5
from stages.labelling import selection
from stages.params import load
from stages.reviewing import labels, vectors
from stages.reviewing.vectors import Vectors

SEEDS = (0, 1, 2)
BATCH = 200  # images that are labelled at a time
SHOWN = (200, 400, 800, 1600)
Positions = npt.NDArray[np.int64]


def main() -> None:
    """Prints a row per number of labels."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.label", description=main.__doc__)
    parser.add_argument("--labels", type=int, default=SHOWN[-1], help="how many labels to end with")
    count = parser.parse_args().labels
    pool, test, y, classes = cached()
    print(f"pool {len(pool):,}, test {len(test):,}, {classes} classes; all labels: "
          f"{judge(pool, test, y, pool.images, classes):.3f}")  # fmt: skip
    print(f"{'labels':>7}{'chosen':>9}{'random':>9}")
    chosen = [active(pool, y, classes, count=count, seed=seed) for seed in SEEDS]
    drawn = [np.random.default_rng(seed).permutation(pool.images) for seed in SEEDS]
    for number in [number for number in SHOWN if number <= count]:
        scores = [
            np.mean([judge(pool, test, y, images[:number], classes) for images in order]) for order in (chosen, drawn)
        ]
        print(f"{number:7,}{scores[0]:9.3f}{scores[1]:9.3f}", flush=True)


def cached() -> tuple[Vectors, Vectors, Positions, int]:
    """Vectors of train and val together and of test, the class of every image, and how many classes there are."""
    params = load()
    features = h5.read(paths.features(params.dataset, params.backbone, params.cut))
    rows, split = index_file.read(params.dataset), splits.read(params.dataset)
    names, y = np.unique([row.label for row in rows], return_inverse=True)
    described = vectors.load(features)
    assert described is not None
    tested = np.isin(np.array(features.sha256)[described.images], split["test"])
    pool = vectors.of_rows(described.rows, described.images[~tested])
    return pool, replace(pool, images=described.images[tested]), y.astype(np.int64), len(names)


def active(pool: Vectors, y: Positions, classes: int, *, count: int, seed: int) -> Positions:
    """The images of the pool in the order in which they are labelled, BATCH at a time."""
    known = np.empty(0, np.int64)
    while len(known) < count:
        asked = replace(pool, images=np.setdiff1d(pool.images, known))
        labelled = replace(pool, images=known)
        positions = selection.choose(asked, labelled, y[known], classes=classes, number=BATCH, seed=seed)
        known = np.concatenate([known, asked.images[positions]])
    return known


def judge(pool: Vectors, test: Vectors, y: Positions, known: Positions, classes: int) -> float:
    """Top-1 on test with the labels of some images of the pool."""
    values = labels.predict(replace(pool, images=known), y[known], classes, test)
    return float((values.argmax(1) == y[test.images]).mean())


if __name__ == "__main__":
    main()
