"""`largest`: the box of the largest object of an image, its class, or both.

On a map of 512 x 7 x 7 with `pool: none`, the layer for the box has 100,356 parameters.
"""

import torch
from torch import nn
from torch.nn import functional as F

from stages.boxes import dense, ops
from stages.boxes.geometry import Detections
from stages.boxes.losses import OVERLAP, box_loss, class_loss
from stages.heads.options import LargestOptions


class Norm(nn.BatchNorm1d):
    """Batch normalisation; a batch of a single image, which ends some epochs, is normalised as in evaluation."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and len(x) == 1:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


def build(shape: tuple[int, int, int], classes: int, options: LargestOptions) -> nn.Module:
    """A map (N, C, H, W) to (N, 4), (N, classes) or (N, 4 + classes): box, class or both.

    `pool: none` flattens the map, `avg` averages it. With `largest_hidden` above 0 a hidden layer precedes the outputs.
    """
    channels, height, width = shape
    pool = {"none": nn.Flatten(), "avg": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())}[options.pool]
    features = channels if options.pool == "avg" else channels * height * width
    outputs = {"box": 4, "class": classes, "both": 4 + classes}[options.predict]
    hidden = options.largest_hidden
    if not hidden:
        return nn.Sequential(pool, nn.Dropout(options.dropout), nn.Linear(features, outputs))
    dropout, between = nn.Dropout(options.dropout), [nn.ReLU(), Norm(hidden)]
    return nn.Sequential(
        pool, dropout, nn.Linear(features, hidden), *between, nn.Dropout(options.dropout), nn.Linear(hidden, outputs)
    )


def targets(
    boxes: torch.Tensor, labels: torch.Tensor, options: LargestOptions, *, shape: tuple[int, int, int]
) -> torch.Tensor:
    """(6,): 1 and the largest object's cx, cy, w, h in [0, 1] and class, or zeros where there is no object.

    Args:
        boxes: (n, 4) corners in [0, 1] of the view; of several largest ones the first counts.
        labels: (n,) the class of each box.
        options: not used.
        shape: not used.
    """
    if not len(boxes):
        return torch.zeros(6)
    largest = ops.box_area(boxes).argmax()
    return torch.cat([torch.ones(1), ops.box_convert(boxes[largest], "xyxy", "cxcywh"), labels[largest, None].float()])


def loss(outputs: torch.Tensor, targets: torch.Tensor, options: LargestOptions) -> torch.Tensor:
    """The mean over images with an object of w_box L_box + w_class L_class; a term that is not predicted is left out.

    Args:
        outputs: (N, …) as `build` gives them.
        targets: (N, 6).
        options: `predict`, `box_sigmoid`, `box_loss`, `box_weight`, `class_weight`, `loss` and `focal_gamma`.
    """
    objects = targets[:, 0] > 0
    outputs, targets = outputs[objects], targets[objects]
    centre_size, logits = _split(outputs, options)
    losses = outputs.new_zeros(len(outputs))
    if options.predict != "class":
        boxes = (centre_size, targets[:, 1:5])
        if options.box_loss in OVERLAP:
            boxes = (_corners(centre_size), _corners(targets[:, 1:5]))
        losses = losses + options.box_weight * box_loss(*boxes, options.box_loss)
    if options.predict != "box":
        losses = losses + options.class_weight * class_loss(logits, targets[:, 5].long(), options)
    return losses.sum() / max(1, len(losses))


def decode(outputs: torch.Tensor, options: LargestOptions) -> list[Detections]:
    """One box per image: the whole view if no box is predicted, and class 0 with score 1 if no class is predicted."""
    predicted = candidates(outputs, options)
    scores, labels = dense.scores(predicted)[:, 0].max(1)
    return [Detections(predicted.boxes[image], scores[[image]], labels[[image]]) for image in range(len(outputs))]


def candidates(outputs: torch.Tensor, options: LargestOptions) -> dense.Candidates:
    """The single candidate of each view, whose probability of an object is always 1."""
    centre_size, logits = _split(outputs, options)
    images = outputs.shape[0]
    whole_view = outputs.new_tensor([0.0, 0.0, 1.0, 1.0]).expand(images, 4)
    boxes = whole_view if options.predict == "class" else _corners(centre_size)
    if options.predict == "box":
        logits = outputs.new_zeros(images, 1)
    return dense.Candidates(boxes[:, None], outputs.new_ones(images, 1), logits[:, None])


def classified(outputs: torch.Tensor, targets: torch.Tensor, options: LargestOptions) -> torch.Tensor | None:
    """Which of the n images with an object have the right class: (n,) bool; None if no class is predicted."""
    if options.predict == "box":
        return None
    objects = targets[:, 0] > 0
    return (_split(outputs, options)[1].argmax(1) == targets[:, 5])[objects]


def unassigned(boxes: torch.Tensor, options: LargestOptions, shape: tuple[int, int, int]) -> int:
    """How many of an image's boxes (n, 4) the head cannot predict: all but one."""
    return max(0, len(boxes) - 1)


def _split(outputs: torch.Tensor, options: LargestOptions) -> tuple[torch.Tensor, torch.Tensor]:
    """Centre and size (N, 4) and class logits (N, C); the one that is not predicted has no columns."""
    coordinates = 0 if options.predict == "class" else 4
    centre_size = outputs[:, :coordinates]
    return centre_size.sigmoid() if options.box_sigmoid else centre_size, outputs[:, coordinates:]


def _corners(centre_size: torch.Tensor) -> torch.Tensor:
    corners: torch.Tensor = ops.box_convert(centre_size, "cxcywh", "xyxy")
    return corners
