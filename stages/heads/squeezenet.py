"""`squeezenet`: the classifier of SqueezeNet (Iandola et al. 2016, §3.3) on a map, trained by gradient descent.

Dropout, a new 1 × 1 convolution, ReLU, global average pooling. Initialised as torchvision does.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from stages.params import Params
from stages.training import loop
from stages.training.data import Data
from stages.training.fitted import Fitted


def build(shape: Sequence[int], classes: int, knobs: Mapping[str, Any]) -> nn.Module:
    """(N, C, H, W) to logits (N, classes), with the knob `dropout`."""
    convolution = nn.Conv2d(shape[0], classes, 1)
    nn.init.normal_(convolution.weight, std=0.01)
    nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
    return nn.Sequential(nn.Dropout(knobs["dropout"]), convolution, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def fit(data: Data, params: Params, device: torch.device) -> Fitted:
    """Trains it."""
    return loop.fit("squeezenet", data, params, device)
