"""`mlp`: Linear(D, hidden), ReLU, Dropout, Linear(hidden, classes), trained by gradient descent.

With VGG-16's 4,096 inputs, hidden 256, dropout 0.4 and 100 classes it is the published Caltech-101 head.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn


def build(shape: Sequence[int], classes: int, knobs: Mapping[str, Any]) -> nn.Module:
    """(N, D) to logits (N, classes), with knobs `hidden` and `dropout`."""
    hidden = knobs["hidden"]
    return nn.Sequential(
        nn.Linear(shape[0], hidden), nn.ReLU(), nn.Dropout(knobs["dropout"]), nn.Linear(hidden, classes)
    )
