"""How many images of classes that were never trained on count as unknown, at which cost.

Run it in a checkout with features, such as after `dvc exp run $(python -m stages.recipe caltech101-lite0)`, from the
top folder: python -m tests.bench.unknown. A fifth of the classes is held out; of the others half trains, a quarter is
val and a quarter test.
"""

from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

from stages.datasets import index_file
from stages.evaluation import unknown
from stages.params import Params, load
from stages.training.data import load_data

SEEDS = (0, 1, 2)
SHARES = (0.01, 0.02, 0.05, 0.1)
HELD_OUT = 0.2  # of the classes


class Row(NamedTuple):
    """The share of known test images and of images of held-out classes that are unknown, and how well they part."""

    known: float
    held_out: float
    auroc: float


def main() -> None:
    """Prints a row per value of `decide.unknown`, the mean over SEEDS."""
    params = load()
    rows = np.array([measure(params, seed) for seed in SEEDS])
    print(f"{'decide.unknown':>14}{'of known test images':>22}{'of held-out classes':>21}{'AUROC':>8}")
    for share, values in zip(SHARES, rows.mean(0), strict=True):
        print(f"{share:14.0%}{values[0]:22.1%}{values[1]:21.1%}{values[2]:8.3f}")
    print(f"AUROC of each seed: {', '.join(f'{auroc:.3f}' for auroc in rows[:, 0, 2])}")


def measure(params: Params, seed: int) -> list[Row]:
    """A row for each of SHARES."""
    generator, images = np.random.default_rng(seed), index_file.read(params.dataset)
    classes = sorted({row.label for row in images} - {""})
    held_out = set(generator.permutation(classes)[: round(HELD_OUT * len(classes))].tolist())
    known = generator.permutation([row.sha256 for row in images if row.label and row.label not in held_out]).tolist()
    half, three = len(known) // 2, 3 * len(known) // 4
    parts = {"train": known[:half], "val": known[half:three], "test": known[three:]}
    parts["held out"] = [row.sha256 for row in images if row.label in held_out]
    splits = load_data(params, parts).splits
    rows = []
    for share in SHARES:
        learned = unknown.learn(splits, share)
        assert learned
        test, other = (learned.similarity(splits[name]).numpy() for name in ("test", "held out"))
        ranks = rankdata(np.concatenate([test, other]))[: len(test)]
        auroc = (ranks.sum() - len(test) * (len(test) + 1) / 2) / (len(test) * len(other))
        rows.append(Row((test < learned.least).mean(), (other < learned.least).mean(), auroc))
    return rows


if __name__ == "__main__":
    main()
