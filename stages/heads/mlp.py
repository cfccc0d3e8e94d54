"""`mlp`: Linear(D, hidden), ReLU, Dropout, Linear(hidden, classes), trained by gradient descent.

With VGG-16's 4,096 inputs, hidden 256, dropout 0.4 and 100 classes it is the published Caltech-101 head.
"""

from collections.abc import Sequence

from torch import nn

from stages.heads.options import MlpOptions


def build(shape: Sequence[int], classes: int, options: MlpOptions) -> nn.Module:
    """(N, D) to logits (N, classes), with options `hidden` and `dropout`."""
    hidden = options.hidden
    return nn.Sequential(
        nn.Linear(shape[0], hidden), nn.ReLU(), nn.Dropout(options.dropout), nn.Linear(hidden, classes)
    )
