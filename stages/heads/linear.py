"""`linear`: one linear layer on the vector of an image, trained by gradient descent."""

from collections.abc import Sequence

from torch import nn

from stages.blocks import HeadOptions


def build(shape: Sequence[int], classes: int, options: HeadOptions) -> nn.Module:
    """(N, D) to logits (N, classes); without options."""
    return nn.Linear(shape[0], classes)
