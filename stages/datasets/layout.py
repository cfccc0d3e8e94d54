"""The usual names of folders and lists: which hold images, which annotations, and which split a list is."""

import re
from collections import defaultdict
from collections.abc import Iterable

SPLIT_NAMES = {
    "train": ("train", "training", "trn", "trainval"),
    "val": ("val", "valid", "validation", "dev", "development"),
    "test": ("test", "testing", "tst", "eval", "evaluation"),
}
SPLIT_OF = {name: split for split, names in SPLIT_NAMES.items() for name in names}
# Words that say nothing about which split a folder is: `training_set`, `test images`, `val2017`
FILLERS = frozenset(
    {"data", "dataset", "folder", "image", "images", "img", "imgs", "jpg", "list", "part", "photos", "pictures", "png",
     "set", "sets", "split"}
)  # fmt: skip
IMAGES = ("jpegimages", "images", "image", "imgs", "img", "jpgimages", "jpegs", "photos", "pictures")
ANNOTATIONS = ("annotations", "annotation", "annots", "annot", "anns", "xmls", "xml", "labels")
MASKS = frozenset(
    (*ANNOTATIONS, "mask", "masks", "segmentation", "segmentations", "groundtruth", "ground_truth", "gt", "label")
)


def split_named(name: str) -> tuple[str, str] | None:
    """The split that the name of a folder or list says, and the rest of the name; None if it does not say one.

    `Training` is ("train", ""), `seg_test` ("test", "seg"), `valset` ("val", ""), `train_station` ("train", "station").
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    words = re.findall(r"[^\W\d_]+", spaced.casefold())
    words = [part for word in words for part in _without_filler(word)]
    splits = [SPLIT_OF[word] for word in words if word in SPLIT_OF]
    if len(set(splits)) != 1:
        return None
    return splits[0], " ".join(word for word in words if word not in SPLIT_OF and word not in FILLERS)


def _without_filler(word: str) -> list[str]:
    """`trainset` is split into `train` and `set`; other words stay as they are."""
    for filler in FILLERS:
        if word.endswith(filler) and word.removesuffix(filler) in SPLIT_OF:
            return [word.removesuffix(filler), filler]
    return [word]


def splits_of(names: Iterable[str]) -> dict[str, str]:
    """The split of every name that is a list: names that differ only in the split, of which one is a train list.

    `seg_train` and `seg_test` are lists, `train_station` and `test_tube` are not.
    """
    alike: dict[str, dict[str, str]] = defaultdict(dict)
    for name in names:
        if named := split_named(name):
            split, rest = named
            alike[rest][name] = split
    lists = [group for group in alike.values() if "train" in group.values() and len(set(group.values())) > 1]
    return max(lists, key=len, default={})
