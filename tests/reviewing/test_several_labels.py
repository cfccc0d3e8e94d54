"""Missing and wrong labels among several per image."""

from pathlib import Path

import numpy as np
import pytest
import torch

from stages.datasets.corrections import Correction
from stages.datasets.index_file import IndexRow
from stages.errors import UserError
from stages.features import h5
from stages.reviewing import labels, vectors
from stages.reviewing.decisions import decided
from stages.reviewing.suspect import suspect
from stages.reviewing.suspicions import LABEL_IN_DOUBT, Suspicion

COUNT, CLASSES = 120, ("ant", "bee", "cat")


def made() -> tuple[np.ndarray, np.ndarray]:
    """Vectors of 20 numbers in which each of three labels shows, and the labels; entries 3 and 7 are mistaken."""
    rng = np.random.default_rng(0)
    truth = (rng.random((COUNT, 3)) < 0.4).astype(np.int8)
    directions = np.linalg.qr(rng.normal(size=(20, 20)))[0][:3]
    x = 4 * truth @ directions + rng.normal(size=(COUNT, 20)) * 0.5
    truth[3, 0], truth[7, 1] = 1 - truth[3, 0], 1 - truth[7, 1]
    return x.astype(np.float32), truth


def row(number: int, truth: np.ndarray) -> IndexRow:
    names = tuple(name for name, there in zip(CLASSES, truth, strict=True) if there == 1)
    return IndexRow(f"{number}.jpg", f"{number:064x}", 4, 4, "", (), None, labels=names)


def test_values_are_those_of_regression_without_the_image() -> None:
    x, truth = made()
    described = vectors.of_rows(x, np.arange(COUNT))
    values = labels.leave_one_out_lists(described, truth)
    standardized = (described.centred(np.arange(COUNT)) * described.scale).double().numpy()
    best = []
    for strength in labels.STRENGTHS:  # one image by hand, its mean and scale kept
        rest, y = np.delete(standardized, 5, 0), np.delete(truth, 5, 0).astype(float)
        rows, target = np.c_[rest, np.ones(COUNT - 1)], y
        penalty = np.diag([strength * COUNT] * 20 + [0])
        weights = np.linalg.solve(rows.T @ rows + penalty, rows.T @ target)
        best.append(np.abs(np.r_[standardized[5], 1] @ weights - values[5]).max())
    assert min(best) < 1e-3


def test_the_mistakes_are_found_and_the_right_list_is_proposed() -> None:
    x, truth = made()
    features = h5.Features(
        {
            "features/pooled": x[:, None],
            "ok": np.ones(COUNT, bool),
            "sha256": np.array([f"{n:064x}" for n in range(COUNT)], "S64"),
        },
        {},
    )
    rows = [row(number, truth[number]) for number in range(COUNT)]
    found, checked = suspect(rows, split_names=[""] * COUNT, conflicts=[], features=features, pixels=None)
    doubts = [suspicion for suspicion in found if suspicion.what == LABEL_IN_DOUBT]
    assert {doubt.path for doubt in doubts[:2]} == {"3.jpg", "7.jpg"} and checked is None
    for number, label in ((3, 0), (7, 1)):
        doubt = next(doubt for doubt in doubts if doubt.path == f"{number}.jpg")
        right = truth[number].copy()
        right[label] = 1 - right[label]
        assert doubt.proposed == ("|".join(row(0, right).classes) or "|")
        assert doubt.label == "|".join(rows[number].classes)


def test_unknown_entries_are_never_in_doubt_and_labels_that_do_not_show_neither() -> None:
    x, truth = made()
    truth[3, 0] = -1
    truth[:, 2] = np.random.default_rng(1).integers(0, 2, COUNT)
    values = labels.leave_one_out_lists(vectors.of_rows(x, np.arange(COUNT)), truth)
    doubt = labels.doubted(values, truth)
    assert doubt[3, 0] == 0 and not doubt[:, 2].any() and doubt[7, 1] > 0
    assert torch.from_numpy(values).isfinite().all()


def test_a_decision_gives_a_list_of_known_labels(tmp_path: Path) -> None:
    rows = [row(0, np.array([1, 1, 0])), row(1, np.array([0, 0, 1]))]
    asked = Suspicion(LABEL_IN_DOUBT, "0.jpg", "", "ant|bee", "ant|cat", 0.5, decision="relabel:ant|cat")
    assert decided([asked], rows, {}, "x") == [Correction("0.jpg", LABEL_IN_DOUBT, "", "relabel:ant|cat")]
    assert decided([asked._replace(decision="relabel:|")], rows, {}, "x")[0].decision == "relabel:|"
    with pytest.raises(UserError, match=r"'cow' is not a class; "):
        decided([asked._replace(decision="relabel:ant|cow")], rows, {}, "x")
