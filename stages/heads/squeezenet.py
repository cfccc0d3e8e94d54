"""`squeezenet`: the classifier of SqueezeNet (Iandola et al. 2016, §3.3) on a map, trained by gradient descent.

Dropout, a new 1 × 1 convolution, ReLU, global average pooling; initialised as in torchvision.
"""

from collections.abc import Sequence

from torch import nn

from stages.heads.options import SqueezenetOptions


def build(shape: Sequence[int], classes: int, options: SqueezenetOptions) -> nn.Module:
    """(N, C, H, W) to logits (N, classes), with the knob `dropout`."""
    convolution = nn.Conv2d(shape[0], classes, 1)
    nn.init.normal_(convolution.weight, std=0.01)
    nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
    return nn.Sequential(nn.Dropout(options.dropout), convolution, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
