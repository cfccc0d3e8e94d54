"""Made-up features and pixels that the tests of this room share."""

import numpy as np

from stages.datasets.index_file import IndexRow
from stages.features.h5 import Features
from stages.reviewing import vectors
from stages.reviewing.vectors import Vectors


def clusters(classes: int, each: int, width: int = 16, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (classes x each, width) float16 around one centre per class, and their labels."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(0, 3, (classes, width))
    labels = np.repeat(np.arange(classes), each)
    return (centres[labels] + generator.normal(0, 1, (len(labels), width))).astype(np.float16), labels


def whole(rows: np.ndarray) -> Vectors:
    """All rows as vectors."""
    return vectors.of_rows(rows, np.arange(len(rows)))


def features(rows: np.ndarray, *, layer: str = "pooled", ok: np.ndarray | None = None) -> Features:
    """A feature file in memory with one view of each image."""
    members = {f"features/{layer}": rows[:, None], "ok": np.ones(len(rows), "u1") if ok is None else ok}
    return Features(members, {})


def row(number: int, label: str = "ant", *, width: int = 100, height: int = 80, objects: tuple = ()) -> IndexRow:
    """A line of an index."""
    return IndexRow(f"{label}/{number}.jpg", f"{number:064x}", width, height, label, objects, None)
