"""Non-maximum suppression inside exported files.

torch's operator takes one image, and a file takes any number of them. So suppression is an operator of its own here,
`coldcut::survivors`: torch runs it image by image, and in ONNX it becomes NonMaxSuppression. torch's own format has no
place for it.
"""

from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import torch

from stages.boxes import dense, ops
from stages.boxes.geometry import VOTING
from stages.metrics.detection import MOST

NO_CLASS = -1  # the label of a place that no box fills


class Selection(NamedTuple):
    """The boxes of N images after suppression, the best first, in K places per image.

    Attributes:
        boxes: (N, K, 4) corners; 0 in places that no box fills.
        scores: (N, K); 0 in places that no box fills.
        labels: (N, K) int64; NO_CLASS in places that no box fills.
    """

    boxes: torch.Tensor
    scores: torch.Tensor
    labels: torch.Tensor


def select(
    boxes: torch.Tensor, scores: torch.Tensor, *, iou: float, confidence: float, votes: bool = False
) -> Selection:
    """The boxes that predict prints: the best candidates, suppressed class by class, and the best of what remains.

    Args:
        boxes: (N, P, 4) corners, cut at the border of the image as far as it is known.
        scores: (N, P, C).
        iou: of two boxes of a class that overlap by more than this, the one with the lower score is dropped.
        confidence: the least score.
        votes: whether boxes that remain become means of those around them, as with `merge: vote`.
    """
    classes, pairs = scores.shape[2], scores.shape[1] * scores.shape[2]
    least = scores.flatten(1).topk(min(dense.MOST, pairs)).values[:, -1]
    candidates = torch.where(scores >= least[:, None, None].clamp(min=dense.FLOOR), scores, 0.0)
    remain = torch.ops.coldcut.survivors(boxes, candidates, iou, max(confidence, dense.FLOOR))
    best, index = torch.where(remain, candidates, 0.0).flatten(1).topk(min(MOST, pairs))
    filled, places = best > 0, (index // classes)[..., None].expand(-1, -1, 4)
    chosen, labels = boxes.gather(1, places), index % classes
    if votes:
        chosen = _voted(chosen, labels, boxes, candidates)
    return Selection(torch.where(filled[..., None], chosen, 0.0), best, torch.where(filled, labels, NO_CLASS))


def _voted(chosen: torch.Tensor, labels: torch.Tensor, boxes: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """`geometry.vote` in tensors of a fixed shape: the boxes (N, K, 4), each moved to the mean of those around it.

    Args:
        chosen: (N, K, 4).
        labels: (N, K).
        boxes: (N, P, 4), all of them.
        scores: (N, P, C).
    """
    low = torch.maximum(chosen[:, :, None, :2], boxes[:, None, :, :2])
    high = torch.minimum(chosen[:, :, None, 2:], boxes[:, None, :, 2:])
    common = (high - low).clamp(min=0).prod(3)  # (N, K, P)
    areas, others = ((corners[..., 2:] - corners[..., :2]).prod(2) for corners in (chosen, boxes))
    union = areas[:, :, None] + others[:, None] - common
    near = (common > 0) & (common >= VOTING * union)
    of_class = scores.transpose(1, 2).gather(1, labels[..., None].expand(-1, -1, boxes.shape[1]))
    weights = torch.where(near, of_class, 0.0)
    total = weights.sum(2, keepdim=True)
    return torch.where(total > 0, weights @ boxes / total.clamp(min=dense.FLOOR), chosen)


@torch.library.custom_op("coldcut::survivors", mutates_args=())
def survivors(boxes: torch.Tensor, scores: torch.Tensor, iou: float, confidence: float) -> torch.Tensor:
    """Which boxes remain after suppression, for each class: (N, P, C) bool.

    Args:
        boxes: (N, P, 4) corners.
        scores: (N, P, C).
        iou: see `select`.
        confidence: boxes with lower scores do not take part.
    """
    remain = torch.zeros_like(scores, dtype=torch.bool)
    for image, image_scores in enumerate(scores):
        box, label = (image_scores >= confidence).nonzero(as_tuple=True)
        best = ops.batched_nms(boxes[image, box], image_scores[box, label], label, iou)
        remain[image, box[best], label[best]] = True
    return remain


@survivors.register_fake
def _shape(boxes: torch.Tensor, scores: torch.Tensor, iou: float, confidence: float) -> torch.Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


def onnx_translations() -> dict[Any, Any]:
    """What torch's exporter to ONNX puts in the place of `survivors`."""
    op: Any = import_module("onnxscript").opset18  # an extra

    def non_max_suppression(boxes: Any, scores: Any, iou: float, confidence: float) -> Any:
        """NonMaxSuppression of all images and classes at once; it takes scores above its threshold, not at it."""
        by_class = op.Transpose(scores, perm=[0, 2, 1])
        least = float(np.nextafter(np.float32(confidence), np.float32(-1)))
        limits = op.Constant(value_ints=[MOST]), op.Constant(value_floats=[iou]), op.Constant(value_floats=[least])
        selected = op.NonMaxSuppression(boxes, by_class, *limits)  # (M, 3): image, class, box
        ones = op.Expand(op.Constant(value_float=1.0), op.Slice(op.Shape(selected), [0], [1]))
        nothing = op.Mul(by_class, op.Constant(value_float=0.0))
        remain = op.ScatterND(nothing, selected, ones)
        return op.Cast(op.Transpose(remain, perm=[0, 2, 1]), to=9)  # bool

    return {torch.ops.coldcut.survivors.default: non_max_suppression}
