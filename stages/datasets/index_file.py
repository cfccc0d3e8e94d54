"""The index on disk: one JSON line per image in `<dataset>.jsonl`, and a summary of every file beside it."""

import json
import logging
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from stages import files, paths
from stages.datasets.base import Box
from stages.errors import REPAIR, UserError

log = logging.getLogger(__name__)
FLAGS = ("difficult", "truncated", "crowd", "ignore")


@dataclass(frozen=True, slots=True)
class IndexRow:
    """An indexed image: what its dataset and its bytes say.

    `label` is empty where nothing gives the image one: it has no object, or nobody has labelled it yet. Detectors
    use it as background, classifiers leave it out.
    `scaled` says how values of more than 8 bits are scaled, `group` what the image belongs to, such as a patient or a
    video; a line has them only where there is something to say.
    Where images have several labels (`task: multi`), `labels` holds all classes of the image, none of them possibly,
    and `unknown_labels` those that count neither way, as nobody knows whether it has them; `label` is empty then.
    """

    path: str
    sha256: str
    width: int
    height: int
    label: str
    objects: tuple[Box, ...]
    split: str | None
    scaled: str | None = None
    group: str | None = None
    labels: tuple[str, ...] | None = None
    unknown_labels: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of the image itself: one, several or none."""
        return self.labels if self.labels is not None else (self.label,) if self.label else ()

    @property
    def caption(self) -> str:
        """Its classes as people read them."""
        return ", ".join(self.classes) or ("none" if self.labels is not None else "")


def is_multilabel(rows: Iterable[IndexRow]) -> bool:
    """Whether images have several labels."""
    return any(row.labels is not None for row in rows)


def unlabelled(rows: Sequence[IndexRow]) -> list[IndexRow]:
    """The images that nobody has labelled yet.

    There are none where any image has objects, as one without is background, nor where images have several labels, as
    an empty list says that an image has none of them.
    """
    if is_multilabel(rows) or any(row.objects for row in rows):
        return []
    return [row for row in rows if not row.label]


def write(path: Path, rows: Iterable[IndexRow]) -> None:
    """Writes an index, completely or not at all."""
    files.write_json_lines(path, map(_values, rows))


def read(dataset: str) -> list[IndexRow]:
    """The index of a dataset.

    Raises:
        UserError: the file is missing or damaged.
    """
    path = paths.index(dataset)
    log.debug("reads %s", path)
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            return [_row(json.loads(line)) for line in file if line != "\n"]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}): {REPAIR} writes it again.") from None


def _values(row: IndexRow) -> dict[str, Any]:
    """A row as JSON has it; of an object's flags only those that are set."""
    values: dict[str, Any] = {field.name: getattr(row, field.name) for field in fields(row)}
    for name in ("scaled", "group", "labels", "unknown_labels"):
        if values[name] in (None, ()) and (name, values[name]) != ("labels", ()):
            del values[name]
    return values | {"objects": [_object(box) for box in row.objects]}


def _object(box: Box) -> dict[str, Any]:
    return {"label": box.label, "box": box.box} | {name: True for name in FLAGS if getattr(box, name)}


def _row(values: dict[str, Any]) -> IndexRow:
    objects = tuple(Box(**item | {"box": tuple(map(float, item["box"]))}) for item in values.pop("objects"))
    values |= {name: tuple(values[name]) for name in ("labels", "unknown_labels") if name in values}
    if isinstance(values.get("label"), str):
        values["label"] = sys.intern(values["label"])  # a million rows share a few
    row = IndexRow(objects=objects, **values)
    texts = (
        row.path,
        row.sha256,
        row.label,
        row.split or "",
        row.scaled or "",
        row.group or "",
        *(row.labels or ()),
        *row.unknown_labels,
        *(box.label for box in objects),
    )
    sides = (row.width, row.height)
    if not all(isinstance(text, str) for text in texts) or not all(type(side) is int and side > 0 for side in sides):
        raise ValueError(f"the line of {row.path!r} has a value of another type")
    if any(len(box.box) != 4 or not box.area >= 0 for box in objects):
        raise ValueError(f"the line of {row.path!r} has a box without four numbers or with a negative area")
    return row
