"""`lenet5`: LeNet-5 (LeCun et al. 1998, §II.B) with ReLU and max pooling, on colour images, trained from scratch.

Two convolutions of 5 × 5 with 6 and 16 channels, each with ReLU and pooling, then 120, 84 and the classes. On images of
224 pixels with 33 classes it has 5,409,241 parameters, nearly all between the last map and the first linear layer.
"""

from collections.abc import Sequence

from torch import nn

from stages.blocks import HeadOptions
from stages.errors import UserError

SMALLEST = 16  # pixels a side: one position is left after two convolutions and two poolings


def build(shape: Sequence[int], classes: int, options: HeadOptions) -> nn.Module:
    """(N, C, S, S) to logits (N, classes); without options.

    Raises:
        UserError: the images are too small.
    """
    channels, side = shape[0], shape[-1]
    if side < SMALLEST:
        raise UserError(f"`head`: lenet5 takes {SMALLEST} x {SMALLEST} or more, found {side} x {side}: take cut=input.")
    left = ((side - 4) // 2 - 4) // 2
    return nn.Sequential(
        *(nn.Conv2d(channels, 6, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(16 * left**2, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, classes)),
    )
