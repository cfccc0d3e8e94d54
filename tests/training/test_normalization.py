"""Normalisation of features, each kind by hand."""

import pytest
import torch
from torch.nn import functional as F

from stages.training.normalization import SMALLEST, FeatureNormalization


def test_standardize_by_hand() -> None:
    x = torch.tensor([[1.0, 10.0, 4.0], [3.0, 10.0, 4.5]])  # deviations 1, 0 and 0.25
    normalize = FeatureNormalization(3)
    assert torch.equal(normalize(x), x)  # before it is fitted it does nothing
    normalize.fit([x])
    typical = ((1 + 0 + 0.0625) / 3) ** 0.5
    assert normalize.mean.tolist() == [2, 10, 4.25]
    assert normalize.scale.tolist() == pytest.approx([1, 1 / typical, 1 / typical])
    assert normalize(x)[:, 0].tolist() == [-1, 1]
    assert normalize(x)[:, 1].tolist() == [0, 0]  # a constant feature says nothing and breaks nothing
    assert normalize(x)[:, 2].tolist() == pytest.approx([-0.25 / typical, 0.25 / typical])
    assert list(normalize.state_dict()) == ["mean", "scale"] and not list(normalize.parameters())


def test_features_that_are_all_the_same_are_left_alone() -> None:
    normalize = FeatureNormalization(2).fit([torch.full((5, 2), 7.0)])
    assert normalize.scale.tolist() == pytest.approx([1 / SMALLEST] * 2)
    assert normalize(torch.full((1, 2), 7.0)).tolist() == [[0, 0]]


def test_none_and_l2_learn_nothing() -> None:
    x = torch.tensor([[3.0, -4.0], [0.0, 0.0]])
    assert torch.equal(FeatureNormalization(2, "none").fit([x])(x), x)
    assert FeatureNormalization(2, "l2").fit([x])(x).tolist() == [[pytest.approx(0.6), pytest.approx(-0.8)], [0, 0]]


def test_l2_of_a_map_is_by_position() -> None:
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    lengths = FeatureNormalization(3, "l2")(x).square().sum(1)
    torch.testing.assert_close(lengths, torch.ones(2, 4, 5))


def test_sqrt_is_the_signed_root_then_l2_then_standardize() -> None:
    x = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    roots = F.normalize(x.sign() * x.abs().sqrt(), dim=1)
    expected = FeatureNormalization(6).fit([roots])(roots)
    torch.testing.assert_close(FeatureNormalization(6, "sqrt").fit([x])(x), expected)
