"""COCO's format: JSON files with images, annotations and categories. The boxes of objects are read, the masks are not.

The dataset `coco` reads images below the flat, absolute parameter `root` with annotation files like COCO's; coco2017,
the official set, uses the same functions. Boxes in the files are x, y, width, height in pixels from 0.
"""

import json
import posixpath
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from stages.blocks import Block
from stages.datasets import tree
from stages.datasets.base import AnnotationFault, Box, DatasetOptions, Item, Note, Record, UnusedFile
from stages.datasets.layout import split_named
from stages.datasets.matching import ImageFinder, Match, unmentioned
from stages.datasets.reasons import commonest
from stages.errors import UserError, counted, listed

TRIED = 20  # images of an annotation file that are looked for to find their folder


class Files(Block):
    """The annotation file of each list, below root or absolute; `all` is for images that belong to no list."""

    train: str | None
    val: str | None
    test: str | None
    all: str | None


class Options(DatasetOptions):
    """The block `datasets.coco`; the folder is the flat parameter `root`."""

    annotations: Files


class CocoAnnotation(NamedTuple):
    """The fields of an annotation that are kept in memory: a file has hundreds of thousands, most of it masks."""

    image: Any
    category: Any
    box: Any
    crowd: bool
    ignore: bool


def scan(folder: Path, options: Options) -> Iterator[Item]:
    """The images of every annotation file.

    Raises:
        UserError: no file is named, one cannot be read, or its images do not exist.
    """
    files = {split: folder / name for split, name in options.annotations if name}
    if not files:
        raise UserError(f"`datasets.coco.annotations`: name an annotation file, {_suggested(folder)}.")
    outside = [str(file) for file in files.values() if not file.resolve().is_relative_to(folder.resolve())]
    if outside:
        yield Note(
            f"{listed(outside)} lies outside of root, where DVC does not see changes: after one, run "
            "`dvc repro -f -s index`, then `dvc repro`",
            warning=True,
        )
    yield from read(folder, files)


def _suggested(folder: Path) -> str:
    """The arguments that would name the JSON files below the folder."""
    jsons = [path for path in tree.read(folder).files if path.lower().endswith(".json")]
    named = dict[str, str]()
    for path in jsons:
        split = split_named(posixpath.basename(path)) or split_named(posixpath.dirname(path))
        named.setdefault(split[0] if split else "all", path)
    if "all" in named and len(named) > 1:
        del named["all"]
    arguments = " ".join(f"-S datasets.coco.annotations.{split}={path}" for split, path in sorted(named.items()))
    return f"as in {arguments}" if named else f"as train, val and test, or as all; there is no JSON file below {folder}"


def read(folder: Path, files: Mapping[str, Path]) -> Iterator[Item]:
    """The images in the annotation file of each split, in its order, and what is broken in the file.

    An image may be in several files: the index keeps it once.

    Args:
        folder: all images are below it.
        files: split (or `all`) -> annotation file.
    """
    below = tree.read(folder).files
    finder, mentioned = ImageFinder(folder, below), set[str]()
    for split, file in files.items():
        for item in _list(folder, split, file, finder):
            if isinstance(item, Record):
                mentioned.add(item.path)
            yield item
    yield from (UnusedFile(path, "no annotation names it") for path in unmentioned(below, mentioned))


def _list(folder: Path, split: str, file: Path, finder: ImageFinder) -> Iterator[Item]:
    """The images of one annotation file."""
    contents = load(file)
    categories = {_key(category.get("id")): str(category.get("name", "")) for category in contents["categories"]}
    of_image = defaultdict[Any, list[CocoAnnotation]](list)
    for annotation in contents["annotations"]:
        of_image[annotation.image].append(annotation)
    images = {_key(image.get("id")): image for image in contents["images"]}
    names = [str(image.get("file_name")) for image in images.values()]
    listed_split = None if split == "all" else split
    matches = finder.find_all(names, _homes(folder, split, file, names[:TRIED], finder), listed_split)
    _refuse_nowhere(folder, file, matches)
    if twice := len(contents["images"]) - len(images):
        yield AnnotationFault(file.name, "images have the number of another and are left out", counted(twice, "images"))
    for (number, image), match in zip(images.items(), matches, strict=True):
        boxes = [_box(annotation, categories, match.path) for annotation in of_image.pop(number, ())]
        for fault in boxes:
            if isinstance(fault, AnnotationFault):
                yield replace(fault, path=file.name)
        objects = tuple(box for box in boxes if isinstance(box, Box))
        yield Record(match.path, None, objects, listed_split, file.name, _size(image), _problem(match))
    for number, lost in of_image.items():
        detail = f"{counted(len(lost), 'objects are')} of image {number!r}"
        yield AnnotationFault(file.name, "the file describes no image of this number", detail, objects=len(lost))


def _problem(match: Match) -> str:
    return f"{match.problem}: {match.detail}" if match.detail and match.detail != match.path else match.problem


def _refuse_nowhere(folder: Path, file: Path, matches: Sequence[Match]) -> None:
    if all(match.problem for match in matches):
        reasons = commonest((match.problem, match.detail) for match in matches) or "it describes none"
        raise UserError(f"No image of {file} is below {folder}: {reasons}.")


def load(file: Path) -> dict[str, Any]:
    """The contents of a file, its annotations as `CocoAnnotation`.

    Raises:
        UserError: it cannot be read, or is not like COCO's files.
    """
    try:
        contents = json.loads(tree.without_pointer(file.read_bytes()), object_hook=_light)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"The annotation file {file} cannot be read: {error}") from None
    kinds = {"images": dict, "annotations": CocoAnnotation, "categories": dict}
    for name, kind in kinds.items():
        values = contents.get(name) if isinstance(contents, dict) else None
        if not isinstance(values, list) or not all(isinstance(item, kind) for item in values):
            raise UserError(f"{file} is not like COCO's annotation files: expected the lists {', '.join(kinds)} in it.")
    return dict(contents)


def _light(values: dict[str, Any]) -> dict[str, Any] | CocoAnnotation:
    if "image_id" not in values:
        return values
    crowd, ignore = (_flag(values.get(name)) for name in ("iscrowd", "ignore"))
    return CocoAnnotation(_key(values["image_id"]), _key(values.get("category_id")), values.get("bbox"), crowd, ignore)


def _flag(value: Any) -> bool:
    """Whether a flag is set: 1, "1" and "true" are, 0, "0" and "false" are not."""
    return value.strip().casefold() not in ("", "0", "false", "no", "none") if isinstance(value, str) else bool(value)


def _key(value: Any) -> Any:
    """An id as a key of a dictionary, whatever its type in the file: 7, 7.0 and "7" are the same."""
    if isinstance(value, str):
        text = value.strip()
        return int(text) if text.isascii() and text.isdecimal() and str(int(text)) == text else text
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else repr(value)


def _homes(folder: Path, split: str, file: Path, names: Sequence[str], finder: ImageFinder) -> list[str]:
    """The folders below `folder` from which names of images may start: that of the first images, the file's, the top.

    The images are beside the file, in a folder named after the split, or in the topmost folder that has them.
    """
    beside = file.parent.relative_to(folder).as_posix() if file.is_relative_to(folder) else ""
    beside = "" if beside == "." else beside
    for name in names:
        holding = [
            path.removesuffix(name).rstrip("/") for path in finder.files if path == name or path.endswith(f"/{name}")
        ]
        if holding:
            called = [home for home in holding if split in home]
            near = [home for home in holding if home == beside] or called or holding
            top = min(len(home.split("/")) if home else 0 for home in near)
            first, *others = sorted(home for home in near if (len(home.split("/")) if home else 0) == top)
            if others:
                raise UserError(
                    f"The image {name} of {file} lies in {folder / first} and in {folder / others[0]}: leave one of "
                    "them below root."
                )
            return list(dict.fromkeys((first, beside, "")))
    return [beside, ""]


def _box(annotation: CocoAnnotation, categories: Mapping[Any, str], path: str) -> Box | AnnotationFault:
    """The object of an annotation, or what is wrong with it."""
    label = categories.get(annotation.category)
    if not label:
        detail = f"{path}: an object of category {annotation.category!r}"
        return AnnotationFault("", "the file has no such category", detail, objects=1)
    if annotation.box is None:
        return AnnotationFault("", "the annotation has no bbox", f"{path} ({label})", objects=1, label=label)
    try:
        x, y, width, height = (float(number) for number in annotation.box)
    except (TypeError, ValueError, OverflowError):
        detail = f"{path}: a {label} has {annotation.box!r}"
        return AnnotationFault("", "a bbox must be four numbers", detail, objects=1, label=label)
    return Box(label, (x, y, x + width, y + height), crowd=annotation.crowd, ignore=annotation.ignore)


def _size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    """Width and height in pixels; None if the file does not have them."""
    width, height = image.get("width"), image.get("height")
    return (width, height) if isinstance(width, int) and isinstance(height, int) else None
