"""`smallnet`: the least of convolutional networks, for images of 32 pixels or so, trained from scratch.

A convolution of 3 × 3 with 18 channels, padded, ReLU, pooling, then 64 and the classes: with 32 pixels and 10 classes
296,130 parameters.
"""

from collections.abc import Sequence

from torch import nn

from stages.blocks import HeadOptions


def build(shape: Sequence[int], classes: int, options: HeadOptions) -> nn.Module:
    """(N, C, H, W), from 2 pixels a side, to logits (N, classes); no knob shapes it."""
    channels, height, width = shape
    return nn.Sequential(
        *(nn.Conv2d(channels, 18, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(18 * (height // 2) * (width // 2), 64), nn.ReLU(), nn.Linear(64, classes)),
    )
