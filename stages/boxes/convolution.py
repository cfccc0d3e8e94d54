"""Convolutions that train fast on a CPU, even beside other processes.

Maps go in and out as (N, C, H, W) in memory, because group normalisation is fast on that; convolutions of 3 x 3 are
fast on channels_last, those of 1 x 1 as matrix products. In the gradient with respect to the weights, oneDNN's threads
wait for each other by spinning: with another process on the same cores that took thirty times as long as one thread.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_input, conv2d_weight

from stages import threads

CHANNELS_LAST = torch.channels_last


class Pointwise(nn.Conv2d):
    """A 1 x 1 convolution as a matrix product: (N, C, H, W) to (N, outputs, H, W)."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool) -> None:
        super().__init__(inputs, outputs, 1, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight.flatten(1).expand(x.shape[0], -1, -1)
        products = torch.bmm(weight, x.flatten(2)).unflatten(2, x.shape[2:])  # type: ignore[no-untyped-call]
        outputs: torch.Tensor = products if self.bias is None else products + self.bias[:, None, None]
        return outputs


class Convolution3x3(nn.Conv2d):
    """A padded 3 x 3 convolution without bias: (N, C, H, W) to (N, outputs, H, W)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or x.device.type != "cpu":
            evaluated: torch.Tensor = super().forward(x.contiguous(memory_format=CHANNELS_LAST)).contiguous()
            return evaluated
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        outputs: torch.Tensor = _Convolution3x3.apply(x, self.weight, dtype)
        return outputs


class _Convolution3x3(torch.autograd.Function):
    """What `Convolution3x3` computes, in a dtype, with its gradients."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        x, weight = (tensor.to(dtype, memory_format=CHANNELS_LAST) for tensor in (x, weight))
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, padding=1).contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor, None]:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=CHANNELS_LAST)
        with threads.limited_to(1):
            by_weight = conv2d_weight(x, weight.shape, gradient, padding=1)  # type: ignore[no-untyped-call]
        by_x = None
        if ctx.needs_input_grad[0]:
            by_x = conv2d_input(x.shape, weight, gradient, padding=1).contiguous()  # type: ignore[no-untyped-call]
        return by_x, by_weight, None
