"""The mistakes of a detector by kind, and what each kind costs (TIDE: Bolya et al. 2020)."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch

from stages.boxes.geometry import Detections, GroundTruth, first_occurrences
from stages.metrics.detection import HIT, map_50, match, overlaps, scored

BACKGROUND = 0.1  # at an IoU below this a box touches nothing
Kind = Literal["class", "place", "both", "double", "background", "missed"]
KINDS: tuple[Kind, ...] = ("class", "place", "both", "double", "background", "missed")


class Mistakes(NamedTuple):
    """The mistakes in one image.

    Attributes:
        detections: the boxes that are scored, the highest score first.
        kinds: (boxes,) the position in KINDS, or -1 if the box hits an object or counts neither way.
        meant: (boxes,) the object that the box hits, or would hit with the right class or place, or -1.
        missed: (objects,) bool, objects that no box hits or would hit with the right class or place.
    """

    detections: Detections
    kinds: torch.Tensor
    meant: torch.Tensor
    missed: torch.Tensor


def sort(truth: GroundTruth, detections: Detections) -> Mistakes:
    """Sorts the mistakes in an image, each into the first kind that fits.

    - place: touches an object of its class (IoU from BACKGROUND to HIT);
    - class: on an object of another class (IoU of at least HIT);
    - double: on an object of its class that a box with a higher score hit;
    - background: touches nothing;
    - both: touches an object of another class.
    """
    detections = scored(detections)
    matched = match(truth, detections)
    objects = ~(truth.ignored | truth.crowd)
    kinds = torch.full_like(detections.labels, -1)
    wrong = matched.counted & (matched.truth < 0)
    if not objects.any():
        kinds[wrong] = KINDS.index("background")
        return Mistakes(detections, kinds, matched.truth, objects)
    same = detections.labels[:, None] == truth.labels[None, :]
    overlap = overlaps(detections, truth) * objects
    iou_same, nearest_same = (overlap * same).max(1)
    iou_other, nearest_other = (overlap * ~same).max(1)
    fits: dict[Kind, torch.Tensor] = {
        "place": (iou_same >= BACKGROUND) & (iou_same < HIT),
        "class": iou_other >= HIT,
        "double": iou_same >= HIT,
        "background": torch.maximum(iou_same, iou_other) < BACKGROUND,
        "both": torch.ones_like(wrong),
    }
    for kind, fit in fits.items():
        kinds[wrong & (kinds < 0) & fit] = KINDS.index(kind)
    meant = torch.where(_is(kinds, "class"), nearest_other, matched.truth)
    meant = torch.where(_is(kinds, "place"), nearest_same, meant)
    missed = objects.clone()
    missed[meant[meant >= 0]] = False
    return Mistakes(detections, kinds, meant, missed)


def counts(truths: Sequence[GroundTruth], detections: Sequence[Detections]) -> dict[Kind, int]:
    """How many mistakes of each kind."""
    images = [sort(truth, item) for truth, item in zip(truths, detections, strict=True)]
    kinds = torch.cat([image.kinds for image in images])
    number = {kind: int(_is(kinds, kind).sum()) for kind in KINDS}
    return number | {"missed": sum(int(image.missed.sum()) for image in images)}


def costs(truths: Sequence[GroundTruth], detections: Sequence[Detections], classes: int) -> dict[Kind, float]:
    """How far map_50 would rise if all mistakes of one kind were fixed, and no others.

    Args:
        truths: of each image.
        detections: of each image, in pixels as the truths.
        classes: how many.
    """
    images = [sort(truth, item) for truth, item in zip(truths, detections, strict=True)]
    now = map_50(truths, detections, classes)
    risen = {}
    for kind in KINDS:
        pairs = [fix_errors_of_kind(truth, image, kind) for truth, image in zip(truths, images, strict=True)]
        risen[kind] = map_50([pair[0] for pair in pairs], [pair[1] for pair in pairs], classes) - now
    return risen


def fix_errors_of_kind(truth: GroundTruth, mistakes: Mistakes, kind: Kind) -> tuple[GroundTruth, Detections]:
    """An image without its mistakes of one kind.

    `missed`: missed objects no longer count. Other kinds: the best box that is meant for an object which no box hits is
    moved onto that object; all other mistakes of the kind are removed.
    """
    if kind == "missed":
        return truth._replace(ignored=truth.ignored | mistakes.missed), mistakes.detections
    mistaken = _is(mistakes.kinds, kind)
    becomes = _first_on_free_objects(mistakes, mistaken)
    boxes, labels = mistakes.detections.boxes.clone(), mistakes.detections.labels.clone()
    boxes[becomes] = truth.boxes[mistakes.meant[becomes]].to(boxes)
    labels[becomes] = truth.labels[mistakes.meant[becomes]]
    return truth, mistakes.detections._replace(boxes=boxes, labels=labels).pick(~mistaken | becomes)


def _first_on_free_objects(mistakes: Mistakes, mistaken: torch.Tensor) -> torch.Tensor:
    """(boxes,) bool: of the mistaken boxes meant for an object that nothing hits, the one with the highest score."""
    taken = mistakes.meant[mistakes.kinds < 0]
    free = mistaken & (mistakes.meant >= 0) & ~torch.isin(mistakes.meant, taken)
    return free & first_occurrences(torch.where(free, mistakes.meant, -1 - torch.arange(len(free))))


def _is(kinds: torch.Tensor, kind: Kind) -> torch.Tensor:
    return kinds == KINDS.index(kind)
