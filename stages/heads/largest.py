"""`largest`: the box of the largest object of an image, its class, or both.

With a map of 512 x 7 x 7 and `pool: none` the box takes 100,356 parameters.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from stages.boxes import dense, ops
from stages.boxes.geometry import Detections
from stages.boxes.losses import box_loss, class_loss

Knobs = Mapping[str, Any]


class Norm(nn.BatchNorm1d):
    """Batch normalisation; a single image, as the last batch of an epoch may be, has no variance of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and len(x) == 1:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


def build(shape: tuple[int, int, int], classes: int, knobs: Knobs) -> nn.Module:
    """A map (N, C, H, W) to (N, 4), (N, classes) or (N, 4 + classes): box, class or both.

    `pool: none` flattens the map, `avg` averages it. `largest_hidden` units, if any, come between map and outputs.
    """
    channels, height, width = shape
    pool = {"none": nn.Flatten(), "avg": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())}[knobs["pool"]]
    features = channels if knobs["pool"] == "avg" else channels * height * width
    outputs = {"box": 4, "class": classes, "both": 4 + classes}[knobs["predict"]]
    hidden = knobs["largest_hidden"]
    if not hidden:
        return nn.Sequential(pool, nn.Dropout(knobs["dropout"]), nn.Linear(features, outputs))
    dropout, between = nn.Dropout(knobs["dropout"]), [nn.ReLU(), Norm(hidden)]
    return nn.Sequential(
        pool, dropout, nn.Linear(features, hidden), *between, nn.Dropout(knobs["dropout"]), nn.Linear(hidden, outputs)
    )


def targets(
    boxes: torch.Tensor, labels: torch.Tensor, knobs: Knobs, shape: tuple[int, int, int], classes: int
) -> torch.Tensor:
    """(6,): 1 and the largest object's cx, cy, w, h in [0, 1] and class, or zeros where there is no object.

    Args:
        boxes: (n, 4) corners in [0, 1] of the view; of equally large ones the first counts.
        labels: (n,).
        knobs: none is used.
        shape: not used.
        classes: not used.
    """
    if not len(boxes):
        return torch.zeros(6)
    which = ops.box_area(boxes).argmax()
    return torch.cat([torch.ones(1), ops.box_convert(boxes[which], "xyxy", "cxcywh"), labels[which, None].float()])


def loss(outputs: torch.Tensor, targets: torch.Tensor, knobs: Knobs) -> torch.Tensor:
    """The mean over images with an object of w_box L_box + w_class L_class, as far as each is predicted.

    Args:
        outputs: (N, …) as `build` gives them.
        targets: (N, 6).
        knobs: `predict`, `box_sigmoid`, `box_loss`, `box_weight`, `class_weight`, `loss` and what belongs to it.
    """
    there = targets[:, 0] > 0
    outputs, targets = outputs[there], targets[there]
    centre_size, logits = _apart(outputs, knobs)
    each = outputs.new_zeros(len(outputs))
    if knobs["predict"] != "class":
        pair = (centre_size, targets[:, 1:5])
        if knobs["box_loss"] == "giou":
            pair = (_corners(centre_size), _corners(targets[:, 1:5]))
        each = each + knobs["box_weight"] * box_loss(*pair, knobs["box_loss"])
    if knobs["predict"] != "box":
        each = each + knobs["class_weight"] * class_loss(logits, targets[:, 5].long(), knobs)
    return each.sum() / max(1, len(each))


def decode(outputs: torch.Tensor, knobs: Knobs) -> list[Detections]:
    """One box an image: without a box the whole view, without a class class 0 and score 1."""
    boxes, objects, logits = places(outputs, knobs)
    scores, labels = dense.scores(objects, logits)[:, 0].max(1)
    return [Detections(boxes[place], scores[[place]], labels[[place]]) for place in range(len(outputs))]


def places(outputs: torch.Tensor, knobs: Knobs) -> dense.Places:
    """The one place of each view, as `dense.found` takes it; there always is an object."""
    centre_size, logits = _apart(outputs, knobs)
    images = outputs.shape[0]
    whole = outputs.new_tensor([0.0, 0.0, 1.0, 1.0]).expand(images, 4)
    boxes = whole if knobs["predict"] == "class" else _corners(centre_size)
    if knobs["predict"] == "box":
        logits = outputs.new_zeros(images, 1)
    return boxes[:, None], outputs.new_ones(images, 1), logits[:, None]


def classified(outputs: torch.Tensor, targets: torch.Tensor, knobs: Knobs) -> torch.Tensor | None:
    """Which of the images with an object have their class right: (n,) bool; None where no class is predicted."""
    if knobs["predict"] == "box":
        return None
    there = targets[:, 0] > 0
    return (_apart(outputs, knobs)[1].argmax(1) == targets[:, 5])[there]


def unassigned(boxes: torch.Tensor, knobs: Knobs, shape: tuple[int, int, int]) -> int:
    """How many of an image's boxes (n, 4) it cannot hold: all but one."""
    return max(0, len(boxes) - 1)


def _apart(outputs: torch.Tensor, knobs: Knobs) -> tuple[torch.Tensor, torch.Tensor]:
    """Centre and size (N, 4) and class logits (N, C); one of them is empty where it is not predicted."""
    numbers = 0 if knobs["predict"] == "class" else 4
    centre_size = outputs[:, :numbers]
    return centre_size.sigmoid() if knobs["box_sigmoid"] else centre_size, outputs[:, numbers:]


def _corners(centre_size: torch.Tensor) -> torch.Tensor:
    corners: torch.Tensor = ops.box_convert(centre_size, "cxcywh", "xyxy")
    return corners
