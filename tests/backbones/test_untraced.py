"""A network that cannot be traced is cut by its own interface."""

from typing import Any

import pytest
import torch
from timm.models.hiera import Hiera
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from stages.backbones import cuts
from stages.backbones.untraced import UntracedNetwork
from stages.errors import UserError
from tests.backbones.networks import assert_same, randomised

SIZE = 32


class Undecided(VisionTransformer):
    """Its code asks for a value, which no graph has."""

    def forward_features(self, x: torch.Tensor, **options: Any) -> torch.Tensor:  # type: ignore[override]
        return super().forward_features(x if x.sum() > -1e9 else -x, **options)


def undecided(**options: int) -> nn.Module:
    return randomised(Undecided(img_size=SIZE, patch_size=8, embed_dim=24, depth=2, num_heads=2, **options))


def hiera() -> nn.Module:
    return randomised(Hiera(img_size=(64, 64), embed_dim=16, num_heads=1, stages=(1, 1, 1, 1), num_classes=5))


def pixels(size: int = SIZE) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def test_its_vector_is_what_it_gives_without_its_classifier() -> None:
    model = hiera()
    network = cuts.load_network(model, 64, "hiera")
    assert isinstance(network, UntracedNetwork)
    with torch.inference_mode():
        expected = model.forward_head(model.forward_features(pixels(64)), pre_logits=True)  # type: ignore[operator]
        assert_same(network.trunk("pooled")(pixels(64)), expected)
    assert network.layers("pooled")["pooled"].shape == expected.shape[1:] and network.describe("pooled") == "forward"


@pytest.mark.parametrize("cut", ["pooled", "cls", "avg", "cls+avg", "map"])
def test_it_has_the_cuts_of_tokens_that_its_traced_twin_has(cut: str) -> None:
    model = undecided(reg_tokens=3)
    network = cuts.load_network(model, SIZE, "vit")
    assert isinstance(network, UntracedNetwork)
    model.__class__ = VisionTransformer
    with torch.inference_mode():
        assert_same(network.trunk(cut)(pixels()), cuts.Network(model, SIZE, "vit").trunk(cut)(pixels()))
    assert network.layers(cut)[cut].shape == network.trunk(cut)(pixels()).shape[1:]


@pytest.mark.parametrize("cut", ["map@8", "cls+avg@2", "blocks.0", "pyramid"])
def test_nothing_in_the_middle_is_a_cut(cut: str) -> None:
    network = cuts.load_network(undecided(), SIZE, "vit")
    with pytest.raises(UserError, match=r"`cut`: vit cannot be traced \(.+\): try cut=pooled"):
        network.layers(cut)
    with pytest.raises(UserError, match=r"`tap`: vit cannot be traced .* so its layers cannot train: take tap=same"):
        network.rest(cut, "pooled")


def test_a_size_that_neither_takes() -> None:
    with pytest.raises(UserError, match=r"`backbone`: hiera cannot be cut at 50 x 50 pixels: ."):
        cuts.load_network(hiera(), 50, "hiera")
