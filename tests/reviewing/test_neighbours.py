import numpy as np
import pytest

from stages.reviewing import neighbours
from tests.reviewing.data import clusters, whole


@pytest.mark.parametrize("compared_with_all", [4096, 50], ids=["all", "cells"])
def test_copies_are_nearest(compared_with_all: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "ALL", compared_with_all)
    rows, _ = clusters(10, 30)
    rows[100], rows[299] = rows[7] + 0.01, rows[150] + 0.01
    pairs = neighbours.nearest(whole(rows))
    together = set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    assert {(7, 100), (150, 299)} <= together
    assert (pairs.first < pairs.second).all() and len(together) == len(pairs.first)
    nearest, cosine = neighbours.closest(pairs, len(rows))
    assert nearest[[7, 100, 150, 299]].tolist() == [100, 7, 299, 150] and cosine[7] > 0.99


def test_closest_is_the_largest_cosine_of_an_image() -> None:
    pairs = neighbours.Pairs(np.array([0, 0, 1]), np.array([1, 2, 2]), np.array([0.5, 0.9, 0.1], np.float32))
    nearest, cosine = neighbours.closest(pairs, 4)
    assert nearest.tolist() == [2, 0, 0, -1]
    assert cosine == pytest.approx([0.9, 0.5, 0.9, -1])
