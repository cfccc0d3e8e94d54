"""Boxes made fit for use: none empty, none twice, none outside its image; and what an image is called after them."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from stages.datasets.base import AnnotationFault, Box, Record

TOLERANCE = 1.0  # pixels that rounding may put a box outside of its image without a word
TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange width and height


class Objects(NamedTuple):
    """The objects of an image that are of use, and what became of the others.

    Attributes:
        boxes: those that lie in the image.
        twice: those that stand there again, with the same box and class.
        faults: what is wrong with the others, and what was clipped.
        turned: whether the boxes were turned with the image.
    """

    boxes: tuple[Box, ...]
    twice: tuple[Box, ...]
    faults: list[AnnotationFault]
    turned: bool = False


def fit(record: Record, width: int, height: int, orientation: int = 1) -> Objects:
    """The objects of an image that lie in it, and what was wrong with the others.

    A box that is partly outside is clipped; one that is empty or lies outside is left out; one that is there twice
    counts once. Where an annotation has the size of the image as it is stored, and its EXIF orientation turns that, the
    boxes are turned too. Where it has yet another size, its boxes are used as they are.

    Args:
        record: the image as annotated.
        width: pixels, as a viewer shows it.
        height: pixels, as a viewer shows it.
        orientation: of EXIF, 1 to 8.
    """
    file = record.annotation or record.path
    boxes, twice, faults = dict[tuple[str, object], Box](), list[Box](), list[AnnotationFault]()
    turned = orientation in TURNED and record.size == (height, width) != (width, height)
    if record.size and record.size != (width, height) and not turned:
        detail = f"{record.path}: annotated as {record.size[0]} x {record.size[1]} pixels, it has {width} x {height}"
        faults.append(AnnotationFault(file, "the image has another size", detail))
    for annotated in record.objects:
        box = replace(annotated, box=_turned(annotated.box, orientation, width, height)) if turned else annotated
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


def _turned(
    box: tuple[float, float, float, float], orientation: int, width: int, height: int
) -> tuple[float, float, float, float]:
    """A box in the stored frame as it lies in the shown one, of `width` x `height` pixels.

    Stored rows are shown columns: 5 transposes, 6 turns clockwise, 7 transposes the other way, 8 turns anticlockwise.
    """
    x1, y1, x2, y2 = box
    left, right = (width - y2, width - y1) if orientation in (6, 7) else (y1, y2)
    top, bottom = (height - x2, height - x1) if orientation in (7, 8) else (x1, x2)
    return left, top, right, bottom


def largest(objects: Sequence[Box]) -> str:
    """The class of the largest object: of those that count where any does; empty where there is no object."""
    counting = [box for box in objects if not (box.difficult or box.crowd or box.ignore)]
    return max(counting or objects, key=lambda box: box.area).label if objects else ""


def counts(records: Iterable[Record]) -> dict[str, dict[str, dict[str, int]]]:
    """Objects as annotated: list (`all` where there are none) -> class -> `objects`, and how many `difficult` of them.

    Every object of every record counts, difficult ones too, as the published statistics of VOC count.
    """
    counted: dict[str, dict[str, dict[str, int]]] = {}
    for record in records:
        of_list = counted.setdefault(record.split or "all", {}) if record.objects else {}
        for box in record.objects:
            count = of_list.setdefault(box.label, {"objects": 0, "difficult": 0})
            count["objects"] += 1
            count["difficult"] += box.difficult
    return {name: dict(sorted(of_list.items())) for name, of_list in counted.items()}
