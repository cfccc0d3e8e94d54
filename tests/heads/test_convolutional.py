"""The two networks that are trained from scratch: their sizes, and the images that they take."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from stages.blocks import HeadOptions
from stages.errors import UserError
from stages.heads import lenet5, smallnet


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_lenet5_has_the_published_number_of_parameters() -> None:
    assert size(lenet5.build((3, 224, 224), 33, HeadOptions())) == 5_409_241


def test_lenet5_by_hand() -> None:
    layers = lenet5.build((3, 224, 224), 33, HeadOptions())
    kinds = "Conv2d ReLU MaxPool2d Conv2d ReLU MaxPool2d Flatten Linear ReLU Linear ReLU Linear"
    assert [type(layer).__name__ for layer in layers.children()] == kinds.split()
    shapes = [tuple(value.shape) for name, value in layers.named_parameters() if name.endswith("weight")]
    assert shapes == [(6, 3, 5, 5), (16, 6, 5, 5), (120, 16 * 53 * 53), (84, 120), (33, 84)]


def test_the_small_network_by_hand() -> None:
    layers = smallnet.build((3, 32, 32), 10, HeadOptions())
    assert size(layers) == 296_130
    shapes = [tuple(value.shape) for name, value in layers.named_parameters() if name.endswith("weight")]
    assert shapes == [(18, 3, 3, 3), (64, 18 * 16 * 16), (10, 64)]


@given(side=st.integers(16, 80), channels=st.integers(1, 4), classes=st.integers(2, 5))
def test_they_take_images_of_any_size_from_the_smallest(side: int, channels: int, classes: int) -> None:
    for build in (lenet5.build, smallnet.build):
        assert build((channels, side, side), classes, HeadOptions())(torch.zeros(2, channels, side, side)).shape == (
            2,
            classes,
        )


def test_smaller_images_are_refused() -> None:
    with pytest.raises(UserError, match="`head`: lenet5 takes 16 x 16 or more, found 15 x 15: take cut=input"):
        lenet5.build((3, 15, 15), 10, HeadOptions())
