"""`ridge`: ridge regression on one-hot labels, or on several of 1 and 0; validation chooses its strength."""

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


def solutions(layers: nn.Module, train: Moments, val: LabelledVectors) -> Iterator[Solution]:
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
    scale = notes.get("scale", 1.0)  # several labels have none
    put(layers, scale * weights, scale * bias)
    return Solution(notes)


def _solve(train: Moments, classes: int, strengths: Sequence[float]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """W (D, C) and the bias (C,) for every strength: one Gram matrix for all, and one Cholesky factor for each."""
    if isinstance(train, LabelledVectors) and train.multilabel:
        yield from _solve_labels(train, classes, [strength * train.variance for strength in strengths])
        return
    rows, columns = train.shape
    frequencies = torch.bincount(train.labels, minlength=classes).double() / rows
    in_rows = train if isinstance(train, LabelledVectors) and rows < columns else None
    target = F.one_hot(train.labels, classes) - frequencies if in_rows else train.class_sums(classes).T
    for strength in strengths:
        factor = torch.linalg.cholesky(_regularized(train.gram, strength * train.variance * rows))
        solution = torch.cholesky_solve(target, factor)
        weights = in_rows.centred.T @ solution if in_rows else solution
        yield weights, frequencies - train.mean @ weights


def _solve_labels(
    train: LabelledVectors, classes: int, penalties: Sequence[float]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """W (D, C) and the bias (C,) of several labels for every penalty λ.

    Classes whose unknown entries are in the same images are solved together, without these images.
    """
    targets = train.targets(classes)
    patterns, pattern_of = torch.unique(train.known.T, dim=0, return_inverse=True)
    weights = targets.new_zeros(len(penalties), train.x.shape[1], classes)
    bias = targets.new_zeros(len(penalties), classes)
    for number, known in enumerate(patterns):
        columns = (pattern_of == number).nonzero()[:, 0]
        if not known.any():
            continue  # nobody knows anything of these classes: their scores are 0
        part = train if known.all() else LabelledVectors(train.x[known], train.labels[known])
        gram = train.gram if known.all() else _gram_of(train, part, known)
        solved = _regressions(part, gram, targets[known][:, columns], penalties)
        for place, (of_part, bias_of_part) in enumerate(solved):
            weights[place][:, columns], bias[place][columns] = of_part, bias_of_part
    yield from zip(weights, bias, strict=True)


def _gram_of(train: LabelledVectors, part: LabelledVectors, known: torch.Tensor) -> torch.Tensor:
    """The Gram matrix of a part of the vectors; for (D, D) that of all, less what the other few vectors add to it."""
    rows, columns = part.x.shape
    if rows < columns or len(train.x) < columns:
        return part.gram
    others = train.double[~known]
    squares = train.gram + len(train.x) * torch.outer(train.mean, train.mean) - others.T @ others
    return squares - rows * torch.outer(part.mean, part.mean)


def _regressions(
    train: LabelledVectors, gram: torch.Tensor, targets: torch.Tensor, penalties: Sequence[float]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """W (D, C) and the bias (C,) for every penalty λ, of some labels that are known of all vectors.

    Args:
        train: N vectors (N, D).
        gram: (D, D), or (N, N) if N < D, of the centred vectors.
        targets: (N, C).
        penalties: λ, in units of the features' variance.
    """
    rows, columns = train.x.shape
    dual, frequencies = rows < columns, targets.mean(0)
    target = targets - frequencies if dual else train.centred.T @ (targets - frequencies)
    for penalty in penalties:
        factor = torch.linalg.cholesky(_regularized(gram, penalty * rows))
        solution = torch.cholesky_solve(target, factor)
        weights = train.centred.T @ solution if dual else solution
        yield weights, frequencies - train.mean @ weights


def _regularized(gram: torch.Tensor, penalty: float) -> torch.Tensor:
    """The matrix with a penalty on its diagonal."""
    matrix = gram.clone()
    matrix.diagonal().add_(penalty)
    return matrix
