"""Splits of images with several labels, in which every label keeps its share: iterative stratification.

Sechidis, Tsoumakas and Vlahavas, On the Stratification of Multi-label Data, 2011
(https://doi.org/10.1007/978-3-642-23808-6_10), algorithm 1: the label with the fewest images left is dealt out first,
each image to the split that lacks this label most. Groups of images are dealt out whole, as one image with many labels.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from stages.datasets.base import natural
from stages.datasets.grouping import Groups
from stages.datasets.index_file import IndexRow
from stages.errors import listed

NAMED = 5  # labels that a sentence names
OFF_BY = 0.1  # the share of what a split should have of a label, and
OFF_LEAST = 1.5  # the number of images, by which it may be off without a word


@dataclass
class Unit:
    """Images that are dealt out together: one, or those of a group.

    Attributes:
        images: their sha256.
        labels: label -> how many of them have it.
    """

    images: list[str] = field(default_factory=list)
    labels: Counter[str] = field(default_factory=Counter)


def assign(
    rows: Sequence[IndexRow], groups: Groups, *, shares: Mapping[str, float], turn: Callable[[str], bytes]
) -> dict[str, str]:
    """The split (or fold) of every image.

    Args:
        rows: of the images, with their labels.
        groups: images that belong in one split.
        shares: of each split, which add up to 1; of splits that lack as much, the first one gets the image.
        turn: the order among equals, from the name of an image or group.

    Returns:
        sha256 -> split.
    """
    units = _units(rows, groups)
    counts = Counter(label for row in rows for label in row.classes)
    lacking = {split: {label: share * count for label, count in counts.items()} for split, share in shares.items()}
    room = {split: share * len(rows) for split, share in shares.items()}
    waiting = defaultdict[str, set[str]](set)
    for name, unit in units.items():
        for label in unit.labels:
            waiting[label].add(name)
    split_of = dict[str, str]()

    def deal(name: str, label: str | None) -> None:
        unit = units[name]
        best = max(shares, key=lambda split: (lacking[split][label] if label else 0.0, room[split]))
        split_of.update(dict.fromkeys(unit.images, best))
        room[best] -= len(unit.images)
        for other, count in unit.labels.items():
            lacking[best][other] -= count
            waiting[other].discard(name)

    order = sorted(units, key=lambda name: (-len(units[name].images), turn(name)))
    rank = {name: number for number, name in enumerate(order)}
    while any(waiting.values()):
        rarest = min(filter(waiting.get, waiting), key=lambda label: (len(waiting[label]), natural(label)))
        for name in sorted(waiting[rarest], key=rank.__getitem__):
            deal(name, rarest)
    for name in order:
        if not units[name].labels:
            deal(name, None)
    return split_of


def _units(rows: Sequence[IndexRow], groups: Groups) -> dict[str, Unit]:
    """The units by their names."""
    units = defaultdict[str, Unit](Unit)
    for row in rows:
        unit = units[groups.get(row.sha256, row.sha256)]
        unit.images.append(row.sha256)
        unit.labels.update(row.classes)
    return units


def told(rows: Sequence[IndexRow], images: Mapping[str, Sequence[str]], shares: Mapping[str, float] | None) -> str:
    """Where labels could not keep their shares, as the end of a sentence; empty where all could.

    Args:
        rows: of the index.
        images: of each split.
        shares: that each split should have of every label; None for lists that are as they are.
    """
    row_of = {row.sha256: row for row in rows}
    counts = {
        split: Counter(label for image in members for label in row_of[image].classes)
        for split, members in images.items()
        if members
    }
    totals = Counter[str]()
    for of_split in counts.values():
        totals.update(of_split)
    sentences = [
        f"no image of {split} has {listed(lacking, NAMED)}"
        for split, of_split in counts.items()
        if (lacking := sorted((label for label in totals if not of_split[label]), key=natural))
    ]
    off = list[tuple[float, str]]()
    for split, share in (shares or {}).items():
        for label, total in totals.items() if split in counts else ():
            count, target = counts[split][label], share * total
            if count and abs(count - target) > max(OFF_LEAST, OFF_BY * target):
                text = f"{label} has {count} images in {split} in place of {target:.0f}"
                off.append((abs(count - target) / target, text))
    if off:
        more = f", and {len(off) - 1} more" if len(off) > 1 else ""
        sentences.append(f"shares that could not be kept: {max(off)[1]}{more}")
    return "".join(f"; {sentence}" for sentence in sentences)
