"""Which images are shown follows from the numbers alone."""

import numpy as np
import pytest

from stages.datasets.index_file import IndexRow
from stages.reporting import choose
from stages.reporting.predictions import ClassPredictions, Counts


def row(label: str, number: int = 0) -> IndexRow:
    return IndexRow(f"{label}/{number}", f"{label}{number}", 4, 4, label, (), None)


@pytest.fixture
def judged() -> ClassPredictions:
    """Eight images of four classes: two right of each of the first three, two mistakes of the last."""
    labels = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    chosen = np.array([0, 0, 1, 1, 2, 2, 0, 0])
    sure = np.array([0.9, 0.8, 0.95, 0.5, 0.6, 0.7, 0.55, 0.85], np.float32)
    p = np.zeros((8, 4), np.float32) + ((1 - sure) / 3)[:, None].astype(np.float32)
    p[np.arange(8), chosen] = sure
    return ClassPredictions(labels, p)


def test_right_spreads_over_confidence_and_classes(judged: ClassPredictions) -> None:
    picked = choose.right(judged, 3)
    assert picked[0] == 2 and {int(judged.labels[place]) for place in picked} == {0, 1, 2}
    assert sorted(choose.right(judged, 10)) == [0, 1, 2, 3, 4, 5]
    assert len(set(choose.right(judged, 5))) == 5


def test_wrong_starts_with_the_surest(judged: ClassPredictions) -> None:
    assert choose.wrong(judged, 5) == [7, 6]


def test_uncertain_has_the_flattest(judged: ClassPredictions) -> None:
    assert choose.uncertain(judged, 2) == [3, 6]


def test_members_show_mistakes_first(judged: ClassPredictions) -> None:
    assert choose.members(judged, 3, 8) == [7, 6] and choose.members(judged, 0, 1) == [0]


def test_confused_counts_pairs(judged: ClassPredictions) -> None:
    assert choose.confused(judged, list("abcd"), 9) == [choose.Confused("d", "a", 2, 2, 7)]


def test_counts_are_those_of_a_matrix(judged: ClassPredictions) -> None:
    counts, matrix = judged.confusion(), np.zeros((4, 4), np.int64)
    np.add.at(matrix, (judged.labels, judged.chosen), 1)
    assert counts.pairs() == [(a, p, matrix[a, p]) for a, p in np.argwhere(matrix)] == Counts.dense(matrix).pairs()
    assert counts.totals.tolist() == matrix.sum(1).tolist() and counts.right == matrix.trace() == 6


def test_the_classes_with_the_most_mistakes_are_those_of_a_small_matrix() -> None:
    actual = np.array([0, 1, 2, 5, 5, 7, 9, 9, 9])
    counts = Counts.of(actual, np.array([0, 1, 2, 7, 7, 7, 5, 3, 9]), 10)
    assert counts.most_mistaken(3) == [5, 7, 9]  # 5 in three mistakes, 7 and 9 in two each
    assert counts.most_mistaken(10) == [*range(10)] and counts.most_mistaken(11) == [*range(10)]


def test_samples_spread_over_classes() -> None:
    rows = [row(label, number) for label in "abc" for number in range(3)]
    assert [found.label for found in choose.samples(rows, 5)] == ["a", "b", "c", "a", "b"]
    assert [found.label for found in choose.samples(rows, 2)] == ["a", "c"]
    assert len(choose.samples(rows, 99)) == 9
