"""`linear`: one linear layer on the vector of an image, trained by gradient descent."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from stages.params import Params
from stages.training import loop
from stages.training.data import Data
from stages.training.fitted import Fitted


def build(shape: Sequence[int], classes: int, knobs: Mapping[str, Any]) -> nn.Module:
    """(N, D) to logits (N, classes); no knob shapes it."""
    return nn.Linear(shape[0], classes)


def fit(data: Data, params: Params, device: torch.device) -> Fitted:
    """Trains it."""
    return loop.fit("linear", data, params, device)
