"""From decisions in a copy of `reports/review.csv` to corrections of the dataset."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from stages.datasets import corrections
from stages.datasets.corrections import SEPARATOR, TOGETHER, Correction
from stages.datasets.index_file import IndexRow, is_multilabel
from stages.errors import UserError, nearest
from stages.reviewing.suspicions import Suspicion


def decided(
    table: Sequence[Suspicion], rows: Sequence[IndexRow], copies: Mapping[str, Sequence[str]], where: str
) -> list[Correction]:
    """The corrections that a table asks for.

    Args:
        table: with the decisions.
        rows: of the index.
        copies: path -> other files with the same bytes, which get the same label or are dropped as well.
        where: the table, for messages.

    Raises:
        UserError: a decision is unknown or cannot be carried out.
    """
    row_of, classes = {row.path: row for row in rows}, sorted({label for row in rows for label in row.classes})
    several = is_multilabel(rows)
    found = list[Correction]()
    for row in table:
        if not row.decision:
            continue
        corrections.check(row.decision, f"{where}, {row.path}")
        correction = Correction(row.path, row.what, row.other, row.decision)
        names = (correction.label or "").split(SEPARATOR) if several else [correction.label or ""]
        if strange := [name.strip() for name in names if name.strip() and name.strip() not in classes]:
            raise UserError(f"{where}, {row.path}: {strange[0]!r} is not a class; {nearest(strange[0], classes)}")
        if correction.label and row.path in row_of and row_of[row.path].objects:
            raise UserError(
                f"{where}, {row.path}: an image with objects cannot be relabelled, as they have the labels."
            )
        if row.decision == TOGETHER and not row.other:
            raise UserError(f"{where}, {row.path}: together is for two images, and `other` is empty.")
        found.append(correction)
        if correction.label or row.decision == corrections.DROP:
            found += [correction._replace(path=path) for path in copies.get(row.path, ())]
    return found


def merged(earlier: Iterable[Correction], later: Iterable[Correction]) -> list[Correction]:
    """Earlier and later corrections; a later one replaces an earlier one on the same suspicion or the same image."""
    later = list(later)
    suspicions = {(correction.path, correction.what, correction.other) for correction in later}
    changed = {correction.path for correction in later if _changes(correction)}
    remaining = [
        correction
        for correction in earlier
        if (correction.path, correction.what, correction.other) not in suspicions
        and not (_changes(correction) and correction.path in changed)
    ]
    return [*remaining, *later]


def without_decided(table: Iterable[Suspicion], earlier: Iterable[Correction]) -> Iterator[Suspicion]:
    """The suspicions on which nobody has decided yet."""
    known = {(correction.path, correction.what, correction.other) for correction in earlier}
    return (row for row in table if (row.path, row.what, row.other) not in known)


def _changes(correction: Correction) -> bool:
    """Whether it gives the image another label or drops it."""
    return correction.label is not None or correction.decision == corrections.DROP
