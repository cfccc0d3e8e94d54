"""`csv`: a table of images below the flat, absolute parameter `root`. Only ever read.

Columns `path` (below root) and `label`; where there are boxes `x1`, `y1`, `x2`, `y2` in pixels; where there are lists
`split` (train, val, test). A row is an object: several rows may name one image, whose label is then that of its largest
box. Other columns are passed over.
"""

import csv
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from stages.blocks import Block
from stages.datasets.base import Box, Record
from stages.errors import UserError

REQUIRED = ("path", "label")
CORNERS = ("x1", "y1", "x2", "y2")
SPLITS = ("train", "val", "test")
Row = dict[str, str]


class Options(Block):
    """The block `datasets.csv`."""

    file: str  # the table, below root


def scan(folder: Path, options: Options) -> Iterator[Record]:
    """One record an image, in the order in which the table first names them.

    Raises:
        UserError: the table is not there, lacks a column, or a row cannot be meant; the message names the line.
    """
    table = folder / options.file
    images: dict[str, list[Row]] = defaultdict(list)
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            missing = [name for name in REQUIRED if name not in columns]
            if missing or (set(CORNERS) & set(columns) and not set(CORNERS) <= set(columns)):
                wanted = ", ".join(missing) or "all of x1, y1, x2, y2"
                raise UserError(f"{table} lacks the column {wanted}: found {', '.join(columns) or 'none'}.")
            for row in reader:
                _check(row, f"{table}, line {reader.line_num}")
                images[row["path"]].append(row)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"`datasets.csv.file`: {table} cannot be read: {error}") from None
    yield from (_record(path, rows, table) for path, rows in images.items())


def _check(row: Row, where: str) -> None:
    path = PurePosixPath(row["path"] or "")
    if not row["path"] or path.is_absolute() or ".." in path.parts:
        raise UserError(f"{where}: `path` must lie below root, found {row['path']!r}.")
    if not row["label"]:
        raise UserError(f"{where}: `label` is empty.")
    if row.get("split") and row["split"] not in SPLITS:
        raise UserError(f"{where}: `split` must be train, val, test or empty, found {row['split']!r}.")


def _record(path: str, rows: list[Row], table: Path) -> Record:
    splits = {row.get("split") or None for row in rows}
    labels = {row["label"] for row in rows}
    boxes = tuple(_box(row, table) for row in rows if row.get("x1"))
    if len(splits) > 1:
        raise UserError(f"{table}: {path} is in several lists: {', '.join(sorted(map(str, splits)))}.")
    if not boxes and len(labels) > 1:
        raise UserError(f"{table}: {path} has several labels and no boxes: {', '.join(sorted(labels))}.")
    label = None if boxes else rows[0]["label"]
    return Record(path=path, label=label, objects=boxes, split=splits.pop(), annotation=table.name)


def _box(row: Row, table: Path) -> Box:
    try:
        x1, y1, x2, y2 = (float(row[name]) for name in CORNERS)
    except (TypeError, ValueError):
        found = ", ".join(str(row[name]) for name in CORNERS)
        raise UserError(f"{table}: the box of {row['path']} must be four numbers, found {found}.") from None
    if not (x1 < x2 and y1 < y2):
        raise UserError(f"{table}: the box of {row['path']} is empty: {x1:g}, {y1:g}, {x2:g}, {y2:g}.")
    return Box(row["label"], (x1, y1, x2, y2))
