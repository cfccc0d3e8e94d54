"""The classes and lists of a set in YOLO's format: from data.yaml, from Darknet's obj.data, or from lists and folders.

`data.yaml` (Ultralytics, Roboflow, CVAT) has `names`, and `train`, `val` and `test`, each a folder, a list of images or
several of these. `obj.data` (Darknet, CVAT) names lists. Without either, `train.txt` and the like on top of root are
lists, and otherwise the names of folders tell them; `classes.txt` (labelImg, Label Studio) names the classes.
"""

import math
import posixpath
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from stages import yaml12
from stages.datasets import tree
from stages.datasets.base import AnnotationFault, Item, Note
from stages.datasets.layout import SPLIT_OF, splits_of
from stages.datasets.matching import ImageFinder, plain, slashed
from stages.errors import UserError, listed

CLASS_FILES = (".names", ".labels")  # obj.names (CVAT), _darknet.labels (Roboflow)
SPLITS = ("train", "val", "test")
ORDER = ("test", "val", "train")  # the first list that names an image counts
UTF_16 = (b"\xff\xfe", b"\xfe\xff")


class Description(NamedTuple):
    """What the files beside images and labels say of a set.

    Attributes:
        file: the file that names the classes, for messages; empty if none does.
        names: the class of each number; empty if no file names them.
        lists: split -> the folders and lists of its images, as they are written.
        home: the folder of the file with the lists, below root.
        keypoints: how many numbers follow the box of an object in a set of poses.
    """

    file: str
    names: Mapping[int, str]
    lists: Mapping[str, Sequence[str]]
    home: str = ""
    keypoints: int = 0


def describe(folder: Path, files: Sequence[str]) -> Description:
    """The classes and lists of a set.

    Args:
        folder: the root.
        files: the paths of the files below it.

    Raises:
        UserError: a file that names them cannot be read, or several contradict each other.
    """
    if described := _from_yaml(folder, files):
        return described
    file, names = _class_names(folder, files)
    darknet = next((path for path in files if path.lower().endswith(".data")), None)
    if darknet:
        pairs = [line.partition("=") for line in lines_of(folder / darknet)]
        values = {key.strip().casefold(): slashed(value) for key, _, value in pairs}
        lists = {SPLIT_OF[key]: [value] for key, value in values.items() if key in SPLIT_OF and value}
        return Description(file, names, lists, posixpath.dirname(darknet))
    tops = {posixpath.splitext(path)[0].casefold(): path for path in files if "/" not in path and path.endswith(".txt")}
    lists = {SPLIT_OF[name]: [path] for name, path in tops.items() if name in SPLIT_OF}
    return Description(file, names, lists if "train" in lists else {})


def splits(
    folder: Path, files: Sequence[str], images: Sequence[str], description: Description
) -> Generator[Item, None, dict[str, str | None]]:
    """Yields what is wrong with the lists; returns the split of every image that is used, None without lists.

    A train list alone is no split: its images are split like those of a set without lists.

    Args:
        folder: the root.
        files: the paths of the files below it.
        images: those of them that are images.
        description: its lists.

    Raises:
        UserError: the train list is not below the root.
    """
    if not description.lists:
        folders = {path: path.split("/")[:-1] for path in images}
        named = splits_of({part for parts in folders.values() for part in parts})
        return {path: next((named[part] for part in parts if part in named), None) for path, parts in folders.items()}
    members = dict[str, list[str]]()
    for split in SPLITS:
        listed_images = yield from _listed(split, folder, files, images, description)
        same = next((other for other in members if listed_images and set(members[other]) == set(listed_images)), None)
        if same:
            yield Note(f"{split} names the same images as {same}: they are in {same} alone", warning=True)
        elif listed_images:
            members[split] = listed_images
    counts = Counter(path for paths in members.values() for path in paths)
    several = "an image is in several lists: the first of test, val and train counts"
    yield from (AnnotationFault(description.file, several, path) for path, count in counts.items() if count > 1)
    used: dict[str, str | None] = {path: split for split in reversed(ORDER) for path in members.get(split, ())}
    return used if len(members) > 1 else dict.fromkeys(used)


def _listed(
    split: str, folder: Path, files: Sequence[str], images: Sequence[str], description: Description
) -> Generator[Item, None, list[str]]:
    """Yields what is wrong with the lists and folders of a split; returns its images."""
    paths = dict[str, None]()
    for entry in description.lists.get(split, ()):
        place = _place(entry, description.home, files)
        if place is None and split == "train":
            raise UserError(
                f"`train` is {entry!r} in the description of {folder}, and there is no such folder or list below it: "
                "give the folder above as root, or correct the description."
            )
        if place is None:
            yield Note(f"{split} is {entry!r}, and there is no such folder or list below root", warning=True)
        elif place in files:
            names = lines_of(folder / place)
            matches = ImageFinder(folder, images).find_all(names, [posixpath.dirname(place), ""])
            for name, match in zip(names, matches, strict=True):
                if match.problem:
                    yield AnnotationFault(place, match.problem, name)
            paths |= {match.path: None for match in matches if not match.problem}
        else:
            paths |= {path: None for path in images if path.startswith(f"{place}/" if place else "")}
    return list(paths)


def _place(entry: str, home: str, files: Sequence[str]) -> str | None:
    """The file or folder that an entry means: the longest end of its path that is below root; None without one.

    Entries start from wherever their writer worked: `../train/images`, `/home/ann/set/train/images`.
    """
    places = {plain(path): path for path in files}
    for path in files:
        while path := posixpath.dirname(path):
            places.setdefault(plain(path), path)
    parts = [part for part in entry.split("/") if part not in ("", ".", "..")]
    for start in range(len(parts)):
        tail = "/".join(parts[start:])
        for place in (posixpath.join(home, tail), tail):
            if plain(place) in places:
                return places[plain(place)]
    return None if parts else home


def _from_yaml(folder: Path, files: Sequence[str]) -> Description | None:
    """What the topmost YAML file with `names` or `train` says; None if there is none."""
    yamls = sorted(
        (path for path in files if path.lower().endswith((".yaml", ".yml"))), key=lambda path: path.count("/")
    )
    described = dict[str, dict[Any, Any]]()
    for path in yamls:
        if described and path.count("/") > next(iter(described)).count("/"):
            break
        content = yaml12.parse(text_of(folder / path), str(folder / path))
        if isinstance(content, dict) and ("names" in content or "train" in content):
            described[path] = content
    chosen = [path for path in described if posixpath.basename(path).lower().startswith("data.")] or list(described)
    if len(chosen) > 1:
        paths = listed([str(folder / path) for path in chosen])
        raise UserError(f"{paths} all describe the dataset: rename the right one to data.yaml.")
    if not chosen:
        return None
    (path,), where = chosen, str(folder / chosen[0])
    content = described[path]
    base = slashed(str(content.get("path") or ""))
    lists = dict[str, list[str]]()
    for key, value in content.items():
        if entries := _entries(value, where, str(key)) if key in SPLIT_OF else []:
            lists[SPLIT_OF[key]] = [posixpath.join(base, entry) for entry in entries]
    keypoints = _keypoints(content.get("kpt_shape"), where)
    return Description(path, _names(content.get("names"), where), lists, posixpath.dirname(path), keypoints)


def _entries(value: Any, where: str, key: str) -> list[str]:
    values = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(entry, str) for entry in values):
        raise UserError(f"{where}: `{key}` must be a folder, a list of images or several of these, found {value!r}.")
    return [slashed(entry) for entry in values if entry.strip()]


def _names(value: Any, where: str) -> dict[int, str]:
    """The classes by number, from a list or a mapping; a class without a name is called by its number."""
    try:
        items = dict(enumerate(value)) if isinstance(value, list) else dict(value or {})
        names = {int(number): str(name) for number, name in items.items()}
    except (TypeError, ValueError):
        raise UserError(
            f"{where}: `names` must be a list of classes, or a mapping of numbers to classes, found {value!r}."
        ) from None
    return {number: name if name.strip() else str(number) for number, name in names.items()}


def _keypoints(value: Any, where: str) -> int:
    """How many numbers the keypoints of an object have."""
    if value is None:
        return 0
    if not isinstance(value, list) or not all(isinstance(number, int) and number > 0 for number in value):
        raise UserError(f"{where}: `kpt_shape` must be a list of two whole numbers, found {value!r}.")
    return math.prod(value)


def _class_names(folder: Path, files: Sequence[str]) -> tuple[str, dict[int, str]]:
    """The file that names the classes, one per line, and their names by number; both empty without one."""
    named = [path for path in files if posixpath.basename(path).lower() == "classes.txt" or path.endswith(CLASS_FILES)]
    names = {path: lines_of(folder / path) for path in named}
    if len(set(map(tuple, names.values()))) > 1:
        raise UserError(
            f"{listed([str(folder / path) for path in named])} name different classes: leave the right one."
        )
    return (named[0], dict(enumerate(names[named[0]]))) if named else ("", {})


def lines_of(path: Path) -> list[str]:
    """The lines of a text that are not blank, without blanks around them.

    Raises:
        UserError: it cannot be read.
    """
    return [line.strip() for line in text_of(path).splitlines() if line.strip()]


def text_of(path: Path) -> str:
    """A text in UTF-8 or UTF-16.

    Raises:
        UserError: it cannot be read.
    """
    try:
        data = tree.without_pointer(path.read_bytes())
        return data.decode("utf-16" if data[:2] in UTF_16 else "utf-8-sig")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
