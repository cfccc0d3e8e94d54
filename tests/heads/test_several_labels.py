"""Heads in closed form on several labels: each class on its own, without the images in which it is unknown."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from torch import nn

from stages.heads import knn, logistic, ridge
from stages.heads.contract import LabelledVectors
from stages.heads.options import KnnOptions


def drawn(images: int, features: int, *, unknown: float = 0.0, classes: int = 4) -> LabelledVectors:
    generator = torch.Generator().manual_seed(images)
    x = torch.randn(images, features, generator=generator)
    weights = torch.randn(features, classes, generator=torch.Generator().manual_seed(features))
    noise = torch.randn(images, classes, generator=generator)
    labels = (x @ weights / features**0.5 + 0.3 * noise > 0.3).to(torch.int8)
    labels[torch.rand(labels.shape, generator=generator) < unknown] = -1
    return LabelledVectors(x, labels)


@pytest.mark.parametrize("unknown", [0.0, 0.2])
@pytest.mark.parametrize(("images", "features"), [(120, 10), (30, 50)])
def test_ridge_is_that_of_each_class_on_its_own(images: int, features: int, unknown: float) -> None:
    train, layers = drawn(images, features, unknown=unknown), nn.Linear(features, 4)
    ridge.solve(layers, train, {"strength": 0.1})
    for c in range(4):
        known = (train.labels[:, c] >= 0).numpy()
        penalty = 0.1 * train.variance * known.sum()
        reference = Ridge(alpha=penalty).fit(
            train.x.numpy()[known].astype(np.float64), train.labels[:, c].numpy()[known]
        )
        np.testing.assert_allclose(layers.weight[c].detach().numpy(), reference.coef_, atol=1e-5)
        assert float(layers.bias[c].detach()) == pytest.approx(reference.intercept_, abs=1e-5)


@pytest.mark.parametrize("unknown", [0.0, 0.2])
def test_logistic_is_that_of_each_class_on_its_own(unknown: float) -> None:
    train, layers = drawn(150, 6, unknown=unknown), nn.Linear(6, 4)
    logistic.solve(layers, train, {"strength": 0.01})
    for c in range(4):
        known = (train.labels[:, c] >= 0).numpy()
        strength = 1 / (0.01 * train.variance * known.sum())
        reference = LogisticRegression(C=strength, tol=1e-8, max_iter=5000)
        reference.fit(train.x.numpy()[known], train.labels[:, c].numpy()[known])
        np.testing.assert_allclose(layers.weight[c].detach().numpy(), reference.coef_[0], atol=2e-3)


def test_logistic_survives_classes_that_all_or_no_images_have() -> None:
    train = drawn(40, 5)
    train.labels[:, 0], train.labels[:, 1], train.labels[:, 2] = 1, 0, -1
    layers = nn.Linear(5, 4)
    for solution in logistic.solutions(layers, train, drawn(20, 5)):
        assert solution.notes and layers.weight.isfinite().all() and layers.bias.isfinite().all()
    ridge.solve(layers, train, {"strength": 0.1})
    assert layers.weight[2].abs().max() == 0


def test_neighbours_vote_on_the_labels_that_they_know() -> None:
    x = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    train = LabelledVectors(x, torch.tensor([[1, 0], [1, -1], [0, 1], [0, 1]], dtype=torch.int8))
    layers: Any = knn.build((2,), 2, KnnOptions(multilabel=True))
    solution = knn.solve(layers, train, {"k": 2})
    logits = layers(torch.tensor([[1.0, 0.05], [0.05, 1.0]]))
    assert (logits.sigmoid() > 0.5).tolist() == [[True, False], [False, True]]
    again: Any = knn.build((2,), 2, KnnOptions(multilabel=True, **solution.options))
    again.load_state_dict(layers.state_dict())
    assert torch.equal(again(x), layers(x))
