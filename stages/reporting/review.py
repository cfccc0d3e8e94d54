"""The section "Look at your data first": what the stage review suspects, and what leaks do to the score."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stages.datasets.corrections import DROP, NO_LABEL
from stages.errors import counted
from stages.reporting.gather import RunResults
from stages.reporting.pictures import Album, Picture
from stages.reporting.words import of_100, percent
from stages.reviewing import suspicions
from stages.reviewing.suspicions import COPIES, LABEL_IN_DOUBT, Suspicion

SHOWN = 12  # suspicions of a kind that have a picture
NOTHING = "Features and pixels show nothing wrong: {}no image is a copy of another, and none is odd."
NO_DOUBT = "no label in doubt, "
NOT_REVIEWED = " Labels are not reviewed, because here the objects have labels, not the images."


@dataclass(frozen=True)
class ShownSuspicion:
    """A suspicion with its pictures.

    Attributes:
        suspicion: a row of `reports/review.csv`.
        picture: of the image.
        other: of the image that it is a copy of, where there is one.
    """

    suspicion: Suspicion
    picture: Picture
    other: Picture | None


@dataclass(frozen=True)
class SuspicionKind:
    """The suspicions of one kind: heading, what they are, the strongest with pictures, how many there are in all."""

    heading: str
    remark: str
    shown: list[ShownSuspicion]
    count: int


def kinds(run: RunResults, album: Album) -> list[SuspicionKind]:
    """Every kind of which there is a suspicion."""
    by_path = {row.path: row for row in run.rows}

    def shown(suspicion: Suspicion) -> ShownSuspicion:
        picture = album.picture(by_path[suspicion.path])
        other = by_path.get(suspicion.other)
        return ShownSuspicion(suspicion, picture, album.picture(other) if other else None)

    found = []
    for heading, remark, group in _grouped(run.suspicions):
        pictured = [suspicion for suspicion in group if suspicion.path in by_path][:SHOWN]
        if group:
            found.append(SuspicionKind(heading, remark, [shown(suspicion) for suspicion in pictured], len(group)))
    return found


def sentences(run: RunResults, right: npt.NDArray[np.bool_] | None, doubts: str = "") -> list[str]:
    """What was found, in sentences.

    Args:
        run: with its suspicions.
        right: (N,) whether the class of each judged image was right; None where none is predicted.
        doubts: what a detector makes of the annotations.
    """
    in_force = [*not_learnt(run), *([doubts] if doubts else []), *corrections_in_force(run)]
    if not run.suspicions:
        if not_learnt(run):
            return in_force
        with_objects = any(row.objects and row.labels is None for row in run.rows)
        return [NOTHING.format("") + NOT_REVIEWED if with_objects else NOTHING.format(NO_DOUBT), *in_force]
    counts = [in_words(heading, len(group)) for heading, _, group in _grouped(run.suspicions) if group]
    said = [f"Found: {', '.join(counts)}. reports/review.csv lists all of them."]
    return [*said, *([text] if (text := without_leaks(run, right)) else []), *in_force]


def in_words(heading: str, count: int) -> str:
    """`1 copy within a split`, `2 labels in doubt`."""
    nouns, *where = re.split(r"(?= in | within )", heading.lower())
    return counted(count, nouns) + "".join(where)


def not_learnt(run: RunResults) -> list[str]:
    """Why no label is in doubt, where these features cannot tell the classes apart."""
    if run.labels_checked is None or run.labels_checked.learnt:
        return []
    return [
        f"Only {of_100(run.labels_checked.leave_one_out_accuracy)} of 100 labels can be predicted from the other "
        "images. These features do not tell the classes apart, so no label is called doubtful. Try another "
        "backbone, or check whether the images show their class at all."
    ]


def corrections_in_force(run: RunResults) -> list[str]:
    """What people have decided, counted; nothing where there are no corrections."""
    kinds = Counter(
        "label" if item["what"] == NO_LABEL and item["decision"] != DROP else item["decision"].partition(":")[0]
        for item in run.index.get("corrections", [])
    )
    if not kinds:
        return []
    counts = ", ".join(f"{count:,} {kind}" for kind, count in sorted(kinds.items()))
    return [f"Corrections in force (data/corrections/{run.metrics['dataset']}.csv): {counts}."]


def corrections_listed(run: RunResults) -> list[str]:
    """Every correction in words, but for labels of images that had none."""
    return [
        f"{item['path']}: {item['decision']}{' with ' + item['other'] if item['other'] else ''}"
        for item in run.index.get("corrections", [])
        if item["what"] != NO_LABEL
    ]


def without_leaks(run: RunResults, right: npt.NDArray[np.bool_] | None) -> str:
    """How many judged images have a copy in another split, and the accuracy with and without them."""
    copied = copied_elsewhere(run.suspicions)
    leaked = np.array([row.path in copied for row in run.judged], bool)
    if not leaked.any():
        return ""
    verb = "images has" if leaked.sum() == 1 else "images have"
    part, other = ("", "fold") if "folds" in run.metrics else (f"{run.part} ", "split")
    text = f"{leaked.sum():,} of {len(leaked):,} {part}{verb} a copy in another {other}"
    if right is None or leaked.all():
        return f"{text}."
    return f"{text}: top-1 accuracy is {percent(right.mean())} with them and {percent(right[~leaked].mean())} without."


def copied_elsewhere(found: Sequence[Suspicion]) -> set[str]:
    """The paths of images with a copy in another split."""
    return {path for suspicion in found if suspicion.leak for path in (suspicion.path, suspicion.other)}


def _grouped(found: Sequence[Suspicion]) -> list[tuple[str, str, list[Suspicion]]]:
    """Heading, remark and suspicions of each kind."""
    copies = [suspicion for suspicion in found if suspicion.what in COPIES]
    known = {LABEL_IN_DOUBT, suspicions.CONFLICT, *COPIES}
    return [
        ("Leaks", "the same picture in two splits, or two folds", [copy for copy in copies if copy.leak]),
        ("Conflicts", "the same file under two labels; none of its copies is used", _of(found, suspicions.CONFLICT)),
        (
            "Labels in doubt",
            "the other images suggest another label; the clearest cases first",
            _of(found, LABEL_IN_DOUBT),
        ),
        ("Copies within a split", "the same picture twice", [copy for copy in copies if not copy.leak]),
        ("Odd images", "unlike all other images", [item for item in found if item.what not in known]),
    ]


def _of(found: Sequence[Suspicion], what: str) -> list[Suspicion]:
    return [suspicion for suspicion in found if suspicion.what == what]
