"""`lda`: linear discriminant analysis with shrinkage, in closed form; validation chooses the shrinkage.

All classes share one covariance Σ, that of the train vectors around the means μ of their classes, shrunk towards a
multiple of the identity (Ledoit and Wolf 2004): (1 - s) Σ + s (tr Σ / D) I. The score of a class is then
x Σ⁻¹μ - ½ μΣ⁻¹μ + log π, with π its share of the train vectors. Real features are not Gaussian, and these scores are
far too sure of themselves: one scale for all, chosen on validation by cross-entropy, turns them into logits.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn

from stages.blocks import HeadOptions
from stages.errors import UserError
from stages.heads.contract import LabelledVectors, Moments, Solution, put, scaled

SHRINKAGES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95)
SCALES = tuple(10 ** (step / 20) for step in range(-60, 1))  # 0.001 to 1: what turns scores into logits
NEGLIGIBLE = 1e-12  # the share of all variance below which that within classes is rounding
RARE = 1e-12  # the share of a class without train images, whose logarithm would be infinite


def build(shape: Sequence[int], classes: int, options: HeadOptions) -> nn.Module:
    """(N, D) to logits (N, classes)."""
    return nn.Linear(shape[0], classes)


def solutions(layers: nn.Module, train: Moments, val: LabelledVectors) -> Iterator[Solution]:
    """One solution for each of SHRINKAGES."""
    assert isinstance(layers, nn.Linear)
    notes = [{"shrinkage": shrinkage} for shrinkage in SHRINKAGES]
    yield from scaled(layers, val, _solve(train, layers.out_features, SHRINKAGES), notes=notes, scales=SCALES)


def solve(layers: nn.Module, train: Moments, notes: Mapping[str, float]) -> Solution:
    """The solution of a shrinkage, with a scale that is known."""
    assert isinstance(layers, nn.Linear)
    ((weights, bias),) = _solve(train, layers.out_features, [notes["shrinkage"]])
    put(layers, notes["scale"] * weights, notes["scale"] * bias)
    return Solution(notes)


def _solve(train: Moments, classes: int, shrinkages: Sequence[float]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The weights (D, C), Σ⁻¹μ, and the bias (C,) for every shrinkage.

    With Z (N, D) the vectors minus the mean of their class, Σ = ZᵀZ / N. If N < D, Woodbury's identity leaves a system
    of N unknowns instead of D.

    Raises:
        UserError: no two images of a class differ.
    """
    rows, columns = train.shape
    counts = torch.bincount(train.labels, minlength=classes).double()
    means = train.class_sums(classes) / counts.clamp(min=1)[:, None]
    log_priors = (counts / rows).clamp(min=RARE).log()
    in_rows = train if isinstance(train, LabelledVectors) and rows < columns else None
    centred = in_rows.centred - means[train.labels] if in_rows else None
    gram = _within_classes(in_rows, means) if in_rows else train.gram - means.T @ (counts[:, None] * means)
    if not gram.trace() > NEGLIGIBLE * train.gram.trace():
        raise UserError(
            "`head`: lda compares images of the same class with each other, and no class has two different ones in "
            "train: take ridge."
        )
    average = gram.trace() / (rows * columns)
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    for shrinkage in shrinkages:
        ridge, share = shrinkage * average, (1 - shrinkage) / rows
        factor = torch.linalg.cholesky(share * gram + ridge * identity)
        if centred is not None:
            weights = (means.T - share * (centred.T @ torch.cholesky_solve(centred @ means.T, factor))) / ridge
        else:
            weights = torch.cholesky_solve(means.T, factor)
        yield weights, log_priors - (weights.T * means).sum(1) / 2 - train.mean @ weights


def _within_classes(train: LabelledVectors, means: torch.Tensor) -> torch.Tensor:
    """XXᵀ (N, N) of the vectors minus the mean of their class, from that of the centred vectors.

    Args:
        train: N vectors (N, D) and their labels.
        means: (C, D) of the centred vectors of each class.
    """
    with_means, labels = train.centred @ means[train.labels].T, train.labels
    return train.gram - with_means - with_means.T + (means @ means.T)[labels][:, labels]
