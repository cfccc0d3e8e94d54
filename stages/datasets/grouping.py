"""Groups of images that belong together (copies, one patient, one video), and splits that keep groups whole."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

from stages.datasets.index_file import IndexRow

Groups = Mapping[str, str]  # sha256 of an image -> sha256 of the image that represents its group
NO_GROUPS: Groups = MappingProxyType({})
Counts = Mapping[str, int]


def groups(rows: Sequence[IndexRow], pairs: Iterable[tuple[str, str]], pattern: str) -> Groups:
    """The groups of images, those of one image left out.

    Args:
        rows: of the index; those with the same `group` belong together.
        pairs: paths of two images that belong together.
        pattern: regular expression; images on whose paths its first group, or else all of it, matches the same text
            belong together. Empty for none.
    """
    leader = {row.sha256: row.sha256 for row in rows}
    sha256_of = {row.path: row.sha256 for row in rows}

    def find(image: str) -> str:
        while leader[image] != image:
            leader[image] = leader[leader[image]]
            image = leader[image]
        return image

    def join(first: str, second: str) -> None:
        low, high = sorted((find(first), find(second)))
        leader[high] = low

    for first, second in pairs:
        if first in sha256_of and second in sha256_of:
            join(sha256_of[first], sha256_of[second])
    first_of = dict[str, str]()
    for row in rows:
        if row.group:
            join(row.sha256, first_of.setdefault(f"group {row.group}", row.sha256))
    first_of.clear()
    for row in rows if pattern else ():
        if match := re.search(pattern, row.path):
            join(row.sha256, first_of.setdefault(match[1] if match.re.groups else match[0], row.sha256))
    of_image = {image: find(image) for image in leader}
    sizes = Counter(of_image.values())
    return {image: group for image, group in of_image.items() if sizes[group] > 1}


def cut_groups(
    label_of: Mapping[str, str],
    groups: Groups,
    *,
    targets: Mapping[str, Counts],
    turn: Callable[[str], bytes],
) -> dict[str, str]:
    """Assigns every image in a group to a split: the largest groups first, each where its labels are lacking most.

    Args:
        label_of: sha256 -> label of every image.
        groups: of these images.
        targets: split -> label -> images that the split should have.
        turn: the order among equals, from the name of a group.

    Returns:
        sha256 -> split of the images in groups.
    """
    members: dict[str, list[str]] = {}
    for image in label_of:
        if image in groups:
            members.setdefault(groups[image], []).append(image)
    room = {split: Counter(counts) for split, counts in targets.items()}
    split_of = dict[str, str]()
    for group in sorted(members, key=lambda name: (-len(members[name]), turn(name))):
        labels = Counter(label_of[image] for image in members[group])
        best = max(room, key=lambda split: _fit(labels, room[split], targets[split]))
        room[best].subtract(labels)
        split_of |= dict.fromkeys(members[group], best)
    return split_of


def _fit(labels: Counts, room: Counts, target: Counts) -> tuple[bool, float]:
    """How well a group fits into a split: whether there is room for all of it, and how much the split lacks."""
    fits = all(room[label] >= count for label, count in labels.items())
    lacking = sum(count * room[label] / max(target[label], 1) for label, count in labels.items())
    return fits, lacking
