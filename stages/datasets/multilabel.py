"""Several labels per image: when data is read that way, and which classes an image has by its objects."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

from stages.datasets.annotations import Objects
from stages.datasets.base import Item, Note, Record
from stages.errors import UserError

Task = Literal["auto", "single", "multi"]


class Labels(NamedTuple):
    """The classes of an image, and those of which nobody knows whether it has them."""

    present: tuple[str, ...]
    unknown: tuple[str, ...]


def read_as(items: Sequence[Item], task: Task) -> tuple[list[Item], bool]:
    """The items with lists of labels if the task wants several, and whether it does.

    `auto` goes by the data: a table that lists several labels has them, any other set has one label per image.

    Args:
        items: as the dataset's reader yields them.
        task: the knob.

    Raises:
        UserError: the task is `single`, and the data lists several labels.
    """
    records = [item for item in items if isinstance(item, Record)]
    lists = any(record.labels is not None for record in records)
    if task == "single" and lists:
        raise UserError(
            "`task`: single takes one label per image, and the table lists several. Take task=auto, which reads "
            "them all, or datasets.csv.separator='' if the separator belongs to the names of classes."
        )
    if task == "single" or not (lists or task == "multi"):
        return list(items), False
    by_objects = any(record.objects for record in records)
    note = Note(
        "an image has several labels, the classes of its objects (task: multi)"
        if by_objects
        else "an image has several labels, or none (task: multi)"
        if task == "multi"
        else "an image has several labels, or none, as the table lists them (task: auto)"
    )
    return [*(_with_list(item, by_objects) if isinstance(item, Record) else item for item in items), note], True


def _with_list(record: Record, by_objects: bool) -> Record:
    """A record with its list of labels; that of objects waits until it is known which of them can be used."""
    if by_objects:
        return replace(record, label=None)
    if record.labels is not None:
        return record
    return replace(record, label="", labels=(record.label,) if record.label else ())


def of_objects(fitted: Objects) -> Labels:
    """The classes that are present in an image, by the rules of VOC's classification task.

    A class is present if any object of it counts. One whose objects are all difficult, a crowd or to be ignored counts
    neither way, and so does one whose only boxes are broken.
    """
    present = dict.fromkeys(box.label for box in fitted.boxes if not (box.difficult or box.crowd or box.ignore))
    unknown = dict.fromkeys(_in_doubt(fitted))
    return Labels(tuple(present), tuple(label for label in unknown if label not in present))


def _in_doubt(fitted: Objects) -> Iterable[str]:
    yield from (box.label for box in fitted.boxes if box.difficult or box.crowd or box.ignore)
    yield from (fault.label for fault in fitted.faults if fault.objects and fault.label)
