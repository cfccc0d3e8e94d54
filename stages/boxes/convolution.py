"""Convolutions that train fast on a CPU, beside other work too.

Maps go in and out as (N, C, H, W) in memory, which group normalisation is fast on; convolutions of 3 x 3 are fast on
channels_last, those of 1 x 1 as products of matrices. In the gradient by the weights the threads of oneDNN wait for
each other by spinning: with another process on the same cores that took thirty times as long as on one thread.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_input, conv2d_weight

CHANNELS_LAST = torch.channels_last


class Pointwise(nn.Conv2d):
    """A 1 x 1 convolution as a product of matrices: (N, C, H, W) to (N, outputs, H, W)."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool) -> None:
        super().__init__(inputs, outputs, 1, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight.flatten(1).expand(x.shape[0], -1, -1)
        found = torch.bmm(weight, x.flatten(2)).unflatten(2, x.shape[2:])  # type: ignore[no-untyped-call]
        biased: torch.Tensor = found if self.bias is None else found + self.bias[:, None, None]
        return biased


class Square(nn.Conv2d):
    """A padded 3 x 3 convolution without bias: (N, C, H, W) to (N, outputs, H, W)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or x.device.type != "cpu":
            found: torch.Tensor = super().forward(x.contiguous(memory_format=CHANNELS_LAST)).contiguous()
            return found
        reduced = torch.is_autocast_enabled("cpu")
        trained: torch.Tensor = _Square.apply(x, self.weight, torch.get_autocast_dtype("cpu") if reduced else x.dtype)
        return trained


class _Square(torch.autograd.Function):
    """What `Square` computes, in a dtype, with its gradients."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        x, weight = (each.to(dtype, memory_format=CHANNELS_LAST) for each in (x, weight))
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, padding=1).contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor, None]:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=CHANNELS_LAST)
        with _one_thread():
            by_weight = conv2d_weight(x, weight.shape, gradient, padding=1)  # type: ignore[no-untyped-call]
        by_x = None
        if ctx.needs_input_grad[0]:
            by_x = conv2d_input(x.shape, weight, gradient, padding=1).contiguous()  # type: ignore[no-untyped-call]
        return by_x, by_weight, None


@contextmanager
def _one_thread() -> Iterator[None]:
    """Computes on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
