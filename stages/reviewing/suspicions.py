"""The table of suspicions, `reports/review.csv`: one row per suspicion, and an empty column for what people decide."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from stages import files
from stages.errors import UserError

LABEL_IN_DOUBT = "label in doubt"
NEAR_DUPLICATE = "near-duplicate"
MIRROR_IMAGE = "mirror image"
CONFLICT = "two labels"
COPIES = (NEAR_DUPLICATE, MIRROR_IMAGE)
LEAST_LEARNT = 0.25  # of the way from always telling the most frequent class to telling all labels right
DIGITS = 3  # of a score


class LabelCheck(NamedTuple):
    """How well the label of an image follows from all other images.

    Attributes:
        leave_one_out_accuracy: the share of images whose label the others tell right.
        most_frequent_class: the share of images in it: what telling it always would reach.
    """

    leave_one_out_accuracy: float
    most_frequent_class: float

    @property
    def learnt(self) -> bool:
        """Whether the classes can be told apart at all: with too little, half of all labels would be in doubt."""
        reached = self.leave_one_out_accuracy - self.most_frequent_class
        return reached >= LEAST_LEARNT * (1 - self.most_frequent_class)


class Suspicion(NamedTuple):
    """A row of the table; what does not apply is empty.

    Attributes:
        what: is suspected.
        path: of the image.
        split: that it is in.
        label: its own.
        proposed: the label that it should perhaps have.
        score: how strong the suspicion is; comparable among rows with the same `what`.
        other: path of the image that it is a copy of.
        other_split: the split of that image.
        decision: keep, relabel:NAME, drop or together; filled in by people.
    """

    what: str
    path: str
    split: str
    label: str
    proposed: str
    score: float
    other: str = ""
    other_split: str = ""
    decision: str = ""

    @property
    def leak(self) -> bool:
        """Whether it is a copy that lies in another split."""
        return self.what in COPIES and bool(self.split and self.other_split) and self.split != self.other_split


def write(path: Path, suspicions: Iterable[Suspicion]) -> None:
    """Writes the table, whole or not at all."""
    rows = (row._replace(score=round(row.score, DIGITS))._asdict() for row in suspicions)
    files.write_csv(path, Suspicion._fields, rows)


def read(path: Path) -> list[Suspicion]:
    """The table; columns that it does not know are ignored.

    Raises:
        UserError: the file cannot be read, lacks a column, or a score is not a number.
    """
    lines = files.read_table(path, Suspicion._fields, expected="a copy of reports/review.csv")
    return [_suspicion(cells, where) for cells, where in lines]


def _suspicion(cells: dict[str, str], where: str) -> Suspicion:
    values = cells | {"decision": cells["decision"].strip()}
    try:
        score = float(values["score"])
    except ValueError:
        raise UserError(f"{where}: `score` must be a number, found {values['score']!r}.") from None
    return Suspicion(**values | {"score": score})  # type: ignore[arg-type]
