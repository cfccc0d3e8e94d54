"""`smallnet`: a very small convolutional network for images of about 32 pixels, trained from scratch.

A padded 3 × 3 convolution with 18 channels, ReLU, pooling, then linear layers with 64 units and the classes. With
images of 32 pixels and 10 classes it has 296,130 parameters.
"""

from collections.abc import Sequence

from torch import nn

from stages.blocks import HeadOptions


def build(shape: Sequence[int], classes: int, options: HeadOptions) -> nn.Module:
    """(N, C, H, W), with H and W of at least 2, to logits (N, classes); without options."""
    channels, height, width = shape
    return nn.Sequential(
        *(nn.Conv2d(channels, 18, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(18 * (height // 2) * (width // 2), 64), nn.ReLU(), nn.Linear(64, classes)),
    )
