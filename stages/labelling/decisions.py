"""From the table that the page of labels saves to corrections of the dataset."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from stages import files
from stages.datasets.corrections import DROP, NO_LABEL, RELABEL, Correction
from stages.datasets.index_file import IndexRow
from stages.errors import UserError, nearest

COLUMNS = ("path", "label", "decision")


class Labelled(NamedTuple):
    """A row of the table: an image with its label, or with the decision `drop`."""

    path: str
    label: str
    decision: str
    where: str


def read(table: Path) -> list[Labelled]:
    """The rows with a label or a decision.

    Raises:
        UserError: the file cannot be read, lacks a column, or a row has both or another decision.
    """
    lines = files.read_table(table, COLUMNS, expected="the file that the page of `python -m stages.label` saves")
    return [row for cells, where in lines if (row := _row(cells, where)).label or row.decision]


def _row(cells: Mapping[str, str], where: str) -> Labelled:
    path, label, decision = (cells[name] for name in COLUMNS)
    labelled = Labelled(path, label if label.strip() else "", decision.strip(), where)
    if labelled.decision not in ("", DROP):
        raise UserError(f"{where}: `decision` must be {DROP} or empty, found {decision!r}.")
    if labelled.label and labelled.decision:
        raise UserError(f"{where}: {path} has the label {label!r} and the decision {DROP}: expected one of them.")
    return labelled


def decided(table: Iterable[Labelled], rows: Sequence[IndexRow], earlier: Iterable[Correction]) -> Iterator[Correction]:
    """The corrections that a table asks for.

    Args:
        table: with the labels.
        rows: of the index.
        earlier: corrections in force: an image that got its label from one of them may get another.

    Raises:
        UserError: an image is unknown, or has a label of its own.
    """
    row_of, asked = {row.path: row for row in rows}, {item.path for item in earlier if item.what == NO_LABEL}
    for labelled in table:
        path, label = labelled.path, labelled.label
        if path not in row_of and path not in asked:
            raise UserError(f"{labelled.where}: {path} is not an image of the dataset; {nearest(path, list(row_of))}")
        if path not in asked and row_of[path].label:
            raise UserError(
                f"{labelled.where}: {path} has the label {row_of[path].label!r} already; "
                "`python -m stages.review --apply FILE` relabels (docs/review.md)."
            )
        yield Correction(path, NO_LABEL, "", f"{RELABEL}{label}" if label else DROP)


def new_classes(table: Iterable[Labelled], rows: Sequence[IndexRow]) -> list[str]:
    """Labels that no image of the index has."""
    return sorted({row.label for row in table if row.label} - {row.label for row in rows})
