"""`mlp`: Linear(D, hidden), ReLU, Dropout, Linear(hidden, classes), trained by gradient descent.

With VGG-16's 4,096 inputs, hidden 256, dropout 0.4 and 100 classes it is the published Caltech-101 head.
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
    """(N, D) to logits (N, classes), with knobs `hidden` and `dropout`."""
    hidden = knobs["hidden"]
    return nn.Sequential(
        nn.Linear(shape[0], hidden), nn.ReLU(), nn.Dropout(knobs["dropout"]), nn.Linear(hidden, classes)
    )


def fit(data: Data, params: Params, device: torch.device) -> Fitted:
    """Trains it."""
    return loop.fit("mlp", data, params, device)
