"""Which image is train, val or test: drawn class by class, by the hash of each image, or the dataset's own lists."""

import hashlib
import json
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, field_validator, model_validator

from stages import files, paths
from stages.blocks import Block, Fraction
from stages.datasets import index_file, stratification
from stages.datasets.base import natural
from stages.datasets.grouping import NO_GROUPS, Groups, cut_groups
from stages.datasets.index_file import IndexRow
from stages.errors import REPAIR, UserError, counted, listed

log = logging.getLogger(__name__)
Parsed = TypeVar("Parsed")
SPLITS = ("train", "val", "test")
FOLD = "fold "  # and its number, from 1: the name of a fold
UNLABELLED = "unlabelled"
NAMED = 5  # classes that a message names
FEWEST_OF_CLASS = 3  # images, with folds: one fold is judged and one validates, and one image must train
SplitImages = dict[str, list[str]]  # split -> sha256 of its images, in index order
Folds = list[list[str]]  # sha256 of the images of each fold, in index order


class Split(Block):
    """How images become train, val and test."""

    protocol: Literal["auto", "fractions", "published", "hashed", "kfold"]
    train: Fraction
    val: Fraction
    test: Fraction
    val_fraction: Annotated[float, Field(gt=0, lt=1)]
    folds: Annotated[int, Field(ge=3, le=100)]
    seed: int
    groups: str

    @field_validator("groups")
    @classmethod
    def _is_a_pattern(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"must be a regular expression ({error})") from None
        return pattern

    @model_validator(mode="after")
    def _sums_to_one(self) -> "Split":
        if abs(self.train + self.val + self.test - 1) > 1e-6 or not min(self.train, self.val, self.test) > 0:
            raise ValueError("train, val and test must each be above 0 and add up to 1")
        return self


class UnusableClasses(UserError):
    """Classes that cannot be in every split that needs them.

    Attributes:
        labels: their names.
    """

    def __init__(self, message: str, labels: Sequence[str]) -> None:
        super().__init__(message)
        self.labels = list(labels)


def draw(
    rows: Sequence[IndexRow], choices: Split, groups: Groups = NO_GROUPS, *, partly_labelled: bool = False
) -> tuple[SplitImages, str]:
    """Assigns every image to a split.

    If images have objects, their labels (the class of the largest object) only serve to make the splits similar: a
    label that is too rare to be in every split joins the most frequent one, and a class without images in train is
    reported, not refused. So it is where images have several labels, which `stratification` deals out.

    Args:
        rows: the index.
        choices: with the protocol `fractions` all splits are random; `published` keeps the dataset's lists as they are;
            `auto` takes the lists if there are any and cuts a missing val from train; if there is no test list, the val
            list becomes the test and a new val is cut from train. `hashed` draws each image by its own hash, whatever
            the labels and the other images; so does `auto` where images are or were without a label.
        groups: images that belong in one split; the dataset's lists are kept even if they divide a group.
        partly_labelled: whether images are without a label, or got one after people had seen which to label. What they
            are drawn by must not change with the next label.

    Returns:
        The splits, and a sentence that says where they come from.

    Raises:
        UserError: classes are too small, or there are no lists to keep.
    """
    listed_splits = {row.split for row in rows if row.split}
    if choices.protocol == "hashed" or (partly_labelled and not listed_splits):
        images, source = _hashed(rows, choices, groups)
    elif choices.protocol == "fractions" or (choices.protocol == "auto" and not listed_splits):
        shares = (("test", choices.test), ("val", choices.val))
        images = _cut(rows, shares, groups, seed=choices.seed)
        sizes = f"{choices.train:.0%} / {choices.val:.0%} / {choices.test:.0%}"
        if index_file.is_multilabel(rows):
            source = f"{sizes} of every label as well as that can be, by iterative stratification, seed {choices.seed}"
            source += stratification.told(rows, images, {name: getattr(choices, name) for name in SPLITS})
        else:
            source = f"{sizes} of every class, at least one image each, seed {choices.seed}"
    else:
        images, source = _published(rows, listed_splits, choices, groups, partly_labelled=partly_labelled)
    return images, source + _grouped(rows, images, groups)


def refuse_partly_labelled(choices: Split) -> None:
    """Raises an error for protocols that draw anew with every label."""
    if choices.protocol in ("fractions", "kfold"):
        raise UserError(
            f"`split.protocol`: {choices.protocol} draws a new split with every label, so images that were chosen for "
            "training could end up in test. If images have no label yet, or got one by `label --apply`, use auto or "
            "hashed."
        )


def draw_folds(rows: Sequence[IndexRow], choices: Split, groups: Groups = NO_GROUPS) -> tuple[Folds, str]:
    """Assigns every image to one of `choices.folds` folds: each class is spread evenly, and so are all images.

    The dataset's own lists do not count.

    Args:
        rows: the index.
        choices: `folds` and `seed`.
        groups: images that belong in one fold.

    Returns:
        The folds, and a sentence that says where they come from.

    Raises:
        UserError: a class has fewer than FEWEST_OF_CLASS images.
    """
    if index_file.is_multilabel(rows):
        raise UserError(
            "`split.protocol`: kfold needs one label per image, and these have several: take split.protocol=fractions."
        )
    strata, names = _strata(rows, FEWEST_OF_CLASS), [f"{FOLD}{number}" for number in range(1, choices.folds + 1)]
    _refuse_small(strata, ["train", "val", "test"])
    targets, dealt = {name: dict[str, int]() for name in names}, 0
    for label, members in strata.items():  # as one deals cards, so that no fold gets the odd image of every class
        for place in range(choices.folds):
            first = (place - dealt) % choices.folds
            targets[names[place]][label] = len(range(first, len(members), choices.folds))
        dealt += len(members)
    split_of = _assign(strata, groups, targets=targets, seed=choices.seed)
    images = {name: [row.sha256 for row in rows if split_of[row.sha256] == name] for name in names}
    source = (
        f"{choices.folds} folds of every class, seed {choices.seed}: each fold is judged by a head that has not seen "
        "it, the next fold validates, and the others train"
    )
    folds = list(images.values())
    trained = {f"the train part of {name}": turn["train"] for name, turn in zip(names, rotated(folds), strict=True)}
    return folds, source + _grouped(rows, images, groups, needed=trained)


def rotated(folds: Folds) -> list[SplitImages]:
    """The splits of each fold in its turn as the test: the next fold is val, and all others are train."""
    turns = []
    for number, test in enumerate(folds):
        following = (number + 1) % len(folds)
        train = [image for other, fold in enumerate(folds) if other not in (number, following) for image in fold]
        turns.append({"train": train, "val": folds[following], "test": test})
    return turns


def kept(folds: Folds) -> SplitImages:
    """The splits of the head that is kept for new images: the first fold is val, all others are train."""
    return {"train": [image for fold in folds[1:] for image in fold], "val": folds[0], "test": []}


def _hashed(rows: Sequence[IndexRow], choices: Split, groups: Groups) -> tuple[SplitImages, str]:
    """Draws each image, or each group, by its own hash: no label and no other image moves it."""
    images: SplitImages = {split: [] for split in SPLITS}
    for row in rows:
        drawn = _hash_of(row, groups, choices.seed)
        after = choices.test + choices.val
        images["test" if drawn < choices.test else "val" if drawn < after else "train"].append(row.sha256)
    sizes = f"{choices.train:.0%} / {choices.val:.0%} / {choices.test:.0%}"
    return images, f"about {sizes}, each image by its own hash, seed {choices.seed}"


def _hash_of(row: IndexRow, groups: Groups, seed: int) -> float:
    """A number in [0, 1) that depends on the content of an image, or on its group, alone."""
    return int.from_bytes(_digest(groups.get(row.sha256, row.sha256), seed)[:6], "big") / 2**48


def _digest(image: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed} {image}".encode()).digest()


def _published(
    rows: Sequence[IndexRow], listed_splits: set[str], choices: Split, groups: Groups, *, partly_labelled: bool
) -> tuple[SplitImages, str]:
    """The dataset's own lists; missing ones are made from the others.

    Images without a label that are in no list are train's, as are those that got one later.
    """
    if "train" not in listed_splits:
        lacking = f"only {listed(sorted(listed_splits))}" if listed_splits else "none"
        raise UserError(
            f"`split.protocol`: {choices.protocol} needs a train list, and this dataset has {lacking}: use fractions."
        )
    unlisted_split = "train" if partly_labelled else None
    lists = {split: [row for row in rows if (row.split or unlisted_split) == split] for split in SPLITS}
    source = "the dataset's own lists"
    if partly_labelled and any(row.split is None for row in rows):
        source += ", and in train what is in none of them"
    elif unlisted := sum(row.split is None for row in rows):
        source += f"; {counted(unlisted, 'images are')} in none and left out"
    kept = [row for split in SPLITS for row in lists[split]]
    several = index_file.is_multilabel(rows)
    if untrained := sorted(_classes(kept) - _classes(lists["train"]), key=natural):
        if not several and not _has_objects(rows) and not partly_labelled:
            raise UnusableClasses(
                f"The train list has no image of {listed([repr(name) for name in untrained])}, so no head can learn "
                f"{'it' if len(untrained) == 1 else 'them'}.",
                untrained,
            )
        source += f"; no image of train has {listed(untrained, NAMED)}"
    if not lists["test"] and choices.protocol == "auto" and lists["val"]:
        lists["test"], lists["val"] = lists["val"], []
        source += "; its val list is the test"
    if not lists["val"]:
        if partly_labelled:
            drawn = {row.sha256: _hash_of(row, groups, choices.seed) for row in lists["train"]}
            chosen = {image for image, value in drawn.items() if value < choices.val_fraction}
            rule = f"about {choices.val_fraction:.0%}, each image by its own hash"
        else:
            cut = _cut(lists["train"], (("val", choices.val_fraction),), groups, seed=choices.seed)
            chosen = set(cut["val"])
            rule = f"{choices.val_fraction:.0%} of every class but at least one image"
            if several:
                rule = f"{choices.val_fraction:.0%} of every label as well as that can be, by iterative stratification"
                shares = {"val": choices.val_fraction, "train": 1 - choices.val_fraction}
                rule += stratification.told(rows, cut, shares).replace("; ", ", ")
        lists["val"] = [row for row in lists["train"] if row.sha256 in chosen]
        share = f"{len(lists['val'])} of {counted(len(lists['train']), 'images')}"
        lists["train"] = [row for row in lists["train"] if row.sha256 not in chosen]
        source += f"; val is cut from train, {rule} ({share}), seed {choices.seed}"
    if not lists["test"]:
        source += "; there is no test"
    return {split: [row.sha256 for row in lists[split]] for split in SPLITS}, source


def _grouped(
    rows: Sequence[IndexRow], images: SplitImages, groups: Groups, *, needed: SplitImages | None = None
) -> str:
    """What a reader of the page needs to know about the groups, as the end of a sentence.

    Args:
        rows: the index.
        images: of each split or fold.
        groups: images that belong in one of them.
        needed: what should have images of every class; `images` themselves if None.
    """
    if not groups:
        return ""
    splits_of = defaultdict[str, set[str]](set)
    for split, members in images.items():
        for image in members:
            if image in groups:
                splits_of[groups[image]].add(split)
    count = sum(image in groups for members in images.values() for image in members)
    source = f"; {counted(len(splits_of), 'groups')} of {counted(count, 'images')}"
    if divided := sum(len(names) > 1 for names in splits_of.values()):
        return f"{source}, {divided} of which the dataset's own lists tear apart"
    if index_file.is_multilabel(rows):  # which labels a split lacks is said anyway
        return f"{source}, kept together"
    label_of = {row.sha256: row.label for row in rows}
    classes = {split: {label_of[image] for image in members} for split, members in (needed or images).items()}
    all_classes = set().union(*classes.values()) - {""}
    lacking = [
        f"{split} has no image of {listed(sorted(all_classes - split_classes), NAMED)}"
        for split, split_classes in classes.items()
        if split_classes and all_classes - split_classes
    ]
    return "; ".join([f"{source}, kept together", *lacking])


def _cut(rows: Sequence[IndexRow], shares: Sequence[tuple[str, float]], groups: Groups, *, seed: int) -> SplitImages:
    """Cuts splits from every class; train is what remains. Groups stay whole, at the cost of exact shares.

    The order of images depends only on their contents and the seed, so adding images moves few others to another split.

    Args:
        rows: of the images to cut.
        shares: of each split but train, in [0, 1].
        groups: images that belong in one split.
        seed: of the order.
    """
    if index_file.is_multilabel(rows):
        of_all = {**dict(shares), "train": 1 - sum(share for _, share in shares)}
        split_of = stratification.assign(rows, groups, shares=of_all, turn=lambda image: _digest(image, seed))
        return {split: [row.sha256 for row in rows if split_of[row.sha256] == split] for split in SPLITS}
    strata = _strata(rows, len(shares) + 1)
    _refuse_small(strata, ["train", *(name for name, _ in shares)])
    targets = {name: dict[str, int]() for name in (*(name for name, _ in shares), "train")}
    for label, members in strata.items():
        remaining = len(members)
        for position, (name, share) in enumerate(shares):
            most = remaining - (len(shares) - position)
            targets[name][label] = min(max(1, round(share * len(members))), most)
            remaining -= targets[name][label]
        targets["train"][label] = remaining
    split_of = _assign(strata, groups, targets=targets, seed=seed)
    return {split: [row.sha256 for row in rows if split_of[row.sha256] == split] for split in SPLITS}


def _assign(
    strata: Mapping[str, Sequence[IndexRow]], groups: Groups, *, targets: Mapping[str, Mapping[str, int]], seed: int
) -> dict[str, str]:
    """The split (or fold) of every image: first those of groups, then single images fill up what is lacking.

    Args:
        strata: the images of each class.
        groups: images that belong in one split.
        targets: split -> class -> images that the split should have, as many as there are in all.
        seed: of the order.
    """
    turn: Callable[[str], bytes] = lambda image: _digest(image, seed)  # noqa: E731
    label_of = {row.sha256: label for label, members in strata.items() for row in members}
    split_of = cut_groups(label_of, groups, targets=targets, turn=turn)
    room = {name: Counter(counts) for name, counts in targets.items()}
    for image, name in split_of.items():
        room[name][label_of[image]] -= 1
    for label, members in strata.items():
        singles, start = sorted((row.sha256 for row in members if row.sha256 not in split_of), key=turn), 0
        for name in targets:
            count = max(0, room[name][label])
            split_of.update(dict.fromkeys(singles[start : start + count], name))
            start += count
    return split_of


def _refuse_small(strata: Mapping[str, Sequence[IndexRow]], needed: Sequence[str]) -> None:
    """Raises an error that names every class with fewer images than there are splits."""
    small = sorted((label for label, members in strata.items() if len(members) < len(needed)), key=natural)
    if small:
        counts = listed([f"{label!r} ({len(strata[label])})" for label in small])
        have = "has" if len(small) == 1 else "have"
        raise UnusableClasses(
            f"{len(small)} of {counted(len(strata), 'classes')} {have} too few images for "
            f"{listed(needed)}, which need one each: {counts}.",
            small,
        )


def _strata(rows: Sequence[IndexRow], least: int) -> dict[str, list[IndexRow]]:
    """The images of each label; if there are objects, labels with fewer than `least` images join the most frequent."""
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
    """The classes of all images and objects."""
    own = {label for row in rows for label in row.classes}
    return own if index_file.is_multilabel(rows) else own | {box.label for row in rows for box in row.objects}


def without_unlabelled(images: SplitImages, rows: Sequence[IndexRow]) -> tuple[SplitImages, SplitImages]:
    """The labelled images of each split, and those that nobody has labelled yet."""
    unlabelled = {row.sha256 for row in index_file.unlabelled(rows)}
    labelled = {split: [image for image in members if image not in unlabelled] for split, members in images.items()}
    return labelled, {split: [image for image in members if image in unlabelled] for split, members in images.items()}


def write(
    path: Path,
    images: SplitImages,
    *,
    source: str,
    choices: Split,
    folds: Folds | None = None,
    unlabelled: SplitImages | None = None,
) -> None:
    """Writes the splits, completely or not at all.

    Args:
        path: of the file.
        images: the splits.
        source: a sentence that says where they come from.
        choices: the block `split` of params.yaml.
        folds: with the protocol `kfold`.
        unlabelled: the images that will be in them once they have a label; where there are any, they are kept as well.
    """
    unused = {name for name, used in {"groups": bool(choices.groups), "folds": bool(folds)}.items() if not used}
    described: dict[str, Any] = {"source": source, "params": choices.model_dump(exclude=unused), **images}
    if folds:
        described["folds"] = folds
    if unlabelled and any(unlabelled.values()):
        described[UNLABELLED] = unlabelled
    files.write_json(path, described, indent=0)


def read(dataset: str) -> SplitImages:
    """The labelled images of each split, of datasets with boxes all; with folds of the head kept for new images.

    Raises:
        UserError: the file is missing or damaged.
    """
    return _read(dataset, lambda values: {split: values[split] for split in SPLITS})


def read_folds(dataset: str) -> Folds:
    """The folds of a dataset; none where the protocol is not `kfold`.

    Raises:
        UserError: the file is missing or damaged.
    """
    return _read(dataset, lambda values: values.get("folds", []))


def read_parts(dataset: str) -> SplitImages:
    """Every image with the name of the split that it is in, or of the fold that it is judged with.

    Raises:
        UserError: the file is missing or damaged.
    """
    folds = {f"{FOLD}{number}": images for number, images in enumerate(read_folds(dataset), 1)}
    return folds or read(dataset)


def read_unlabelled(dataset: str) -> SplitImages:
    """The images that nobody has labelled yet, by the split that they will be in.

    Raises:
        UserError: the file is missing or damaged.
    """
    return _read(dataset, lambda values: values.get(UNLABELLED, {split: [] for split in SPLITS}))


def _read(dataset: str, parse: Callable[[Any], Parsed]) -> Parsed:
    path = paths.split(dataset)
    log.debug("reads %s", path)
    try:
        return parse(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{path} cannot be read ({error}): {REPAIR} writes it again.") from None
