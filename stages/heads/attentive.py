"""`attentive`: learned queries pool a map by attention, then a linear layer; trained by gradient descent.

Efficient probing (Psomas et al. 2026, arXiv:2506.10178): each of M queries gives every position of the map a weight, by
a softmax over positions of its product with the features there, without a projection of keys. Query m then takes the
weighted mean of its own share of the values: the m-th C / M of their C channels. Values are a linear layer of the
features. As that layer is the same at all positions, it is applied after pooling, to M vectors instead of H × W.
"""

from collections.abc import Sequence

import torch
from torch import nn

from stages.errors import UserError
from stages.heads.options import AttentiveOptions

STANDARD_DEVIATION = 0.02  # of the queries at the start, nearly the same weight for every position


class AttentivePooling(nn.Module):
    """Maps (N, C, H, W) to vectors (N, C).

    Args:
        channels: C, a multiple of `queries`.
        queries: M, how many weighted means are taken.
    """

    def __init__(self, channels: int, queries: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(STANDARD_DEVIATION * torch.randn(queries, channels))
        self.values = nn.Conv1d(queries * channels, channels, 1, groups=queries, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        positions = x.flatten(2)
        weights = (self.queries @ positions * x.shape[1] ** -0.5).softmax(2)  # (N, M, H W)
        means = weights @ positions.transpose(1, 2)  # (N, M, C)
        pooled: torch.Tensor = self.values(means.flatten(1).unsqueeze(2)).flatten(1)
        return pooled


def build(shape: Sequence[int], classes: int, options: AttentiveOptions) -> nn.Module:
    """(N, C, H, W) to logits (N, classes), with the knob `queries`.

    Raises:
        UserError: the channels cannot be shared out among the queries.
    """
    channels, queries = shape[0], options.queries
    if channels % queries:
        fitting = [count for count in range(1, channels + 1) if channels % count == 0]
        nearest = min(fitting, key=lambda count: (abs(count - queries), count))
        raise UserError(
            f"`queries`: each query pools an equal share of the {channels} channels of the map, found queries="
            f"{queries}: take queries={nearest}."
        )
    return nn.Sequential(AttentivePooling(channels, queries), nn.Linear(channels, classes))
