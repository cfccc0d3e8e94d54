"""`logistic`: multinomial logistic regression by L-BFGS; validation chooses its strength.

This is the linear probe of CLIP (Radford et al. 2021) and DINOv2 (Oquab et al. 2024): it minimises the mean
cross-entropy of all train vectors plus λ/2 ‖W‖² for a path of strengths λ, each starting from the previous solution.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from stages.blocks import HeadOptions
from stages.heads.contract import LabelledVectors, Solution

STRENGTHS = tuple(10.0 ** (-power / 2) for power in range(-1, 11))  # λ, from strong to weak: 3 to 1e-5
PATIENCE = 2  # strengths in a row with a higher cross-entropy on validation; after them weaker ones are not tried
STEPS, MEMORY = 1000, 10  # of L-BFGS: iterations at most, and gradients that it keeps
GRADIENT = 2e-5  # the largest entry of the gradient at a solution, as a multiple of λ: what W may be off by


def build(shape: Sequence[int], classes: int, options: HeadOptions) -> nn.Module:
    """(N, D) to logits (N, classes)."""
    return nn.Linear(shape[0], classes)


def solutions(layers: nn.Module, train: LabelledVectors, val: LabelledVectors) -> Iterator[Solution]:
    """One solution for each of STRENGTHS, until validation has become worse PATIENCE times in a row."""
    assert isinstance(layers, nn.Linear)
    exact = torch.float32 if train.x.device.type == "mps" else torch.float64  # Apple's GPUs have no float64
    weight, bias = (torch.zeros_like(parameter, dtype=exact) for parameter in (layers.weight, layers.bias))
    best, worse = float("inf"), 0
    for strength in STRENGTHS:
        weight, bias = minimise(weight, bias, train=train, strength=strength)
        with torch.no_grad():
            layers.weight.copy_(weight)
            layers.bias.copy_(bias)
        yield Solution({"strength": strength})
        loss = float(F.cross_entropy(F.linear(val.x.to(weight), weight, bias), val.labels))
        best, worse = min(best, loss), worse + 1 if loss > best else 0
        if worse == PATIENCE:
            return


def minimise(
    weight: torch.Tensor, bias: torch.Tensor, *, train: LabelledVectors, strength: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (C, D) and bias (C,) that minimise the penalised loss; the bias is not penalised.

    In float64: float32 rounds the loss so coarsely that the line search ends far from the minimum.

    Args:
        weight: (C, D) to start from.
        bias: (C,) to start from.
        train: the vectors and their labels.
        strength: λ.
    """
    x, one_hot = train.x.to(weight), F.one_hot(train.labels, len(bias)).to(weight)
    weight, bias = weight.clone(), bias.clone()
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=STEPS,
        tolerance_grad=GRADIENT * strength,
        tolerance_change=0.0,
        history_size=MEMORY,
        line_search_fn="strong_wolfe",
    )

    def loss() -> torch.Tensor:
        """The loss; also sets the gradients, whose formula takes half the time of autograd."""
        log_probabilities = F.linear(x, weight, bias).log_softmax(1)
        residual = (log_probabilities.exp() - one_hot) / len(x)
        weight.grad = residual.T @ x + strength * weight
        bias.grad = residual.sum(0)
        return -(log_probabilities * one_hot).sum() / len(x) + strength / 2 * weight.square().sum()

    with torch.no_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]
    return weight, bias
