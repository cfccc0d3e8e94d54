"""Boxes made fit for use: none empty, none outside its image; and what an image is called after them."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from stages.datasets.base import Box, Broken, Record

TOLERANCE = 0.5  # pixels that rounding may put a box outside of its image without a word


def fit(record: Record, width: int, height: int) -> tuple[tuple[Box, ...], list[Broken]]:
    """The objects of an image of `width` x `height` pixels that lie in it, and what was wrong with the others.

    A box that is partly outside is clipped; one that is empty or lies outside is left out. Where the annotation tells
    another size than the image has, its boxes are used as they are.
    """
    kept, wrong = list[Box](), list[str]()
    if record.size and record.size != (width, height):
        wrong.append(f"annotated as {record.size[0]} x {record.size[1]} pixels, the image has {width} x {height}")
    for box in record.objects:
        x1, y1, x2, y2 = box.box
        left, top, right, bottom = inside = max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
        if not (x1 < x2 and y1 < y2):
            wrong.append(f"{_told(box)} is empty")
        elif not (left < right and top < bottom):
            wrong.append(f"{_told(box)} lies outside of the image of {width} x {height} pixels")
        else:
            kept.append(box if inside == box.box else replace(box, box=inside))
            if max(left - x1, top - y1, x2 - right, y2 - bottom) > TOLERANCE:
                wrong.append(f"{_told(box)} goes beyond the image of {width} x {height} pixels: clipped")
    return tuple(kept), [Broken(record.annotation or record.path, f"{record.path}: {reason}") for reason in wrong]


def _told(box: Box) -> str:
    x1, y1, x2, y2 = box.box
    return f"the box of {box.label} at {x1:g}, {y1:g}, {x2:g}, {y2:g}"


def largest(objects: Sequence[Box]) -> str:
    """The class of the largest object: of those that count where any does; empty where there is no object."""
    counting = [box for box in objects if not (box.difficult or box.crowd or box.ignore)]
    return max(counting or objects, key=lambda box: box.area).label if objects else ""


def counts(records: Iterable[Record]) -> dict[str, dict[str, dict[str, int]]]:
    """Objects as annotated: list (`all` where there are none) -> class -> `objects`, and how many `difficult` of them.

    Every object of every record counts, difficult ones too, as the published statistics of VOC count.
    """
    found: dict[str, dict[str, dict[str, int]]] = {}
    for record in records:
        of_list = found.setdefault(record.split or "all", {}) if record.objects else {}
        for box in record.objects:
            count = of_list.setdefault(box.label, {"objects": 0, "difficult": 0})
            count["objects"] += 1
            count["difficult"] += box.difficult
    return {name: dict(sorted(of_list.items())) for name, of_list in found.items()}
