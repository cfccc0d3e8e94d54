"""Probabilities per class from scores, fitted on validation."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from stages.metrics.multilabel import UNKNOWN, binary_cross_entropy
from stages.training.calibration import ClassCalibration


def drawn(images: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of three classes on different scales, and labels drawn by their true probabilities."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(images, 3, generator=generator) + torch.tensor([-1.0, 0.0, 2.0])
    labels = (torch.rand(images, 3, generator=generator) < logits.sigmoid()).to(torch.int8)
    return logits * torch.tensor([0.1, 5.0, 1.0]) + torch.tensor([30.0, 0.0, -7.0]), labels


def fitted(scores: torch.Tensor, labels: torch.Tensor) -> ClassCalibration:
    calibration = ClassCalibration(scores.shape[1])
    calibration.fit(scores, labels)
    return calibration


def test_it_is_logistic_regression_on_the_scores_of_a_class() -> None:
    scores, labels = drawn()
    calibration = fitted(scores, labels)
    for c in range(3):
        x = ((scores[:, [c]] - scores[:, c].mean()) / scores[:, c].std()).numpy()  # or its solver stops early
        expected = LogisticRegression(C=1e8, tol=1e-8).fit(x, labels[:, c].numpy()).predict_proba(x)[:, 1]
        assert calibration(scores)[:, c].sigmoid().numpy() == pytest.approx(expected, abs=0.02)  # softened targets


def test_probabilities_mean_what_they_say() -> None:
    scores, labels = drawn(2000)
    before, after = scores[:1000], fitted(scores[1000:], labels[1000:])(scores[:1000])
    assert binary_cross_entropy(after, labels[:1000]) < 0.5 < binary_cross_entropy(before, labels[:1000])


def test_the_order_of_images_stays_even_where_scores_mislead() -> None:
    scores, labels = drawn()
    calibration = fitted(-scores, labels)
    assert (calibration.scale > 0).all() and calibration(scores).isfinite().all()


def test_few_images_make_no_class_certain() -> None:
    scores, labels = torch.tensor([[9.0], [-9.0], [-8.0], [-7.0]]), torch.tensor([[1], [0], [0], [0]])
    probabilities = fitted(scores, labels)(scores).sigmoid()
    assert float(probabilities[0]) == pytest.approx(2 / 3, abs=0.02) and float(probabilities[1]) < 0.25


def test_unknown_entries_and_classes_without_two_sides() -> None:
    scores, labels = drawn()
    labels[:, 2] = 0
    labels[::2, 0] = UNKNOWN
    calibration = fitted(scores, labels)
    known = ClassCalibration(1)
    known.fit(scores[1::2, :1], labels[1::2, :1])
    assert calibration(scores)[:, 0].numpy() == pytest.approx(known(scores[:, :1])[:, 0].numpy(), abs=0.05)
    assert calibration(scores).isfinite().all()
    assert fitted(scores, torch.full_like(labels, UNKNOWN))(scores).isfinite().all()
    assert fitted(torch.zeros(4, 2), torch.zeros(4, 2))(torch.zeros(4, 2)).isfinite().all()
