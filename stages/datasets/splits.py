"""Which image is train, val or test: drawn a class at a time, or taken from the dataset's own lists."""

import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from stages import files, paths
from stages.blocks import Block, Fraction
from stages.datasets.index_file import IndexRow
from stages.errors import UserError

log = logging.getLogger(__name__)
SPLITS = ("train", "val", "test")
NAMED = 5  # classes that a sentence names
SplitImages = dict[str, list[str]]  # part -> sha256 of its images, in index order


class Split(Block):
    """How images become train, val and test."""

    protocol: Literal["auto", "fractions", "published"]
    train: Fraction
    val: Fraction
    test: Fraction
    val_fraction: Annotated[float, Field(gt=0, lt=1)]
    seed: int

    @model_validator(mode="after")
    def _sums_to_one(self) -> "Split":
        if abs(self.train + self.val + self.test - 1) > 1e-6 or not min(self.train, self.val, self.test) > 0:
            raise ValueError("train, val and test must each be above 0 and add up to 1")
        return self


def draw(rows: Sequence[IndexRow], how: Split) -> tuple[SplitImages, str]:
    """Assigns every image to a part.

    Args:
        rows: the index.
        how: `protocol` fractions draws all of them; published keeps the dataset's lists as they are; auto takes the
            lists where there are any, cuts a missing val from train, and where there is no test lets val be the test
            and cuts a new val from train.

    Returns:
        The parts, and a sentence that says where they come from.

    Where images have objects their labels, the classes of the largest ones, only keep the parts alike: a label too rare
    to be in every part joins the commonest, and a class that train lacks is told, not refused.

    Raises:
        UserError: a class is too small, or there are no lists to keep.
    """
    listed = {part for row in rows if (part := row.split)}
    if how.protocol == "fractions" or (how.protocol == "auto" and not listed):
        shares = (("test", how.test), ("val", how.val))
        parts = _cut(rows, shares, seed=how.seed)
        return parts, f"{how.train:.0%} / {how.val:.0%} / {how.test:.0%} of every class, seed {how.seed}"
    return _published(rows, listed, how)


def _published(rows: Sequence[IndexRow], listed: set[str], how: Split) -> tuple[SplitImages, str]:
    if "train" not in listed:
        raise UserError(
            f"`split.protocol`: {how.protocol} needs official lists, and this dataset has none: use fractions."
        )
    lists = {part: [row for row in rows if row.split == part] for part in SPLITS}
    source = "the dataset's own lists"
    if unlisted := sum(row.split is None for row in rows):
        source += f"; {unlisted} image(s) are in none and are left out"
    if untrained := sorted(_classes(row for row in rows if row.split) - _classes(lists["train"])):
        if not _has_objects(rows):
            raise UserError(f"Class {untrained[0]!r} has no image in the train list: nothing can learn it.")
        named = ", ".join(untrained[:NAMED]) + (", …" if len(untrained) > NAMED else "")
        source += f"; no image of train has {named}"
    if not lists["test"] and how.protocol == "auto" and lists["val"]:
        lists["test"], lists["val"] = lists["val"], []
        source += "; its val list is the test"
    if not lists["val"]:
        cut = _cut(lists["train"], (("val", how.val_fraction),), seed=how.seed)
        chosen = set(cut["val"])
        lists["val"] = [row for row in lists["train"] if row.sha256 in chosen]
        lists["train"] = [row for row in lists["train"] if row.sha256 not in chosen]
        source += f"; val is {how.val_fraction:.0%} of every class of train, seed {how.seed}"
    if not lists["test"]:
        source += "; there is no test"
    return {part: [row.sha256 for row in lists[part]] for part in SPLITS}, source


def _cut(rows: Sequence[IndexRow], shares: Sequence[tuple[str, float]], *, seed: int) -> SplitImages:
    """Cuts parts off every class; train is what remains.

    An image's turn depends on its content and the seed alone: adding images moves few others from part to part.
    """
    part_of: dict[str, str] = {}
    turn: Callable[[IndexRow], bytes] = lambda row: hashlib.sha256(f"{seed} {row.sha256}".encode()).digest()  # noqa: E731
    for label, members in _strata(rows, len(shares) + 1).items():
        if len(members) <= len(shares):
            raise UserError(
                f"Class {label!r} has {len(members)} image(s), and each of train, "
                f"{' and '.join(name for name, _ in shares)} needs one: add images or leave the class out."
            )
        ordered, start = sorted(members, key=turn), 0
        for position, (name, share) in enumerate(shares):
            most = len(members) - start - (len(shares) - position)
            count = min(max(1, round(share * len(members))), most)
            part_of.update({row.sha256: name for row in ordered[start : start + count]})
            start += count
    return {part: [row.sha256 for row in rows if part_of.get(row.sha256, "train") == part] for part in SPLITS}


def _strata(rows: Sequence[IndexRow], least: int) -> dict[str, list[IndexRow]]:
    """The images of each label; where there are objects, labels of fewer than `least` images go to the commonest."""
    strata: dict[str, list[IndexRow]] = defaultdict(list)
    for row in rows:
        strata[row.label].append(row)
    if _has_objects(rows):
        common = max(strata, key=lambda label: len(strata[label]))
        for label in [label for label, members in strata.items() if len(members) < least and label != common]:
            strata[common] += strata.pop(label)
    return strata


def _has_objects(rows: Iterable[IndexRow]) -> bool:
    return any(row.objects for row in rows)


def _classes(rows: Iterable[IndexRow]) -> set[str]:
    """Every class that an image or an object is of."""
    return {label for row in rows for label in (row.label, *(box.label for box in row.objects)) if label}


def write(path: Path, parts: SplitImages, source: str, how: Split) -> None:
    """Writes a split, whole or not at all."""
    described = {"source": source, "params": how.model_dump(), **parts}
    files.write_json(path, described, indent=0)


def read(dataset: str) -> SplitImages:
    """The split of a dataset.

    Raises:
        UserError: it is not there or not whole.
    """
    path = paths.split(dataset)
    log.debug("reads %s", path)
    try:
        found = json.loads(path.read_text())
        return {part: found[part] for part in SPLITS}
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be read ({error}): `dvc repro -f split` makes it anew.") from None
