"""What heads for boxes minimise."""

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional as F

from stages.boxes import ops


def box_loss(found: torch.Tensor, truth: torch.Tensor, kind: str) -> torch.Tensor:
    """The loss of each box (n,): the mean over its four numbers, or 1 - generalised IoU of corners.

    Args:
        found: (n, 4).
        truth: (n, 4).
        kind: smooth_l1 (beta 1), l1, mse or giou.
    """
    if kind == "giou":
        each: torch.Tensor = ops.generalized_box_iou_loss(found, truth)
        return each
    measure = {"smooth_l1": F.smooth_l1_loss, "l1": F.l1_loss, "mse": F.mse_loss}[kind]
    return measure(found, truth, reduction="none").mean(1)


def object_loss(logits: torch.Tensor, truth: torch.Tensor, knobs: Mapping[str, Any]) -> torch.Tensor:
    """The loss of each place, object or not, in the shape of the logits; truth is 1, 0, or less where it is ignored.

    With `loss: focal` it is Lin et al. 2017, eq. 5: α on objects, 1 - α on background; α < 0 weighs both by 1.
    """
    target = truth.clamp(min=0)
    if knobs["loss"] == "focal":
        each = ops.sigmoid_focal_loss(logits, target, knobs["focal_alpha"], knobs["focal_gamma"])
    else:
        each = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return torch.where(truth < 0, 0.0, each)


def class_loss(logits: torch.Tensor, labels: torch.Tensor, knobs: Mapping[str, Any]) -> torch.Tensor:
    """Cross-entropy of each of n choices (n, C), with `loss: focal` times (1 - p)^γ."""
    each = F.cross_entropy(logits, labels, reduction="none")
    if knobs["loss"] == "focal":
        each = each * (1 - torch.exp(-each)) ** knobs["focal_gamma"]
    return each


def hardest(each: torch.Tensor, truth: torch.Tensor, ratio: float) -> torch.Tensor:
    """What counts under hard-negative mining (Liu et al. 2016): (N, P) bool.

    All objects, and per image the background places with the highest loss, `ratio` for each object (at least one).

    Args:
        each: (N, P) losses.
        truth: (N, P) 1 object, 0 background, less: ignored.
        ratio: 0 keeps all.
    """
    if ratio == 0:
        return truth >= 0
    wanted = ratio * (truth > 0).sum(1, keepdim=True).clamp(min=1)
    hardest_first = torch.where(truth == 0, each, -1.0).argsort(dim=1, descending=True, stable=True)
    chosen: torch.Tensor = hardest_first.argsort(dim=1) < wanted
    return (truth > 0) | ((truth == 0) & chosen)
