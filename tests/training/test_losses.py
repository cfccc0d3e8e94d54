"""What a head minimises."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from stages.training.losses import class_weights, loss, stacked

LABELS = torch.tensor([0, 0, 0, 1, 2, 2])


def logits(seed: int = 0) -> torch.Tensor:
    return 2 * torch.randn(len(LABELS), 4, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_is_torchs(params: Callable[..., Any], smoothing: float) -> None:
    actual = loss(logits(), LABELS, params=params(label_smoothing=smoothing), weights=None)
    torch.testing.assert_close(actual, F.cross_entropy(logits(), LABELS, label_smoothing=smoothing))


def test_weighted_cross_entropy_is_torchs(params: Callable[..., Any]) -> None:
    weights = torch.tensor([0.5, 2.0, 1.0, 3.0])
    torch.testing.assert_close(
        loss(logits(), LABELS, params=params(), weights=weights), F.cross_entropy(logits(), LABELS, weight=weights)
    )


@given(gamma=st.floats(0, 6), seed=st.integers(0, 1000))
def test_focal_loss_is_its_definition(gamma: float, seed: int) -> None:
    from types import SimpleNamespace

    chosen: Any = SimpleNamespace(loss="focal", focal_gamma=gamma, label_smoothing=0.0)
    probability = logits(seed).softmax(1)[torch.arange(len(LABELS)), LABELS]
    expected = (-((1 - probability) ** gamma) * probability.log()).mean()
    torch.testing.assert_close(loss(logits(seed), LABELS, params=chosen, weights=None), expected, rtol=1e-4, atol=1e-6)


def test_focal_loss_without_gamma_is_cross_entropy(params: Callable[..., Any]) -> None:
    actual = loss(logits(), LABELS, params=params(loss="focal", focal_gamma=0.0), weights=None)
    torch.testing.assert_close(actual, F.cross_entropy(logits(), LABELS))


def test_balanced_weights_give_every_class_the_same_say() -> None:
    weights = class_weights(LABELS, 4, "balanced")
    assert weights is not None
    assert weights.tolist() == pytest.approx([6 / (4 * 3), 6 / (4 * 1), 6 / (4 * 2), 0])
    totals = torch.zeros(4).index_add(0, LABELS, weights[LABELS])
    assert totals[:3].tolist() == pytest.approx([1.5] * 3)
    assert class_weights(LABELS, 4, "none") is None


@given(
    kind=st.sampled_from(["cross_entropy", "focal"]),
    smoothing=st.floats(0, 0.9),
    weighted=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_the_loss_of_many_heads_and_its_gradient_are_those_of_each(
    kind: str, smoothing: float, weighted: bool, seed: int
) -> None:
    from types import SimpleNamespace

    chosen: Any = SimpleNamespace(loss=kind, focal_gamma=2.0, label_smoothing=smoothing)
    weights = torch.tensor([0.5, 2.0, 1.0, 3.0]) if weighted else None
    heads = torch.stack([logits(seed), 5 * logits(seed + 1)]).requires_grad_()
    alone = torch.stack([loss(head, LABELS, params=chosen, weights=weights) for head in heads])
    (gradient,) = torch.autograd.grad(alone.sum(), [heads])
    actual = stacked(heads.detach().transpose(1, 2), LABELS, params=chosen, weights=weights)
    torch.testing.assert_close(actual, (alone.detach(), gradient.transpose(1, 2)))
