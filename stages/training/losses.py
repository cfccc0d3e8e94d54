"""What a head minimises: cross-entropy or focal loss, with class weights and label smoothing."""

import torch
from torch.nn import functional as F

from stages.params import Params


def class_weights(labels: torch.Tensor, classes: int, how: str) -> torch.Tensor | None:
    """Weights (classes,) by the inverse of a class's share of the labels, or None for equal ones.

    A class without images weighs nothing.
    """
    if how == "none":
        return None
    counts = torch.bincount(labels, minlength=classes)
    return torch.where(counts > 0, len(labels) / (classes * counts.clamp(min=1)), 0.0)


def loss(logits: torch.Tensor, labels: torch.Tensor, params: Params, weights: torch.Tensor | None) -> torch.Tensor:
    """The mean loss of a batch, weighted by class.

    Focal loss (Lin et al. 2017, eq. 4) is (1 - p)^γ times the cross-entropy, p the probability of the label; γ = 0 is
    cross-entropy itself.

    Args:
        logits: (N, C).
        labels: (N,).
        params: `loss`, `focal_gamma`, `label_smoothing`.
        weights: (C,) or None.
    """
    each = F.cross_entropy(logits, labels, reduction="none", label_smoothing=params.label_smoothing)
    if params.loss == "focal":
        probability = logits.softmax(1).gather(1, labels[:, None])[:, 0]
        each = (1 - probability) ** params.focal_gamma * each
    if weights is None:
        return each.mean()
    return (each * weights[labels]).sum() / weights[labels].sum()
