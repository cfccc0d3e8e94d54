import numpy as np
import pytest
import torch

from stages.reviewing import labels, vectors
from stages.reviewing.vectors import Vectors
from tests.reviewing.data import clusters, whole


def solved_without(described: Vectors, y: np.ndarray, image: int, classes: int, strength: float) -> np.ndarray:
    """The prediction for an image by ridge regression with an intercept, solved on all others."""
    x = torch.cat([block for _, block in described.blocks()]).double().numpy()
    others = np.arange(len(y)) != image
    truth = np.eye(classes)[y[others]]
    centre, mean = x[others].mean(0), truth.mean(0)
    centred = x[others] - centre
    penalty = strength * len(y) * np.eye(x.shape[1])
    weights = np.linalg.solve(centred.T @ centred + penalty, centred.T @ (truth - mean))
    return (x[image] - centre) @ weights + mean


@pytest.mark.parametrize("block", [5, 2048])
def test_the_closed_form_is_what_solving_again_gives(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "BLOCK", block)
    rows, y = clusters(3, 6, width=4)
    described = whole(rows)
    found = labels.leave_one_out(described, y, 3)
    for image in range(len(y)):
        expected = solved_without(described, y, image, 3, found.strength)
        assert found.own[image] == pytest.approx(expected[y[image]], abs=1e-4)
        assert found.other_value[image] == pytest.approx(np.delete(expected, y[image]).max(), abs=1e-4)


def test_flipped_labels_are_found_with_their_true_class() -> None:
    rows, true = clusters(8, 40, width=32)
    flipped = np.random.default_rng(0).permutation(len(true))[:16]
    y = true.copy()
    y[flipped] = (true[flipped] + 3) % 8
    found = labels.leave_one_out(whole(rows), y, 8)
    suspected = np.argsort(-found.doubt)[:16]
    assert len(set(suspected) & set(flipped)) >= 15
    assert (found.other[flipped] == true[flipped]).mean() > 0.9


def test_an_image_that_nothing_resembles_decides_nothing() -> None:
    rows, y = clusters(2, 10, width=4)
    rows[0] = 1000
    found = labels.leave_one_out(whole(rows), y, 2)
    assert np.isfinite(found.doubt).all()
