"""Convolutions of the heads for boxes: those of torch, and their gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from stages.boxes.convolution import Convolution3x3, Pointwise


def plain(module: Pointwise | Convolution3x3) -> nn.Conv2d:
    """torch's own convolution with the same weights, in float64."""
    side = module.kernel_size[0]
    same = nn.Conv2d(module.in_channels, module.out_channels, side, padding=side // 2, bias=module.bias is not None)
    same.load_state_dict(module.state_dict())
    return same.double()


def gradients(module: nn.Module, x: torch.Tensor, weight: torch.Tensor) -> list[torch.Tensor]:
    """Of a weighted sum of what it gives: what it gives, then by the input and by its parameters."""
    x = x.detach().requires_grad_()
    actual = module(x)
    (actual * weight.to(actual)).sum().backward()
    tensors = [x, *module.parameters()]
    return [actual.detach(), *(tensor.grad for tensor in tensors if tensor.grad is not None)]


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 999),
    images=st.integers(1, 3),
    channels=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    size=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    square=st.booleans(),
    last=st.booleans(),
)
def test_they_are_those_of_torch_and_so_are_their_gradients(
    seed: int, images: int, channels: tuple[int, int], size: tuple[int, int], square: bool, last: bool
) -> None:
    torch.manual_seed(seed)
    module = Convolution3x3(*channels) if square else Pointwise(*channels, bias=bool(seed % 2))
    x, weight = torch.randn(images, channels[0], *size), torch.randn(images, channels[1], *size)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    expected = gradients(plain(module), x.double(), weight)
    for gradient, wanted in zip(gradients(module.train(), x, weight), expected, strict=True):
        torch.testing.assert_close(gradient.double(), wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(module.eval()(x).double(), expected[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("module", [Convolution3x3(16, 24), Pointwise(16, 24, bias=True)])
def test_in_bfloat16_gradients_are_off_by_its_rounding_alone(module: Pointwise | Convolution3x3) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(4, 16, 14, 14), torch.randn(4, 24, 14, 14)
    expected = gradients(plain(module), x.double(), weight)
    with torch.autocast("cpu", torch.bfloat16):
        actual = gradients(module.train(), x, weight)
    assert all(gradient.dtype == torch.float32 for gradient in actual[1:])
    for gradient, wanted in zip(actual, expected, strict=True):
        assert (gradient.double() - wanted).norm() < 0.01 * wanted.norm()


def test_a_frozen_input_gets_no_gradient_and_the_threads_stay() -> None:
    threads = torch.get_num_threads()
    module, x = Convolution3x3(4, 4).train(), torch.randn(2, 4, 5, 5)
    module(x).sum().backward()
    assert x.grad is None and module.weight.grad is not None
    assert torch.get_num_threads() == threads
