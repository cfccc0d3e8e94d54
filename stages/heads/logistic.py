"""`logistic`: multinomial logistic regression by L-BFGS; validation chooses its strength.

This is the linear probe of CLIP (Radford et al. 2021) and DINOv2 (Oquab et al. 2024): it minimises the mean
cross-entropy of all train vectors plus λ/2 ‖W‖² for a path of strengths, each starting from the previous solution. λ is
the strength times the mean variance of a feature. Of several labels each has a binary cross-entropy of its own, the
mean over the images in which it is known; all are minimised at once.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from stages.blocks import HeadOptions
from stages.heads.contract import LabelledVectors, Solution, put
from stages.heads.optimizers import LBFGS

STRENGTHS = tuple(10.0 ** (-power / 2) for power in range(-1, 11))  # 3 to 1e-5, in multiples of the features' variance
PATIENCE = 2  # strengths in a row with a higher cross-entropy on validation, after them weaker ones are not tried
STEPS, MEMORY = 1000, 30  # of L-BFGS: iterations at most, and gradients that it keeps
NEGLIGIBLE = 1e-12  # a smaller share of the largest variance is a rounding error
RAREST = 1e-6  # the least share of a label to start from, of which the logit is finite


class Accuracy(NamedTuple):
    """How exactly a solution is computed.

    Attributes:
        gradient: the largest entry of the gradient at the solution, as a multiple of √λ, of scaled weights.
        dtype: of the products, nearly all of the work; sums are in float64.
    """

    gradient: float
    dtype: torch.dtype


# Probabilities are within 0.005 of the exact ones along the path, which is enough to choose a strength. From `solve`
# they are within 0.0001, which takes four times as many steps, and float64: rounded to float32 the loss is too coarse
# for the line search.
ON_THE_PATH, EXACT = Accuracy(1e-3, torch.float32), Accuracy(1e-6, torch.float64)


class Axes(NamedTuple):
    """Train vectors in the directions of their own variance, in which the loss is about equally curved after scaling.

    Attributes:
        rows: (N, K) the vectors in these directions.
        squares: (K,) the mean square of each.
        directions: (D, K) orthonormal.
    """

    rows: torch.Tensor
    squares: torch.Tensor
    directions: torch.Tensor


def build(shape: Sequence[int], classes: int, options: HeadOptions) -> nn.Module:
    """(N, D) to logits (N, classes)."""
    return nn.Linear(shape[0], classes)


def solutions(layers: nn.Module, train: LabelledVectors, val: LabelledVectors) -> Iterator[Solution]:
    """One solution for each of STRENGTHS, until validation has become worse PATIENCE times in a row."""
    assert isinstance(layers, nn.Linear)
    axes, share = _axes(train), _share(train)
    val_rows = (val.double - train.mean) @ axes.directions
    weight, bias = _start(layers, axes, train.labels, share)
    best, worse = float("inf"), 0
    for strength in STRENGTHS:
        weight, bias = minimise(
            weight, bias, axes, train.labels, strength=strength * train.variance, accuracy=ON_THE_PATH, share=share
        )
        _put(layers, weight, bias, train, axes)
        yield Solution({"strength": strength})
        loss = _cross_entropy(F.linear(val_rows, weight, bias), val)
        best, worse = min(best, loss), worse + 1 if loss > best else 0
        if worse == PATIENCE:
            return


def solve(layers: nn.Module, train: LabelledVectors, notes: Mapping[str, float]) -> Solution:
    """The solution of a strength, without the path to it."""
    assert isinstance(layers, nn.Linear)
    axes, share = _axes(train), _share(train)
    start, strength = _start(layers, axes, train.labels, share), notes["strength"] * train.variance
    weight, bias = minimise(*start, axes, train.labels, strength=strength, accuracy=EXACT, share=share)
    _put(layers, weight, bias, train, axes)
    return Solution(notes)


def _start(
    layers: nn.Linear, axes: Axes, labels: torch.Tensor, share: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (C, K) and bias (C,) to start from: zeros; of several labels the bias says how frequent each is."""
    classes, directions = layers.out_features, axes.rows.shape[1]
    weight, bias = axes.rows.new_zeros(classes, directions), axes.rows.new_zeros(classes)
    return weight, bias if share is None else ((labels == 1) * share).sum(0).clamp(RAREST, 1 - RAREST).logit()


def _share(train: LabelledVectors) -> torch.Tensor | None:
    """(N, C): the share of each entry of several labels in the mean of its class; None for one label per image."""
    if not train.multilabel:
        return None
    known = train.known.double()
    return known / known.sum(0).clamp(min=1)


def _cross_entropy(logits: torch.Tensor, val: LabelledVectors) -> float:
    """The cross-entropy on validation, of several labels over all known entries."""
    if not val.multilabel:
        return float(F.cross_entropy(logits, val.labels))
    targets = val.targets(logits.shape[1])
    return float(F.binary_cross_entropy_with_logits(logits[val.known], targets[val.known]))


def _put(layers: nn.Linear, weight: torch.Tensor, bias: torch.Tensor, train: LabelledVectors, axes: Axes) -> None:
    """Writes weight (C, K) and bias (C,) of the centred vectors into the layer, for vectors as they are."""
    weights = axes.directions @ weight.T
    put(layers, weights, bias - train.mean @ weights)


def _axes(train: LabelledVectors) -> Axes:
    """The eigenvectors of XᵀX, by way of XXᵀ where N < D; the best weights have no part outside of their span.

    X is centred, which the bias makes up for and which leaves the directions more alike. In float64: float32 rounds the
    loss so coarsely that the line search ends far from the minimum.
    """
    values, vectors = torch.linalg.eigh(train.gram)
    large = values > NEGLIGIBLE * values[-1].clamp(min=torch.finfo(values.dtype).tiny)
    values, vectors = values[large], vectors[:, large]
    rows, columns = train.x.shape
    if rows < columns:
        return Axes(vectors * values.sqrt(), values / rows, train.centred.T @ (vectors / values.sqrt()))
    return Axes(train.centred @ vectors, values / rows, vectors)


def minimise(
    weight: torch.Tensor,
    bias: torch.Tensor,
    axes: Axes,
    labels: torch.Tensor,
    *,
    strength: float,
    accuracy: Accuracy,
    share: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (C, K) and bias (C,) that minimise the penalised loss; the bias is not penalised.

    The second derivative along direction k is about p (1 - p) times the mean square of the rows there, plus λ, with p
    the probabilities at the start. L-BFGS works on weights divided by the root of its inverse, so that all directions
    are about equally curved, and the bias with them: that takes a tenth of the steps.

    Args:
        weight: (C, K) to start from.
        bias: (C,) to start from.
        axes: the train vectors.
        labels: (N,) int64, theirs; (N, C) of 1, 0 and -1 where images have several.
        strength: λ.
        accuracy: ON_THE_PATH or EXACT.
        share: (N, C) of each entry of several labels in the mean of its class; None for one label per image.
    """
    logits = F.linear(axes.rows, weight, bias)
    probabilities = logits.softmax(1) if share is None else logits.sigmoid()
    curvature = (probabilities * (1 - probabilities)).mean().clamp(min=NEGLIGIBLE)
    scale = (curvature * axes.squares + strength).rsqrt()
    bias_scale = curvature.rsqrt()
    x, penalty = (axes.rows * scale).to(accuracy.dtype), strength * scale.square()
    weight, bias = weight / scale, bias / bias_scale
    images, count = torch.arange(len(x), device=x.device), len(x) if share is None else 1
    targets = (labels == 1).double()  # of several labels
    optimizer = LBFGS(
        [weight, bias],
        max_iter=STEPS,
        tolerance_grad=accuracy.gradient * strength**0.5,
        tolerance_change=0.0,
        history_size=MEMORY,
        line_search_fn="strong_wolfe",
    )

    def loss() -> torch.Tensor:
        """The loss; also sets the gradients, whose formula takes half the time of autograd."""
        logits = F.linear(x, weight.to(x.dtype), (bias * bias_scale).to(x.dtype))
        if share is None:
            log_probabilities = logits.log_softmax(1)
            fit = F.nll_loss(log_probabilities.double(), labels)
            residual = log_probabilities.exp_()
            residual[images, labels] -= 1
        else:
            logits = logits.double()  # their binary cross-entropy is little work beside the products
            fit = F.binary_cross_entropy_with_logits(logits, targets, share, reduction="sum")
            residual = ((logits.sigmoid() - targets) * share).to(x.dtype)
        weight.grad = (residual.T @ x).double() / count + penalty * weight
        bias.grad = residual.sum(0, dtype=torch.float64) / count * bias_scale
        return fit + (penalty * weight.square()).sum() / 2

    with torch.no_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]
    return weight * scale, bias * bias_scale
