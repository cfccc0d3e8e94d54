"""The losses of heads for boxes."""

import torch
from torch.nn import functional as F

from stages.boxes import ops
from stages.boxes.options import DenseOptions, LossOptions

OVERLAP = ("giou", "ciou")  # the kinds that compare corners


def box_loss(predicted: torch.Tensor, truth: torch.Tensor, kind: str) -> torch.Tensor:
    """The loss of each box (n,): the mean over its four numbers, or 1 - a kind of IoU of corners.

    Args:
        predicted: (n, 4).
        truth: (n, 4).
        kind: smooth_l1 (beta 1), l1, mse, giou (generalised IoU) or ciou (complete IoU, Zheng et al. 2020).
    """
    if kind in OVERLAP:
        overlap_loss = ops.generalized_box_iou_loss if kind == "giou" else ops.complete_box_iou_loss
        losses: torch.Tensor = overlap_loss(predicted, truth)
        return losses
    measure = {"smooth_l1": F.smooth_l1_loss, "l1": F.l1_loss, "mse": F.mse_loss}[kind]
    return measure(predicted, truth, reduction="none").mean(1)


def object_loss(logits: torch.Tensor, truth: torch.Tensor, options: DenseOptions) -> torch.Tensor:
    """The loss of each location, object or not, in the shape of the logits.

    With `loss: focal` it is Lin et al. 2017, eq. 5: α on objects, 1 - α on background; α < 0 weighs both by 1.

    Args:
        logits: of an object, in any shape.
        truth: the same shape: 1 object, 0 background, less than 0 where it is ignored.
        options: `loss`, `focal_alpha`, `focal_gamma`.
    """
    target = truth.clamp(min=0)
    if options.loss == "focal":
        losses = ops.sigmoid_focal_loss(logits, target, options.focal_alpha, options.focal_gamma)
    else:
        losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return torch.where(truth < 0, 0.0, losses)


def class_loss(logits: torch.Tensor, labels: torch.Tensor, options: LossOptions) -> torch.Tensor:
    """Cross-entropy of each of n choices (n, C), with `loss: focal` times (1 - p)^γ."""
    losses = F.cross_entropy(logits, labels, reduction="none")
    if options.loss == "focal":
        losses = losses * (1 - torch.exp(-losses)) ** options.focal_gamma
    return losses


def hardest(losses: torch.Tensor, truth: torch.Tensor, ratio: float) -> torch.Tensor:
    """The locations that count under hard-negative mining (Liu et al. 2016): (N, P) bool.

    They are all objects, and in each image the background locations with the highest loss: `ratio` per object, and
    `ratio` in an image without objects.

    Args:
        losses: (N, P).
        truth: (N, P): 1 object, 0 background, less than 0 where it is ignored.
        ratio: of background to objects; 0 counts everything that is not ignored.
    """
    if ratio == 0:
        return truth >= 0
    count = ratio * (truth > 0).sum(1, keepdim=True).clamp(min=1)
    hardest_first = torch.where(truth == 0, losses, -1.0).argsort(dim=1, descending=True, stable=True)
    chosen: torch.Tensor = hardest_first.argsort(dim=1) < count
    return (truth > 0) | ((truth == 0) & chosen)
