"""`ridge`: ridge regression on one-hot labels; validation chooses its strength."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from stages.blocks import HeadOptions
from stages.heads.contract import LabelledVectors, Moments, Solution, put, scaled

STRENGTHS = tuple(10 ** (power / 2) for power in range(-6, 5))  # 0.001 to 100, in multiples of the features' variance
SCALES = tuple(10 ** (step / 20) for step in range(61))  # 1 to 1,000: what turns regression values into logits


def build(shape: Sequence[int], classes: int, options: HeadOptions) -> nn.Module:
    """(N, D) to logits (N, classes)."""
    return nn.Linear(shape[0], classes)


def solutions(layers: nn.Module, train: Moments, val: Moments) -> Iterator[Solution]:
    """One solution for each of STRENGTHS.

    With X (N, D) and Y one-hot (N, C), each minus its mean, W = (XᵀX + λN I)⁻¹ XᵀY, where λ is the strength times the
    mean variance of a feature. If N < D, the same W is Xᵀ (XXᵀ + λN I)⁻¹ Y, which is smaller to solve. Regression
    values are not logits: one scale for all, chosen on validation by cross-entropy, turns them into logits.
    """
    assert isinstance(layers, nn.Linear)
    notes = [{"strength": strength} for strength in STRENGTHS]
    yield from scaled(layers, val, _solve(train, layers.out_features, STRENGTHS), notes=notes, scales=SCALES)


def solve(layers: nn.Module, train: Moments, notes: Mapping[str, float]) -> Solution:
    """The solution of a strength, with a scale that is known."""
    assert isinstance(layers, nn.Linear)
    ((weights, bias),) = _solve(train, layers.out_features, [notes["strength"]])
    put(layers, notes["scale"] * weights, notes["scale"] * bias)
    return Solution(notes)


def _solve(train: Moments, classes: int, strengths: Sequence[float]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """W (D, C) and the bias (C,) for every strength: one Gram matrix for all, and one Cholesky factor for each."""
    rows, columns = train.shape
    frequencies = torch.bincount(train.labels, minlength=classes).double() / rows
    in_rows = train if isinstance(train, LabelledVectors) and rows < columns else None
    target = F.one_hot(train.labels, classes) - frequencies if in_rows else train.class_sums(classes).T
    identity = torch.eye(len(train.gram), dtype=target.dtype, device=target.device)
    for strength in strengths:
        factor = torch.linalg.cholesky(train.gram + strength * train.variance * rows * identity)
        solution = torch.cholesky_solve(target, factor)
        weights = in_rows.centred.T @ solution if in_rows else solution
        yield weights, frequencies - train.mean @ weights
