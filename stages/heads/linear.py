"""`linear`: one linear layer on the vector of an image, trained by gradient descent."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn


def build(shape: Sequence[int], classes: int, knobs: Mapping[str, Any]) -> nn.Module:
    """(N, D) to logits (N, classes); no knob shapes it."""
    return nn.Linear(shape[0], classes)
