"""`csv`: a table of images below the flat, absolute parameter `root`. It is only read, never written.

Columns `path` (below root) and `label`; where there are boxes `x1`, `y1`, `x2`, `y2` in pixels; where there are lists
`split` (train, val, test); where images belong together `group` (a patient, a video), which keeps them in one split. A
row is an object: several rows may name one image, whose label is then that of its largest box. In a table with boxes a
row whose label and corners are empty is an image without objects; in one without boxes an empty label is an image that
nobody has labelled yet. TensorFlow's columns (`filename`, `class`, `xmin`,
`ymin`, `xmax`, `ymax`, corners from 1 as VOC's) are read as well. Others are ignored.

An image may have several labels: a `label` such as `cat|dog`, or one column per label that holds 1, 0, or nothing where
nobody knows. The row of an image with none of them has an empty `label`, or zeros.
"""

import codecs
import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from stages.datasets import tree, voc
from stages.datasets.base import AnnotationFault, Box, DatasetOptions, Item, Note, Record, UnusedFile
from stages.datasets.layout import SPLIT_OF
from stages.datasets.matching import ImageFinder, unmentioned
from stages.errors import UserError, nearest
from stages.files import DELIMITERS

OURS = {"path": "path", "label": "label", "x1": "x1", "y1": "y1", "x2": "x2", "y2": "y2", "split": "split",
        "group": "group"}  # fmt: skip
TENSORFLOW = {"filename": "path", "class": "label", "xmin": "x1", "ymin": "y1", "xmax": "x2", "ymax": "y2",
              "width": "width", "height": "height", "split": "split", "group": "group"}  # fmt: skip
CORNERS = ("x1", "y1", "x2", "y2")
CELLS: dict[str, bool | None] = {
    **dict.fromkeys(("1", "1.0", "true", "yes"), True),
    **dict.fromkeys(("0", "0.0", "false", "no"), False),
    "": None,
}  # of a label's own column


class Options(DatasetOptions):
    """The block `datasets.csv`."""

    file: str  # the table, below root
    separator: str  # between several labels in the column label; empty if there is one
    labels: list[str]  # columns of 1 and 0, one per label; if it is empty, the column label names them


class Row(NamedTuple):
    """A valid row: an image, its label or that of an object in it, and its list."""

    line: int
    path: str
    label: str
    corners: tuple[float, float, float, float] | None
    split: str | None
    size: tuple[int, int] | None
    group: str | None = None
    cells: dict[str, bool | None] | None = None


class Table(NamedTuple):
    """A table.

    Attributes:
        rows: those that are valid; with one column per label their `cells` say whether the image has it, or None.
        faults: what is wrong with the others.
        has_boxes: whether rows are objects.
        as_voc: whether corners are VOC's.
        separator: between several labels; empty if every image has one at most.
    """

    rows: list[Row]
    faults: list[AnnotationFault]
    has_boxes: bool
    as_voc: bool
    separator: str


def scan(folder: Path, options: Options) -> Iterator[Item]:
    """One record per image, in the order in which the table first names them.

    Raises:
        UserError: the table does not exist, cannot be read or lacks a column.
    """
    table = _read(folder, options)
    yield from table.faults
    from_zero = ""
    if table.as_voc:
        boxes = [(row.corners, row.size) for row in table.rows if row.corners]
        from_zero = voc.counts_from_zero(boxes)
        yield Note(f"{options.file} has TensorFlow's columns; corners count from {0 if from_zero else 1}")
    if table.separator:
        yield Note(f"{options.file} separates several labels by {table.separator!r} (datasets.csv.separator)")
    files = tree.read(folder).files
    names = list(dict.fromkeys(row.path for row in table.rows))
    matches = dict(zip(names, ImageFinder(folder, files).find_all(names), strict=True))
    images: dict[str, list[Row]] = {}
    for row in table.rows:
        images.setdefault(matches[row.path].path, []).append(row)
    for path, rows in images.items():
        match = matches[rows[0].path]
        yield from _image(
            path, rows, table, options.file, from_zero, match.problem and f"{match.problem}: {match.detail}"
        )
    yield from (UnusedFile(path, "no row names it") for path in unmentioned(files, images))


def _read(folder: Path, options: Options) -> Table:
    """The table, with our columns or TensorFlow's."""
    name = options.file
    file = folder / name
    try:
        data = tree.without_pointer(file.read_bytes())
        encoding = "utf-16" if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
        text = data.decode(encoding)
        header = text.partition("\n")[0]
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=max(DELIMITERS, key=header.count))
        columns = [column.strip() for column in next(lines, [])]
        names = TENSORFLOW if {"filename", "class"} <= set(columns) else OURS
        keys = [names.get(column, "") for column in columns]
        _check_columns(file, keys, columns, options.labels)
        keys = [column if column in options.labels else key for column, key in zip(columns, keys, strict=True)]
        has_boxes, rows, faults = "x1" in keys, list[Row](), list[AnnotationFault]()
        for cells in lines:
            if any(cells):
                values = dict(zip(keys, cells, strict=False))
                row = _row(values, lines.line_num, name, has_boxes, options.labels)
                (rows if isinstance(row, Row) else faults).append(row)  # type: ignore[arg-type]
    except FileNotFoundError:
        raise UserError(f"`datasets.csv.file`: there is no table {file}; {_tables(folder)}") from None
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"`datasets.csv.file`: {file} cannot be read: {error}") from None
    corners = [row.corners for row in rows if row.corners]
    if corners and max(map(max, corners)) <= 1:
        raise UserError(
            f"`datasets.csv.file`: no corner in {file} is above 1, so these are shares of the width and height. "
            "Expected pixels."
        )
    several = options.separator and not has_boxes and any(options.separator in row.label for row in rows)
    separator = options.separator if several else ""
    return Table(rows, faults, has_boxes, names is TENSORFLOW and has_boxes, separator)


def _tables(folder: Path) -> str:
    tables = [path for path in tree.read(folder).files if path.lower().endswith((".csv", ".tsv"))]
    if not tables:
        return "root has no table."
    train = next((path for path in tables if "train" in path.lower()), tables[0])
    return f"tables below root: {', '.join(tables)}. Take one with -S datasets.csv.file={train}"


def _check_columns(file: Path, keys: Sequence[str], columns: Sequence[str], labels: Sequence[str]) -> None:
    if absent := [label for label in labels if label not in columns]:
        raise UserError(
            f"`datasets.csv.labels`: {file} has no column {absent[0]!r}; {nearest(absent[0], list(columns))}"
        )
    if labels and "x1" in keys:
        raise UserError(
            f"`datasets.csv.labels`: {file} has boxes, and the classes of an image are those of its objects: set "
            "datasets.csv.labels=[] and task=multi."
        )
    missing = [name for name in ("path", "label") if name not in keys and (name == "path" or not labels)]
    corners = set(CORNERS) & set(keys)
    others = {*TENSORFLOW, "w", "h", "bbox"} - {"filename", "class", "width", "height", "split", "group"}
    if missing or 0 < len(corners) < len(CORNERS) or (not corners and others & set(columns)):
        lacking = ", ".join(missing) or "all of x1, y1, x2, y2"
        raise UserError(
            f"{file} lacks the column {lacking}: found {', '.join(columns) or 'none'}. Expected path, label and, "
            "for boxes, x1, y1, x2, y2; or filename, class, xmin, ymin, xmax, ymax."
        )


def _row(
    values: dict[str, str], line: int, table: str, has_boxes: bool, labels: Sequence[str]
) -> Row | AnnotationFault:
    """A row of the table, or what is wrong with it."""
    where, texts = (
        f"line {line}",
        {key: (values.get(key) or "").strip() for key in (*CORNERS, "split", "width", "height", "group")},
    )
    path, label = (values.get("path") or "").strip(), values.get("label") or ""
    label = label if label.strip() else ""
    corner_texts = [texts[name] for name in CORNERS if texts[name]]
    lost = 1 if has_boxes and (label or corner_texts) else 0
    split = SPLIT_OF.get(texts["split"].casefold())
    if not path:
        return AnnotationFault(table, "`path` is empty", where, objects=lost, label=label)
    if texts["split"] and not split:
        detail = f"{where} has {texts['split']!r}"
        return AnnotationFault(table, "`split` must be train, val, test or empty", detail, objects=lost, label=label)
    if not label and corner_texts:
        return AnnotationFault(table, "`label` is empty", where, objects=lost)
    corners = None
    if corner_texts:
        try:
            x1, y1, x2, y2 = (float(texts[name]) for name in CORNERS)
        except ValueError:
            detail = f"{where} ({path}) has {', '.join(texts[name] for name in CORNERS)}"
            return AnnotationFault(table, "corners must be four numbers", detail, objects=1, label=label)
        corners = (x1, y1, x2, y2)
    size = (
        (int(texts["width"]), int(texts["height"]))
        if texts["width"].isdecimal() and texts["height"].isdecimal()
        else None
    )
    cells = dict[str, bool | None]()
    for name in labels:
        if (cell := (values.get(name) or "").strip().casefold()) not in CELLS:
            detail = f"{where} ({path}) has {cell!r} for {name}"
            return AnnotationFault(table, "a label's column must hold 1, 0 or nothing", detail)
        cells[name] = CELLS[cell]
    return Row(line, path, label, corners, split, size, texts["group"] or None, cells if labels else None)


def _image(path: str, rows: list[Row], table: Table, name: str, from_zero: str, problem: str) -> Iterator[Item]:
    """The record of an image, and contradictions between its rows; an image with two classes gives two records."""
    splits = sorted({row.split for row in rows if row.split})
    if len(splits) > 1 or (splits and any(row.split is None for row in rows)):
        detail = f"{path}, lines {', '.join(str(row.line) for row in rows)}"
        yield AnnotationFault(name, "an image is in several lists: the first of test, val and train counts", detail)
    split = next((split for split in ("test", "val", "train") if split in splits), None)
    objects = tuple(
        Box(row.label, voc.corners(row.corners, from_zero) if table.as_voc else row.corners)
        for row in rows
        if row.corners
    )
    labels = list(dict.fromkeys(row.label for row in rows if row.label and not row.corners))
    size = next((row.size for row in rows if row.size), None)
    group = next((row.group for row in rows if row.group), None)
    if rows[0].cells is not None:
        present, unknown, contradicted = _by_cells(rows)
        if contradicted:
            detail = f"{path}, lines {', '.join(str(row.line) for row in rows)}: {', '.join(contradicted)}"
            yield AnnotationFault(name, "rows of one image contradict each other: the label counts neither way", detail)
        yield Record(path, "", (), split, name, size, problem, group=group, labels=present, unknown_labels=unknown)
        return
    if table.separator:
        names = dict.fromkeys(part.strip() for row in rows for part in row.label.split(table.separator))
        present = tuple(filter(None, names))
        yield Record(path, "", (), split, name, size, problem, group=group, labels=present)
        return
    if objects or (table.has_boxes and not labels):
        yield Record(path, None, objects, split, name, size, problem, group=group)
    else:
        yield from (Record(path, label, (), split, name, size, problem, group=group) for label in labels or [""])


def _by_cells(rows: Sequence[Row]) -> tuple[tuple[str, ...], tuple[str, ...], list[str]]:
    """The labels that an image has, those of which nobody knows, and of these the ones on which rows disagree."""
    answers: dict[str, set[bool]] = {}
    for row in rows:
        for label, cell in (row.cells or {}).items():
            answers.setdefault(label, set()).update(() if cell is None else (cell,))
    present = tuple(label for label, cells in answers.items() if cells == {True})
    unknown = tuple(label for label, cells in answers.items() if len(cells) != 1)
    return present, unknown, [label for label in unknown if answers[label]]
