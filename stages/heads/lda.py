"""`lda`: linear discriminant analysis with shrinkage, in closed form; validation chooses the shrinkage.

All classes share one covariance Σ, that of the train vectors around the means μ of their classes, shrunk towards a
multiple of the identity (Ledoit and Wolf 2004): (1 - s) Σ + s (tr Σ / D) I. The logit of a class is then
x Σ⁻¹μ - ½ μΣ⁻¹μ + log π, with π its share of the train vectors.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from stages.blocks import HeadOptions
from stages.heads.contract import LabelledVectors, Solution

SHRINKAGES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95)
RARE = 1e-12  # the share of a class without train images, whose logarithm would be infinite


def build(shape: Sequence[int], classes: int, options: HeadOptions) -> nn.Module:
    """(N, D) to logits (N, classes)."""
    return nn.Linear(shape[0], classes)


def solutions(layers: nn.Module, train: LabelledVectors, val: LabelledVectors) -> Iterator[Solution]:
    """One solution for each of SHRINKAGES."""
    assert isinstance(layers, nn.Linear)
    x, one_hot = train.double, F.one_hot(train.labels, layers.out_features).double()
    counts = one_hot.sum(0)
    means = one_hot.T @ x / counts.clamp(min=1)[:, None]
    log_priors = (counts / len(x)).clamp(min=RARE).log()
    centred = x - means[train.labels]
    for shrinkage, weights in zip(SHRINKAGES, _solve(centred, _centred_gram(train, means, counts), means), strict=True):
        with torch.no_grad():
            layers.weight.copy_(weights.float())
            layers.bias.copy_((log_priors - (weights * means).sum(1) / 2).float())
        yield Solution({"shrinkage": shrinkage})


def _centred_gram(train: LabelledVectors, means: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """The Gram matrix of the vectors minus the mean of their class, from that of the vectors themselves.

    Args:
        train: N vectors (N, D) and their labels.
        means: (C, D).
        counts: (C,) vectors of each class.
    """
    rows, columns = train.x.shape
    if rows >= columns:
        return train.gram - means.T @ (counts[:, None] * means)
    with_means, labels = train.double @ means[train.labels].T, train.labels
    return train.gram - with_means - with_means.T + (means @ means.T)[labels][:, labels]


def _solve(centred: torch.Tensor, gram: torch.Tensor, means: torch.Tensor) -> Iterator[torch.Tensor]:
    """The weights (C, D), Σ⁻¹μ, for every shrinkage.

    With Z (N, D) centred, Σ = ZᵀZ / N. If N < D, Woodbury's identity leaves a system of N unknowns instead of D.

    Args:
        centred: (N, D) train vectors minus the mean of their class.
        gram: the Gram matrix of these.
        means: (C, D).
    """
    rows, columns = centred.shape
    dual = rows < columns
    average = gram.trace() / (rows * columns)
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    for shrinkage in SHRINKAGES:
        ridge, share = shrinkage * average, (1 - shrinkage) / rows
        factor = torch.linalg.cholesky(share * gram + ridge * identity)
        if dual:
            projected = torch.cholesky_solve(centred @ means.T, factor)
            yield (means - share * (centred.T @ projected).T) / ridge
        else:
            yield torch.cholesky_solve(means.T, factor).T
