"""Scores of a detector: Pascal VOC's average precision, and COCO's through faster-coco-eval.

Only boxes with a score of at least FLOOR count, and of these the best MOST per image.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from faster_coco_eval import COCO, COCOeval_faster

from stages.boxes import ops
from stages.boxes.geometry import Detections, GroundTruth, first_occurrences

FLOOR = 0.001
MOST = 100
HIT = 0.5  # IoU at which a box hits an object
BEYOND = 1e12  # square pixels: an object larger than COCO's largest range counts neither way
COCO_NAMES = ("map_50_95", "map_50", "map_75", "map_small", "map_medium", "map_large")  # its first six numbers


class BoxMatches(NamedTuple):
    """Which objects the boxes of one image hit.

    Attributes:
        truth: (n,) the object that each box hits, or -1.
        counted: (n,) bool, False if the box counts neither way.
    """

    truth: torch.Tensor
    counted: torch.Tensor


class Curve(NamedTuple):
    """Precision and recall of one class: one point per counted box, the highest score first.

    Attributes:
        scores: (n,).
        recall: (n,) float64.
        precision: (n,) float64.
        truths: how many objects count.
    """

    scores: torch.Tensor
    recall: torch.Tensor
    precision: torch.Tensor
    truths: int


def scores(truths: Sequence[GroundTruth], detections: Sequence[Detections], classes: int) -> dict[str, float]:
    """map_50 (area), map_50_voc07 (11 points), map_50_95, map_75, map_small, map_medium, map_large.

    VOC's means are over the classes with objects. A metric without objects is left out, such as map_small if no object
    is small.

    Args:
        truths: of each image.
        detections: of each image, in pixels as the truths.
        classes: how many.
    """
    seen = [curve for curve in curves(truths, detections, classes) if curve.truths]
    voc = {"map_50": _mean([area(curve) for curve in seen]), "map_50_voc07": _mean([eleven(curve) for curve in seen])}
    return {name: value for name, value in (coco(truths, detections, classes) | voc).items() if value >= 0}


def map_50(truths: Sequence[GroundTruth], detections: Sequence[Detections], classes: int) -> float:
    """The mean average precision at an IoU of 0.5, over the classes with objects; 0 without any. As `scores`."""
    seen = [area(curve) for curve in curves(truths, detections, classes) if curve.truths]
    return sum(seen) / len(seen) if seen else 0.0


def scored(detections: Detections) -> Detections:
    """The boxes that are scored: MOST at most, the highest score first, none below FLOOR."""
    order = detections.scores.argsort(descending=True, stable=True)[:MOST]
    return detections.pick(order[detections.scores[order] >= FLOOR])


def match(truth: GroundTruth, detections: Detections) -> BoxMatches:
    """Pascal VOC's matching of one image.

    Each box is compared with the object of its class that it overlaps most. At an IoU of HIT or more it hits that
    object, unless a box with a higher score did; if the object is ignored, the box counts neither way. A box that hits
    nothing counts neither way if half of it lies in a crowd of its class.

    Args:
        truth: n objects.
        detections: m boxes, the highest score first, as `scored` returns them.
    """
    no_hits = torch.full_like(detections.labels, -1)
    same = detections.labels[:, None] == truth.labels[None, :]
    in_crowd = (_inside(detections.boxes, truth.boxes) * (same & truth.crowd) >= HIT).any(1)
    if truth.crowd.all():
        return BoxMatches(no_hits, ~in_crowd)
    best, nearest = (overlaps(detections, truth) * (same & ~truth.crowd)).max(1)
    near = best >= HIT
    ignored = near & truth.ignored[nearest]
    keys = torch.where(near, nearest, -1 - torch.arange(len(nearest)))  # boxes near no object get different keys
    hit = near & ~ignored & first_occurrences(keys)
    return BoxMatches(torch.where(hit, nearest, no_hits), hit | ~(ignored | in_crowd))


def overlaps(detections: Detections, truth: GroundTruth) -> torch.Tensor:
    """IoU of each box with each object, (boxes, objects), in float64."""
    iou: torch.Tensor = ops.box_iou(detections.boxes.double(), truth.boxes.double())
    return iou


def curves(truths: Sequence[GroundTruth], detections: Sequence[Detections], classes: int) -> list[Curve]:
    """Precision and recall of every class.

    Args:
        truths: of each image.
        detections: of each image, in pixels as the truths.
        classes: how many.
    """
    best = [scored(item) for item in detections]
    matches = [match(truth, item) for truth, item in zip(truths, best, strict=True)]
    counted = torch.cat([matched.counted for matched in matches])
    hits = torch.cat([matched.truth >= 0 for matched in matches])[counted]
    confidence = torch.cat([item.scores for item in best])[counted]
    labels = torch.cat([item.labels for item in best])[counted]
    objects = torch.cat([truth.labels[~(truth.ignored | truth.crowd)] for truth in truths])
    counts = torch.bincount(objects, minlength=classes).tolist()
    return [_curve(confidence[labels == label], hits[labels == label], counts[label]) for label in range(classes)]


def area(curve: Curve) -> float:
    """Average precision as in VOC since 2010: the area under the curve, made monotonic."""
    steps = torch.diff(curve.recall, prepend=torch.zeros(1, dtype=torch.float64))
    return float((steps * _best_from(curve.precision)).sum())


def eleven(curve: Curve) -> float:
    """Average precision as in VOC until 2009: the mean of the best precisions at a recall of at least 0, 0.1 … 1."""
    best = torch.cat([_best_from(curve.precision), torch.zeros(1, dtype=torch.float64)])
    levels = torch.tensor([step / 10 for step in range(11)], dtype=torch.float64)
    return float(best[torch.searchsorted(curve.recall, levels)].mean())


def coco(truths: Sequence[GroundTruth], detections: Sequence[Detections], classes: int) -> dict[str, float]:
    """COCO's six average precisions by our names; -1 where no object counts."""
    reference = COCO(_dataset(truths, classes), print_function=_silent)
    boxes = reference.loadRes(_results([scored(item) for item in detections]))
    evaluation = COCOeval_faster(reference, boxes, "bbox", print_function=_silent)
    evaluation.run()
    return dict(zip(COCO_NAMES, evaluation.stats[:6].tolist(), strict=True))


def _dataset(truths: Sequence[GroundTruth], classes: int) -> dict[str, Any]:
    """The objects in COCO's own form. It has no flag for ignored objects: they get an area outside of all ranges."""
    annotations: list[dict[str, Any]] = []
    for image, truth in enumerate(truths):
        areas = torch.where(truth.ignored, BEYOND, ops.box_area(truth.boxes.double())).tolist()
        for box, label, size, crowd in zip(
            _corner_and_size(truth.boxes), truth.labels.tolist(), areas, truth.crowd.tolist(), strict=True
        ):
            number = len(annotations) + 1  # 0 means unmatched to COCO
            annotations.append(
                {"id": number, "image_id": image, "category_id": label, "bbox": box, "area": size, "iscrowd": crowd}
            )
    images = [{"id": image} for image in range(len(truths))]
    return {"images": images, "categories": [{"id": label} for label in range(classes)], "annotations": annotations}


def _results(detections: Sequence[Detections]) -> list[dict[str, Any]]:
    return [
        {"image_id": image, "category_id": label, "bbox": box, "score": score}
        for image, item in enumerate(detections)
        for box, label, score in zip(
            _corner_and_size(item.boxes), item.labels.tolist(), item.scores.tolist(), strict=True
        )
    ]


def _corner_and_size(boxes: torch.Tensor) -> list[list[float]]:
    rows: list[list[float]] = ops.box_convert(boxes.double(), "xyxy", "xywh").tolist()
    return rows


def _silent(*_: object) -> None:
    """Takes the place of faster-coco-eval's print."""


def _inside(boxes: torch.Tensor, regions: torch.Tensor) -> torch.Tensor:
    """The share of each box that is inside each region: (boxes, regions)."""
    boxes, regions = boxes.double(), regions.double()
    left_top = torch.maximum(boxes[:, None, :2], regions[:, :2])
    right_bottom = torch.minimum(boxes[:, None, 2:], regions[:, 2:])
    common = (right_bottom - left_top).clamp(min=0).prod(2)
    areas: torch.Tensor = ops.box_area(boxes)
    return common / areas[:, None].clamp(min=torch.finfo(torch.float64).tiny)


def _curve(confidence: torch.Tensor, hits: torch.Tensor, truths: int) -> Curve:
    order = confidence.argsort(descending=True, stable=True)
    right = hits[order].double().cumsum(0)
    return Curve(confidence[order], right / max(1, truths), right / torch.arange(1, len(order) + 1), truths)


def _best_from(precision: torch.Tensor) -> torch.Tensor:
    """The best precision at each point or at any point further right."""
    return precision.flip(0).cummax(0).values.flip(0)


def _mean(values: list[float]) -> float:
    """The mean, or -1 if there are no values, as in COCO."""
    return sum(values) / len(values) if values else -1.0
