"""k-nearest neighbours against a count by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages.training import closed_form
from stages.training.data import HeadData, SplitData
from stages.training.model import logits
from stages.training.tasks import ClassificationTask, EpochScores

CPU = torch.device("cpu")
FEATURES = {"cut": "pooled", "backbone": "squeezenet1_1", "image_size": 64, "weights": "random"}


def split(count: int, noise: float, views: int = 1, seed: int = 0) -> SplitData:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 4
    centres = 3 * torch.nn.functional.one_hot(y, 6)[:, None]
    return SplitData(centres + noise * torch.randn(count, views, 6, generator=generator), y, list(range(count)))


def data(noise: float, views: int = 1) -> HeadData:
    splits = {"train": split(80, noise, views), "val": split(60, noise, seed=1), "test": split(20, noise, seed=2)}
    return HeadData(list("abcd"), splits, FEATURES)


@pytest.fixture
def chosen(workplace: Path, params: Callable[..., Any]) -> Any:
    return params(head="knn", normalize="standardize")


@pytest.mark.parametrize("views", [1, 3])
def test_votes_by_hand(chosen: Any, views: int) -> None:
    result = closed_form.fit("knn", data(1.5, views), params=chosen, device=CPU)
    k, standardize = result.notes["k"], result.module.standardize
    train = split(80, 1.5, views)
    vectors = standardize(train.x.flatten(0, 1)).double().numpy()
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    test = split(20, 1.5, seed=2)
    expected = np.zeros((20, 4))
    for row, x in enumerate(standardize(test.evaluation_vectors).double().numpy()):
        similarity = vectors @ (x / np.linalg.norm(x))
        near = np.argsort(-similarity)[:k]
        for position in near:
            expected[row, train.y[position // views]] += np.exp(similarity[position] / 0.07)
    expected = 0.999 * expected / expected.sum(1, keepdims=True) + 0.001 / 4
    np.testing.assert_allclose(logits(result.module, test).exp().numpy(), expected, atol=0.02)


def test_the_best_number_on_validation_is_kept(chosen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    epoch_scores = map(EpochScores, [0.9, 0.8, 0.5, 0.4, 0.3, 0.2, 0.1], [0.5, 0.7, 0.7, 0.6, 0.6, 0.6, 1.0])
    monkeypatch.setattr(
        ClassificationTask, "evaluate", lambda self, net, split: next(epoch_scores)
    )  # 1, 3, 5, 10, 20, 50 fit into 80, then train
    result = closed_form.fit("knn", data(1.0), params=chosen, device=CPU)
    assert result.notes == {"k": 5} and result.knobs["k"] == 5
    assert result.history[0].val_accuracy == 0.7 and result.history[0].val_loss == 0.5


def test_it_learns_and_nothing_trains(chosen: Any) -> None:
    result = closed_form.fit("knn", data(0.3), params=chosen, device=CPU)
    assert result.history[0].val_accuracy == 1
    assert not list(result.module.parameters())
