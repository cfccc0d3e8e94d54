"""`ridge`: ridge regression on one-hot labels; validation chooses its strength."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from stages.blocks import HeadOptions
from stages.heads.contract import LabelledVectors, Solution

STRENGTHS = tuple(10.0**power for power in range(-4, 5))  # λ, times the number of rows
SCALES = tuple(10 ** (step / 20) for step in range(61))  # 1 to 1,000: what turns regression values into logits


def build(shape: Sequence[int], classes: int, options: HeadOptions) -> nn.Module:
    """(N, D) to logits (N, classes)."""
    return nn.Linear(shape[0], classes)


def solutions(layers: nn.Module, train: LabelledVectors, val: LabelledVectors) -> Iterator[Solution]:
    """One solution for each of STRENGTHS.

    With X (N, D) and Y one-hot minus class frequencies (N, C), W = (XᵀX + λN I)⁻¹ XᵀY. If N < D, the same W is
    Xᵀ (XXᵀ + λN I)⁻¹ Y, which is smaller to solve. Regression values are not logits: one scale for all, chosen on
    validation by cross-entropy, turns them into logits.
    """
    assert isinstance(layers, nn.Linear)
    x, val_x = train.double, val.double
    frequencies = torch.bincount(train.labels, minlength=layers.out_features).double() / len(train.labels)
    y = F.one_hot(train.labels, layers.out_features).double() - frequencies
    for strength, weights in zip(STRENGTHS, _solve(x, train.gram, y), strict=True):
        scale, loss = _best_scale(val_x @ weights + frequencies, val.labels)
        with torch.no_grad():
            layers.weight.copy_((scale * weights.T).float())
            layers.bias.copy_((scale * frequencies).float())
        yield Solution({"strength": strength, "scale": scale}, val_loss=loss)


def _solve(x: torch.Tensor, gram: torch.Tensor, y: torch.Tensor) -> Iterator[torch.Tensor]:
    """W (D, C) for every strength: one Gram matrix for all, and one Cholesky factor per strength.

    Args:
        x: (N, D).
        gram: its Gram matrix.
        y: (N, C).
    """
    rows, columns = x.shape
    dual = rows < columns
    target = y if dual else x.T @ y
    identity = torch.eye(len(gram), dtype=x.dtype, device=x.device)
    for strength in STRENGTHS:
        factor = torch.linalg.cholesky(gram + strength * rows * identity)
        solution = torch.cholesky_solve(target, factor)
        yield x.T @ solution if dual else solution


def _best_scale(values: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """The scale with the lowest cross-entropy, which is convex in it, and that cross-entropy."""

    def loss(step: int) -> float:
        return float(F.cross_entropy(SCALES[step] * values, labels))

    best = bisect_left(range(len(SCALES) - 1), True, key=lambda step: loss(step + 1) >= loss(step))
    return SCALES[best], loss(best)
