"""Cleaning the boxes of an image (empty, repeated or outside of it), and the label of an image from its objects."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from stages.datasets.base import AnnotationFault, Box, Record

TOLERANCE = 1.0  # pixels by which a box may leave its image without a message, because of rounding
TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
PIXEL_DIGITS = 3
Corners = tuple[float, float, float, float]


class Objects(NamedTuple):
    """The usable objects of an image, and why others are not used.

    Attributes:
        boxes: the objects that lie in the image.
        twice: repetitions, with the same box and class.
        faults: what is wrong with the others, and which boxes were clipped.
        turned: whether the boxes were turned with the image.
    """

    boxes: tuple[Box, ...]
    twice: tuple[Box, ...]
    faults: list[AnnotationFault]
    turned: bool = False


def fit(record: Record, size: tuple[int, int], orientation: int = 1) -> Objects:
    """The objects of an image that lie in it, and what is wrong with the others.

    A box that is partly outside is clipped; one that is empty or completely outside is left out; one that is repeated
    counts once. If the annotation has the size of the stored image, and EXIF turns the image, the boxes are turned too.
    If the annotation has yet another size, its boxes are used as they are.

    Args:
        record: the image as annotated.
        size: width and height of the image in pixels, as a viewer shows it.
        orientation: of EXIF, 1 to 8.
    """
    width, height = size
    file = record.annotation or record.path
    boxes, twice, faults = dict[tuple[str, object], Box](), list[Box](), list[AnnotationFault]()
    turned = orientation in TURNED and record.size == (height, width) != (width, height)
    if record.size and record.size != (width, height) and not turned:
        detail = f"{record.path}: annotated as {record.size[0]} x {record.size[1]} pixels, it has {width} x {height}"
        faults.append(AnnotationFault(file, "the image has another size", detail))
    for annotated in record.objects:
        box = replace(annotated, box=_turned(annotated.box, orientation, width, height)) if turned else annotated
        box = replace(annotated, box=_in_pixels(annotated.box, width, height)) if record.in_shares else box
        x1, y1, x2, y2 = box.box
        left, top, right, bottom = inside = max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
        where = f"{record.path}: {box.label} at {x1:g}, {y1:g}, {x2:g}, {y2:g}"
        if not (x1 < x2 and y1 < y2):
            faults.append(AnnotationFault(file, "the box is empty", where, objects=1, label=box.label))
        elif not (left < right and top < bottom):
            faults.append(AnnotationFault(file, "the box lies outside of its image", where, objects=1, label=box.label))
        elif (box.label, inside) in boxes:
            twice.append(box)
        else:
            boxes[box.label, inside] = box if inside == box.box else replace(box, box=inside)
            if max(left - x1, top - y1, x2 - right, y2 - bottom) > TOLERANCE:
                where += f", the image has {width} x {height}"
                faults.append(AnnotationFault(file, "the box goes beyond its image: clipped", where))
    return Objects(tuple(boxes.values()), tuple(twice), faults, turned)


def _in_pixels(box: Corners, width: int, height: int) -> Corners:
    """A box in shares of the image as a box in pixels, to PIXEL_DIGITS: files have six digits, which say no more."""
    x1, y1, x2, y2 = (round(side * size, PIXEL_DIGITS) for side, size in zip(box, (width, height) * 2, strict=True))
    return x1, y1, x2, y2


def _turned(box: Corners, orientation: int, width: int, height: int) -> Corners:
    """A box of the stored image as a box of the shown one, which has `width` x `height` pixels.

    Stored rows are shown as columns: 5 transposes, 6 turns clockwise, 7 transposes the other way, 8 anticlockwise.
    """
    x1, y1, x2, y2 = box
    left, right = (width - y2, width - y1) if orientation in (6, 7) else (y1, y2)
    top, bottom = (height - x2, height - x1) if orientation in (7, 8) else (x1, x2)
    return left, top, right, bottom


def largest(objects: Sequence[Box]) -> str:
    """The class of the largest object that counts; if none counts, of the largest of all; empty without objects."""
    counting = [box for box in objects if not (box.difficult or box.crowd or box.ignore)]
    return max(counting or objects, key=lambda box: box.area).label if objects else ""


def counts(records: Iterable[Record]) -> dict[str, dict[str, dict[str, int]]]:
    """How many objects are annotated: list (`all` without lists) -> class -> `objects`, and `difficult` ones of them.

    Every object of every record counts, difficult ones too, as in the published statistics of VOC.
    """
    counted: dict[str, dict[str, dict[str, int]]] = {}
    for record in records:
        of_list = counted.setdefault(record.split or "all", {}) if record.objects else {}
        for box in record.objects:
            count = of_list.setdefault(box.label, {"objects": 0, "difficult": 0})
            count["objects"] += 1
            count["difficult"] += box.difficult
    return {name: dict(sorted(of_list.items())) for name, of_list in counted.items()}
