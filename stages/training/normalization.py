"""Normalisation of features before a head; it is stored with the head, so that new images get the same."""

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

Kind = Literal["standardize", "l2", "sqrt", "none"]
WITH_STATISTICS = ("standardize", "sqrt")
SMALLEST = 1e-6  # the least deviation to divide by: features that are all the same are left alone


class FeatureNormalization(nn.Module):
    """Normalises the channels of vectors (N, C) or maps (N, C, H, W).

    - `standardize`: (x - mean) / std by channel, with the statistics of the train split;
    - `l2`: each vector, or each position of a map, is scaled to length 1;
    - `sqrt`: the signed square root, then `l2`, then `standardize` (the power normalisation of Perronnin et al. 2010);
    - `none`: features as they are.

    A channel that varies less than is typical (the root mean square of all deviations) is divided by the typical
    deviation. Scaled up to unit variance, channels that are nearly constant in train would drown the others on new
    images.
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, channels: int, kind: Kind = "standardize") -> None:
        super().__init__()
        self.kind = kind
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.kind not in WITH_STATISTICS:
            return self._scaled(x)
        shape = (-1, *[1] * (x.ndim - 2))
        return (self._scaled(x) - self.mean.view(shape)) * self.scale.view(shape)

    def fit(self, batches: Iterable[torch.Tensor]) -> "FeatureNormalization":
        """Sets mean and scale from batches (N, C) or (N, C, H, W), for the kinds that have statistics."""
        if self.kind not in WITH_STATISTICS:
            return self
        count, total, squares = 0, torch.zeros_like(self.mean.double()), torch.zeros_like(self.mean.double())
        for batch in batches:
            rows = self._scaled(batch).movedim(1, -1).reshape(-1, batch.shape[1]).double()
            count, total, squares = count + len(rows), total + rows.sum(0), squares + rows.square().sum(0)
        mean = total / count
        std = (squares / count - mean.square()).clamp(min=0).sqrt()
        typical = float(std.square().mean().sqrt())
        self.mean.copy_(mean)
        self.scale.copy_(1 / std.clamp(min=max(typical, SMALLEST)))
        return self

    def _scaled(self, x: torch.Tensor) -> torch.Tensor:
        """Features before statistics are applied."""
        if self.kind == "sqrt":
            x = x.sign() * x.abs().sqrt()
        return F.normalize(x, dim=1) if self.kind in ("l2", "sqrt") else x


class LevelNormalization(nn.ModuleList):
    """Normalisation of several maps, each on its own."""

    def forward(self, levels: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        return tuple(normalize(level) for normalize, level in zip(self, levels, strict=True))
