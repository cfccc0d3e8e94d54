"""What a head minimises: cross-entropy or focal loss, with class weights and label smoothing.

For several labels it is the binary cross-entropy of each class, over the entries that are known.
"""

import torch
from torch.nn import functional as F

from stages.metrics.multilabel import UNKNOWN
from stages.params import Params


def class_weights(labels: torch.Tensor, classes: int, weighting: str) -> torch.Tensor | None:
    """Weights (classes,), the inverse of each class's share of the labels, or None if all classes weigh the same.

    A class without images weighs nothing.

    Args:
        labels: (N,).
        classes: how many.
        weighting: `none` or `balanced`.
    """
    if weighting == "none":
        return None
    counts = torch.bincount(labels, minlength=classes)
    return torch.where(counts > 0, len(labels) / (classes * counts.clamp(min=1)), 0.0)


def loss(logits: torch.Tensor, labels: torch.Tensor, *, params: Params, weights: torch.Tensor | None) -> torch.Tensor:
    """The mean loss of a batch, weighted by class.

    Focal loss (Lin et al. 2017, eq. 4) is (1 - p)^γ times the cross-entropy, p the probability of the label; γ = 0 is
    cross-entropy itself.

    Args:
        logits: (N, C).
        labels: (N,).
        params: `loss`, `focal_gamma`, `label_smoothing`.
        weights: (C,) or None.
    """
    losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=params.label_smoothing)
    if params.loss == "focal":
        probability = logits.softmax(1).gather(1, labels[:, None])[:, 0]
        losses = (1 - probability) ** params.focal_gamma * losses
    if weights is None:
        return losses.mean()
    return (losses * weights[labels]).sum() / weights[labels].sum()


def stacked(
    logits: torch.Tensor, labels: torch.Tensor, *, params: Params, weights: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of each of many heads on a batch, and its gradient with respect to their logits.

    For cross-entropy both are computed by formula, in a quarter of autograd's time: with the target q (the one-hot
    label, smoothed) and each image's share s of the mean, the loss is -Σ s q log p and its gradient s (p - q).

    Args:
        logits: (heads, C, N).
        labels: (N,); or (N, C) of several labels, with the loss of `labels_loss`.
        params: see `loss`.
        weights: (C,) or None; (2, C) of several labels.

    Returns:
        (heads,) and (heads, C, N).
    """
    if labels.ndim == 2:
        return _stacked_labels(logits, labels, params=params, weights=weights)
    if params.loss == "focal":
        of_head = torch.func.grad_and_value(
            lambda head_logits: loss(head_logits.T, labels, params=params, weights=weights)
        )
        gradient, value = torch.func.vmap(of_head)(logits)
        return value, gradient
    classes = logits.shape[1]
    one_hot = F.one_hot(labels, classes).T.contiguous()
    target = one_hot * (1 - params.label_smoothing) + params.label_smoothing / classes
    weight = torch.ones_like(target[0]) if weights is None else weights[labels]
    share = weight / weight.sum()
    value = -(logits.log_softmax(1).flatten(1) @ (share * target).flatten())
    return value, logits.softmax(1).sub_(target).mul_(share)


def _stacked_labels(
    logits: torch.Tensor, labels: torch.Tensor, *, params: Params, weights: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The binary cross-entropy of each of many heads and its gradient, share (p - q); focal loss by autograd."""
    if params.loss == "focal":
        of_head = torch.func.grad_and_value(
            lambda head_logits: labels_loss(head_logits.T, labels, params=params, weights=weights)
        )
        gradient, value = torch.func.vmap(of_head)(logits)
        return value, gradient
    present = (labels == 1).T
    target = present * (1 - params.label_smoothing) + params.label_smoothing / 2
    share = (labels != UNKNOWN).T.to(logits.dtype)
    if weights is not None:
        share = share * torch.where(present, weights[1][:, None], weights[0][:, None])
    share = share / share.sum().clamp(min=torch.finfo(logits.dtype).tiny)
    losses = F.binary_cross_entropy_with_logits(logits, target.expand_as(logits), reduction="none")
    return (losses * share).sum((1, 2)), logits.sigmoid().sub_(target).mul_(share)


def label_weights(labels: torch.Tensor, weighting: str) -> torch.Tensor | None:
    """Weights (2, C) of absent and of present labels, the inverse of their shares in each class, or None if all are 1.

    A side of a class without images weighs nothing.

    Args:
        labels: (N, C) of 1, 0 and UNKNOWN.
        weighting: `none` or `balanced`.
    """
    if weighting == "none":
        return None
    counts = torch.stack([(labels == 0).sum(0), (labels == 1).sum(0)]).float()
    return torch.where(counts > 0, counts.sum(0) / (2 * counts.clamp(min=1)), 0.0)


def labels_loss(
    logits: torch.Tensor, labels: torch.Tensor, *, params: Params, weights: torch.Tensor | None
) -> torch.Tensor:
    """The mean binary cross-entropy, or focal loss, of the known entries of a batch; 0 if nothing is known.

    Label smoothing takes half of itself from each side: targets are 1 - s / 2 and s / 2.

    Args:
        logits: (N, C).
        labels: (N, C) of 1, 0 and UNKNOWN.
        params: `loss`, `focal_gamma`, `label_smoothing`.
        weights: (2, C) or None, see `label_weights`.
    """
    known, present = labels != UNKNOWN, labels == 1
    targets = present.to(logits.dtype) * (1 - params.label_smoothing) + params.label_smoothing / 2
    losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    if params.loss == "focal":
        probability = torch.where(present, logits, -logits).sigmoid()  # of what the label says
        losses = (1 - probability) ** params.focal_gamma * losses
    share = known.to(logits.dtype)
    if weights is not None:
        share = share * torch.where(present, weights[1], weights[0])
    return (losses * share).sum() / share.sum().clamp(min=torch.finfo(logits.dtype).tiny)
