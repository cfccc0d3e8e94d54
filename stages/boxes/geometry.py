"""Boxes through views and back, non-maximum suppression, and fusion."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from stages.boxes import ops

VOTING = 0.6  # boxes with this IoU or more are taken for votes on the same sides: the best of 0.5 to 0.8 on BCCD's val
BORDER = 0.02  # of a view's side: a box that comes this near to the border of a crop may be cut by it
VISIBLE = 0.3  # a box is cut at the border of the view, and dropped if less than this share of its area remains


class Detections(NamedTuple):
    """The boxes that a head detects in one image, in any order.

    Attributes:
        boxes: (n, 4) corners.
        scores: (n,) in [0, 1].
        labels: (n,) int64.
    """

    boxes: torch.Tensor
    scores: torch.Tensor
    labels: torch.Tensor

    def pick(self, which: torch.Tensor) -> "Detections":
        """The detections that an index (m,) or a mask (n,) selects."""
        return Detections(self.boxes[which], self.scores[which], self.labels[which])


class GroundTruth(NamedTuple):
    """The objects of one image.

    Attributes:
        boxes: (n, 4) corners in pixels of the image.
        labels: (n,) int64.
        ignored: (n,) bool: difficult, or to be ignored for another reason; counts neither way.
        crowd: (n,) bool: many objects in one box. A detection of which half is in it counts neither way.
    """

    boxes: torch.Tensor
    labels: torch.Tensor
    ignored: torch.Tensor
    crowd: torch.Tensor


def paired_iou(boxes: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """The IoU (n,) of each box (n, 4) with the one in the same place of others (n, 4), without all n² pairs."""
    pairs: torch.Tensor = ops.box_iou(boxes[:, None], others[:, None])
    return pairs.flatten()


def through(boxes: torch.Tensor, affine: torch.Tensor) -> torch.Tensor:
    """Boxes (n, 4) through an affine map (2, 3): a rotated box becomes the bounding box of its corners."""
    x, y = boxes[:, [0, 2, 2, 0]], boxes[:, [1, 1, 3, 3]]
    corners = torch.stack([x, y, torch.ones_like(x)], dim=2) @ affine.to(boxes).T  # (n, 4 corners, 2)
    return torch.cat([corners.amin(1), corners.amax(1)], dim=1)


def inverse(affine: torch.Tensor) -> torch.Tensor:
    """The inverse (2, 3) of an affine map (2, 3)."""
    back = torch.linalg.inv(affine[:, :2])
    return torch.cat([back, -back @ affine[:, 2:]], dim=1)


def clip(boxes: torch.Tensor, width: float, height: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes (n, 4) cut at the border of an image or view, and which of them keep the share VISIBLE: (n,) bool.

    Args:
        boxes: (n, 4) corners.
        width: of the image or view, in the unit of the boxes.
        height: the same.
    """
    inside = torch.minimum(boxes.clamp(min=0), boxes.new_tensor([width, height, width, height]))
    remains = ops.box_area(inside)
    return inside, (remains > 0) & (remains >= VISIBLE * ops.box_area(boxes))


def to_view(boxes: torch.Tensor, affine: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes in pixels of an image as boxes in a view.

    Args:
        boxes: (n, 4).
        affine: (2, 3), from pixels of the image to pixels of the view.
        size: of the view, in pixels a side.

    Returns:
        (n, 4) in [0, 1] of the view, cut at its border, and which keep enough of their area (VISIBLE): (n,) bool.
    """
    return clip(through(boxes, affine) / size, 1, 1)


def to_image(boxes: torch.Tensor, affine: torch.Tensor, *, size: int, width: int, height: int) -> torch.Tensor:
    """Boxes in a view as boxes (n, 4) in pixels of the image, cut at the image's border.

    Args:
        boxes: (n, 4) in [0, 1] of the view.
        affine: (2, 3), from pixels of the image to pixels of the view.
        size: of the view, in pixels a side.
        width: of the image, in pixels.
        height: of the image, in pixels.
    """
    back = through(boxes * size, inverse(affine))
    return clip(back, width, height)[0]


def whole(boxes: torch.Tensor, affine: torch.Tensor, *, size: int, width: int, height: int) -> torch.Tensor:
    """Which boxes (n,) of a view end before its border, or where the image ends too; a crop may have cut the others.

    Args:
        boxes: (n, 4) in [0, 1] of the view.
        affine: (2, 3), from pixels of the image to pixels of the view.
        size: of the view, in pixels a side.
        width: of the image, in pixels.
        height: of the image, in pixels.
    """
    image = through(boxes.new_tensor([[0, 0, width, height]]), affine) / size
    beyond = torch.cat([image[:, :2] < -BORDER, image[:, 2:] > 1 + BORDER], 1)
    at_border = torch.cat([boxes[:, :2] < BORDER, boxes[:, 2:] > 1 - BORDER], 1)
    return ~(at_border & beyond).any(1)


def suppress(detections: Detections, iou: float, most: int) -> Detections:
    """Class-wise non-maximum suppression: the best boxes that do not overlap a better one by more than `iou`.

    Args:
        detections: boxes in pixels: torchvision shifts the boxes of each class, which costs small boxes digits.
        iou: in [0, 1].
        most: boxes that are kept at most.
    """
    return detections.pick(ops.batched_nms(detections.boxes, detections.scores, detections.labels, iou)[:most])


def vote(views: Sequence[Detections], iou: float, most: int) -> Detections:
    """Box voting (Gidaris and Komodakis 2015, §5) of the detections of one or more views of an image.

    Suppression decides which boxes remain, and with which scores. Each of them becomes the mean, weighted by scores, of
    all boxes of its class that it overlaps by VOTING or more, itself among them.

    Args:
        views: of each view, in pixels of the image.
        iou: of two boxes that overlap by more than this, suppression drops the one with the lower score.
        most: boxes that are kept at most.
    """
    every = Detections(*(torch.cat(tensors) for tensors in zip(*views, strict=True)))
    best = suppress(every, iou, most)
    near = (ops.box_iou(best.boxes, every.boxes) >= VOTING) & (best.labels[:, None] == every.labels)
    weights = torch.where(near, every.scores, 0.0)
    voted = (weights @ every.boxes) / weights.sum(1, keepdim=True)
    return best._replace(boxes=torch.where(near.any(1, keepdim=True), voted, best.boxes))


def fuse(views: Sequence[Detections], iou: float, most: int) -> Detections:
    """Weighted boxes fusion (Solovyev et al. 2021, §3) of the detections of several views of an image.

    Each box, the highest score first, joins the fused box of its class that it overlaps most, if by more than `iou`;
    otherwise it starts a new one. A fused box is the mean of its boxes, weighted by their scores. Its score is the mean
    of their scores, times the share of views that contributed a box.

    Args:
        views: of each view, in pixels of the image.
        iou: in [0, 1].
        most: boxes that are kept at most.
    """
    # NumPy, because this goes box by box and its calls take a fraction of the time of torch's
    boxes, scores, labels = (torch.cat(tensors).numpy() for tensors in zip(*views, strict=True))
    fused, weights, counts = np.zeros_like(boxes), np.zeros_like(scores), np.zeros_like(scores)
    classes = np.full_like(labels, -1)
    number = 0
    for index in (-scores).argsort(kind="stable"):
        box, score, label = boxes[index], scores[index], labels[index]
        overlap = _overlap(box, fused[:number]) * (classes[:number] == label)
        to = int(overlap.argmax()) if number else 0
        if not number or overlap[to] <= iou:
            to, number = number, number + 1
        fused[to] = (weights[to] * fused[to] + score * box) / (weights[to] + score)
        weights[to] += score
        counts[to] += 1
        classes[to] = label
    means = weights[:number] / counts[:number] * counts[:number].clip(max=len(views)) / len(views)
    best = (-means).argsort(kind="stable")[:most]
    return Detections(*(torch.from_numpy(array[best]) for array in (fused, means, classes)))


def _overlap(box: npt.NDArray[Any], others: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """IoU (n,) of a box (4,) with others (n, 4)."""
    sides = np.minimum(others[:, 2:], box[2:]) - np.maximum(others[:, :2], box[:2])
    common = np.maximum(sides[:, 0], 0) * np.maximum(sides[:, 1], 0)
    areas = (others[:, 2] - others[:, 0]) * (others[:, 3] - others[:, 1])
    union = areas + (box[2] - box[0]) * (box[3] - box[1]) - common
    iou: npt.NDArray[Any] = common / np.maximum(union, np.finfo(union.dtype).tiny)  # boxes may have no area
    return iou


def first_occurrences(keys: torch.Tensor) -> torch.Tensor:
    """(n,) bool: which of the keys (n,) occur for the first time."""
    same = keys[:, None] == keys[None, :]
    return ~same.tril(-1).any(1)
