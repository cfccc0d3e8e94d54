"""The decisions of people on suspicions: `data/corrections/<dataset>.csv`, in git; the user's files stay as they are.

Each line has the path of an image below the folder of the dataset, the suspicion (`what`, and `other` for a copy), and
the decision: `keep`, `relabel:NAME`, `drop` or `together`. `what` is `no label` where `python -m
stages.label` asked for a label. Where images have several labels, NAME lists all of them: `relabel:cat|dog`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from stages import files, paths
from stages.datasets.base import Item, Note, Record, UnusedFile
from stages.errors import UserError, counted, listed

KEEP, DROP, TOGETHER = "keep", "drop", "together"
RELABEL = "relabel:"
SEPARATOR = "|"  # between several labels of an image
NO_LABEL = "no label"  # `what` of an image that had none, and got one or was dropped
DECISIONS = (KEEP, f"{RELABEL}NAME", DROP, TOGETHER)


class Correction(NamedTuple):
    """A decision about an image.

    Attributes:
        path: of the image.
        what: the kind of suspicion.
        other: path of the image that it is a copy of; empty if it is not suspected to be one.
        decision: one of DECISIONS.
    """

    path: str
    what: str
    other: str
    decision: str

    @property
    def label(self) -> str | None:
        """The label that the image gets; None for other decisions."""
        return self.decision.removeprefix(RELABEL) if self.decision.startswith(RELABEL) else None


def check(decision: str, where: str) -> None:
    """Raises a UserError if a decision is not one of DECISIONS.

    Args:
        decision: as in the file.
        where: the file and line, for the message.
    """
    named = decision.startswith(RELABEL) and decision != RELABEL
    if not named and decision not in (KEEP, DROP, TOGETHER):
        raise UserError(f"{where}: `decision` must be {', '.join(DECISIONS)} or empty, found {decision!r}.")


def read(dataset: str) -> list[Correction]:
    """The corrections of a dataset; empty if it has no such file.

    Raises:
        UserError: the file cannot be read, a decision is unknown, or two decisions contradict each other.
    """
    path = paths.corrections(dataset)
    if not path.exists():
        return []
    corrections = list[Correction]()
    for cells, where in files.read_table(path, Correction._fields, expected="what `--apply` writes"):
        corrections.append(Correction(**cells))
        check(corrections[-1].decision, where)
    refuse_contradictions(corrections, path)
    return corrections


def write(path: Path, corrections: Iterable[Correction]) -> None:
    """Writes corrections in the order of their paths, completely or not at all; removes the file if there are none."""
    rows = [correction._asdict() for correction in sorted(corrections)]
    if rows:
        files.write_csv(path, Correction._fields, rows)
    else:
        path.unlink(missing_ok=True)


def refuse_contradictions(corrections: Iterable[Correction], path: Path) -> None:
    """Raises a UserError if an image has two new labels, or has one and is dropped."""
    decided = dict[str, str]()
    for correction in corrections:
        if correction.decision == DROP or correction.label:
            earlier = decided.setdefault(correction.path, correction.decision)
            if earlier != correction.decision:
                raise UserError(f"{path}: {correction.path} has two decisions, {earlier} and {correction.decision}.")


def apply(items: Sequence[Item], corrections: Sequence[Correction], dataset: str) -> list[Item]:
    """The items of a dataset with corrected labels, and without those to drop; a note lists images that are missing.

    Args:
        items: as the dataset's reader yields them.
        corrections: of the dataset.
        dataset: its name, for messages.
    """
    if not corrections:
        return list(items)
    path = paths.corrections(dataset)
    own = {item.path for item in items if isinstance(item, Record) and item.label}
    decided = {
        item.path: item
        for item in corrections
        if (item.decision == DROP or item.label) and not (item.what == NO_LABEL and item.path in own)
    }
    present = {item.path for item in items if isinstance(item, Record)}
    corrected = [_corrected(item, decided, path) for item in items]
    if gone := sorted(decided.keys() - present):
        text = f"{path} decides on {counted(len(gone), 'images')} not there: {listed(gone)}"
        corrected.append(Note(text, warning=True))
    if used := decided.keys() & present:
        corrected.append(Note(f"{path} is applied to {counted(len(used), 'images')}"))
    labelled = [item.path for item in corrections if item.what == NO_LABEL and item.path in own]
    if labelled:
        text = f"{path} labels {counted(len(labelled), 'images')} with a label of their own by now, which counts"
        corrected.append(Note(f"{text}: {listed(labelled)}"))
    return corrected


def _corrected(item: Item, decided: dict[str, Correction], path: Path) -> Item:
    if not isinstance(item, Record) or item.path not in decided:
        return item
    correction = decided[item.path]
    if correction.label is None:
        return UnusedFile(item.path, f"{path} drops it", len(item.objects))
    if item.label is None:
        raise UserError(f"{path}: {item.path} has objects with labels of their own and cannot be relabelled.")
    if item.labels is not None:
        labels = tuple(dict.fromkeys(filter(None, map(str.strip, correction.label.split(SEPARATOR)))))
        return replace(item, labels=labels, unknown_labels=())
    return replace(item, label=correction.label)


def labelled_later(corrections: Iterable[Correction]) -> bool:
    """Whether images without a label have got one: others may have been chosen on purpose before them."""
    return any(correction.what == NO_LABEL for correction in corrections)


def together(corrections: Iterable[Correction]) -> Iterator[tuple[str, str]]:
    """Pairs of paths that belong into one split."""
    for correction in corrections:
        if correction.decision == TOGETHER and correction.other:
            yield correction.path, correction.other
