"""The second stage of a detector: each proposed box is looked at again, in a small map of what is in and around it.

As in Faster R-CNN (Ren et al. 2015), but the first stage names classes, too, and is a detector of its own, as in
CenterNet2 (Zhou et al. 2021).
"""

import torch
from torch import nn
from torch.nn import functional as F

from stages.boxes import dense, ops
from stages.boxes.convolution import Pointwise
from stages.boxes.geometry import paired_iou
from stages.boxes.losses import OVERLAP
from stages.boxes.options import DenseOptions

SIDE = 7  # of the map of a box, in cells
CHANNELS = 64  # of that map
UNITS = 256  # of each of two hidden layers
MARGIN = 1.25  # the map shows the box and what is around it: so many times its sides
STEP = 0.2  # a shift of 1 moves a side by this share of the width or height
INWARDS, OUTWARDS = 0.45, 2.0  # how far a side moves at most, as a share of the width or height
MATCH = 0.5  # the least IoU with the object that a proposed box learns
CODE = 5  # the numbers that code a refined box: the shifts of its sides and its quality


class Refinement(nn.Module):
    """A map (N, C, H, W) and K proposed boxes (N, K, 4) to predictions (N, K, 1 + CODE + classes)."""

    def __init__(self, inputs: int, classes: int, options: DenseOptions) -> None:
        super().__init__()
        self.narrow = nn.Sequential(Pointwise(inputs, CHANNELS, bias=True), nn.ReLU())
        self.hidden = nn.Sequential(
            *_layer(CHANNELS * SIDE**2, options.dropout),
            *_layer(UNITS, options.dropout),
        )
        self.predict = nn.Linear(UNITS, 1 + CODE + classes)
        nn.init.normal_(self.predict.weight, std=dense.START)
        nn.init.zeros_(self.predict.bias)

    def forward(self, features: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        predictions: torch.Tensor = self.predict(self.hidden(inside(self.narrow(features), boxes).flatten(2)))
        return predictions


def inside(features: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """What is in and around each box, as maps (N, K, SIDE, C, SIDE): rows, channels, columns.

    A cell is a mean of the features around its centre, as far as the next cell and at least as far as the next feature,
    weighted by nearness: bilinear interpolation (RoIAlign, He et al. 2017), or a coarser one where boxes are large. It
    goes along one axis after the other, as products of matrices, which give the same bits every time on GPUs, too.

    Args:
        features: (N, C, H, W).
        boxes: (N, K, 4) corners in [0, 1] of the view.
    """
    images, channels, height, width = features.shape
    centre, half = (boxes[..., :2] + boxes[..., 2:]) / 2, MARGIN / 2 * (boxes[..., 2:] - boxes[..., :2])
    columns, rows = (
        _nearness(centre[..., axis] - half[..., axis], centre[..., axis] + half[..., axis], cells).to(features)
        for axis, cells in enumerate((width, height))
    )
    by_row = rows.flatten(1, 2) @ features.transpose(1, 2).flatten(2)  # (N, K * SIDE, C * W)
    cells = by_row.reshape(-1, SIDE * channels, width) @ columns.flatten(0, 1).transpose(1, 2)
    return cells.reshape(images, -1, SIDE, channels, SIDE)


def _nearness(low: torch.Tensor, high: torch.Tensor, cells: int) -> torch.Tensor:
    """The weights (N, K, SIDE, cells) of the features along an axis; their sum is 1, or 0 far beyond the border.

    Args:
        low: (N, K) where the map of each box begins, in [0, 1] of the view.
        high: (N, K) where it ends.
        cells: how many features there are.
    """
    step = ((high - low) * cells / SIDE)[..., None]
    centres = low[..., None] * cells + step * (torch.arange(SIDE).to(low) + 0.5)
    distance = (centres[..., None] - (torch.arange(cells).to(low) + 0.5)).abs()
    weights = (1 - distance / step.clamp(min=1)[..., None]).clamp(min=0)
    return weights / weights.sum(-1, keepdim=True).clamp(min=0.01)


def targets(proposed: torch.Tensor, boxes: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """What the proposed boxes of an image learn, (K, 6): 1, the corners of an object, its class; zeros without one.

    A proposed box learns the object that it overlaps most, if their IoU is at least MATCH.

    Args:
        proposed: (K, 4) corners.
        boxes: (n, 4) corners of the objects; one may be there several times.
        labels: (n,) their classes.
    """
    if not len(boxes):
        return proposed.new_zeros(len(proposed), 6)
    iou, best = ops.box_iou(proposed, boxes).max(1)
    return dense.target(torch.where(iou >= MATCH, best, dense.BACKGROUND), boxes[best], labels)


def loss(raw: torch.Tensor, proposed: torch.Tensor, truth: torch.Tensor, options: DenseOptions) -> torch.Tensor:
    """J of `dense.loss` over the proposed boxes, and for those with an object the losses of shifts and quality.

    The smooth L1 loss of the shifts comes on top of what `box_loss` compares. The quality is trained to be the IoU that
    the refined box has now, by cross-entropy.

    Args:
        raw: (N, K, 1 + CODE + classes) of `Refinement`.
        proposed: (N, K, 4) corners.
        truth: (N, K, 6) of `targets`.
        options: what `dense.loss` reads.
    """
    objects, prediction = truth[..., 0] > 0, dense.split(raw, CODE)
    code, start, end = prediction.code[objects], proposed[objects], truth[objects][:, 1:5]
    shifts, quality = code[:, :4], code[:, 4]
    refined, true_shifts = moved(start, shifts), shifts_between(start, end)
    parts = (
        F.smooth_l1_loss(shifts, true_shifts, reduction="sum") / 4,
        F.binary_cross_entropy_with_logits(quality, paired_iou(refined.detach(), end), reduction="sum"),
    )
    boxes = (refined, end) if options.box_loss in OVERLAP else (shifts, true_shifts)
    return dense.loss(prediction, truth, boxes=boxes, options=options) + torch.stack(parts).sum() / len(truth)


def candidates(raw: torch.Tensor, proposed: torch.Tensor) -> dense.Candidates:
    """The refined boxes; a score is the geometric mean of object and quality.

    Args:
        raw: (N, K, 1 + CODE + classes) of `Refinement`.
        proposed: (N, K, 4) corners.
    """
    prediction = dense.split(raw, CODE)
    shifts, quality = prediction.code[..., :4], prediction.code[..., 4]
    scores = dense.mean_probability(prediction.object, quality)
    return dense.Candidates(moved(proposed, shifts), scores, prediction.classes)


def moved(boxes: torch.Tensor, shifts: torch.Tensor) -> torch.Tensor:
    """Boxes (…, 4) with their sides moved outwards by shifts (…, 4), as far as INWARDS and OUTWARDS allow.

    No side passes the opposite one: of two boxes inside out, generalised IoU prefers the larger one, without end.
    """
    return boxes + _outwards(boxes) * shifts.clamp(-INWARDS / STEP, OUTWARDS / STEP)


def shifts_between(boxes: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """The shifts (…, 4) that move boxes (…, 4) to others (…, 4): the reverse of `moved`. No side may be 0."""
    return (others - boxes) / _outwards(boxes)


def _outwards(boxes: torch.Tensor) -> torch.Tensor:
    """(…, 4) how far a shift of 1 moves each side of some boxes."""
    size = STEP * (boxes[..., 2:] - boxes[..., :2])
    return torch.cat([-size, size], -1)


def _layer(inputs: int, dropout: float) -> tuple[nn.Module, ...]:
    return nn.Linear(inputs, UNITS), nn.ReLU(), nn.Dropout(dropout)
