"""COCO's format: JSON files with images, annotations and categories. Of each object its box is read, never its mask.

`coco` is any images below the flat, absolute parameter `root` with files like COCO's; the official set reads its own
from here. Boxes in the files are x, y, width, height in pixels from 0.
"""

import json
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from stages.blocks import Block
from stages.datasets.base import Annotated, Box, Broken, Record
from stages.errors import UserError

TRIED = 20  # images of a file by which their folder is found


class Files(Block):
    """The annotation file of each list, below root or absolute; `all` for images in no list."""

    train: str | None
    val: str | None
    test: str | None
    all: str | None


class Options(Annotated):
    """The block `datasets.coco`; the folder is the flat parameter `root`."""

    annotations: Files


class Annotation(NamedTuple):
    """What is kept of an annotation: a file has hundreds of thousands, most of their text in masks."""

    image: Any
    category: Any
    box: Any
    crowd: bool
    ignore: bool


def scan(folder: Path, options: Options) -> Iterator[Record | Broken]:
    """The images of every annotation file.

    Raises:
        UserError: no file is named, one cannot be read, or its images are not there.
    """
    files = {part: folder / name for part, name in options.annotations if name}
    if not files:
        raise UserError("`datasets.coco.annotations`: name an annotation file, as train, val and test, or as all.")
    return read(folder, files)


def read(folder: Path, files: Mapping[str, Path]) -> Iterator[Record | Broken]:
    """The images that each part's annotation file names, in its order, and what is broken in it.

    An image may stand in several files: the index keeps it once.
    """
    for part, file in files.items():
        tree = _load(file)
        categories = {_key(found.get("id")): str(found.get("name", "")) for found in tree["categories"]}
        of_image = defaultdict[Any, list[Annotation]](list)
        for annotation in tree["annotations"]:
            of_image[annotation.image].append(annotation)
        images = {_key(image.get("id")): image for image in tree["images"]}
        home = _home(folder, part, file, [str(image.get("file_name")) for image in tree["images"][:TRIED]])
        if twice := len(tree["images"]) - len(images):
            yield Broken(file.name, f"{twice} image(s) have the number of another and are left out")
        for number, image in images.items():
            path = (home / str(image.get("file_name"))).relative_to(folder).as_posix()
            found = [_box(annotation, categories) for annotation in of_image.pop(number, ())]
            yield from (Broken(file.name, f"{path}: {wrong}") for wrong in found if isinstance(wrong, str))
            objects = tuple(box for box in found if isinstance(box, Box))
            yield Record(path, None, objects, None if part == "all" else part, file.name, _size(image))
        for number, lost in of_image.items():
            yield Broken(file.name, f"{len(lost)} object(s) are of image {number!r}, which it does not describe")


def _load(file: Path) -> dict[str, Any]:
    """The file's tree, its annotations as `Annotation`."""
    try:
        with file.open(encoding="utf-8-sig") as stream:
            tree = json.load(stream, object_hook=_light)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"The annotation file {file} cannot be read: {error}") from None
    kinds = {"images": dict, "annotations": Annotation, "categories": dict}
    for name, kind in kinds.items():
        found = tree.get(name) if isinstance(tree, dict) else None
        if not isinstance(found, list) or not all(isinstance(item, kind) for item in found):
            raise UserError(f"{file} is no annotation file like COCO's: expected the lists {', '.join(kinds)} in it.")
    return dict(tree)


def _light(found: dict[str, Any]) -> dict[str, Any] | Annotation:
    if "image_id" not in found:
        return found
    crowd, ignore = (bool(found.get(name)) for name in ("iscrowd", "ignore"))
    return Annotation(_key(found["image_id"]), _key(found.get("category_id")), found.get("bbox"), crowd, ignore)


def _key(found: Any) -> Any:
    """An id as a key of a dictionary, whatever stands in the file."""
    return found if isinstance(found, int | str) else repr(found)


def _home(folder: Path, part: str, file: Path, names: list[str]) -> Path:
    """The folder that the images lie in: beside the file, in one that is called like the part, or the topmost one."""
    homes = [Path(home) for home, _, _ in os.walk(folder, followlinks=True)]
    for name in names:
        if holding := [home for home in homes if (home / name).is_file()]:
            called = [home for home in holding if part in home.relative_to(folder).as_posix()]
            near = [home for home in holding if home == file.parent] or called or holding
            top = min(len(home.parts) for home in near)
            first, *others = [home for home in near if len(home.parts) == top]
            if others:
                raise UserError(f"The image {name} of {file} lies in {first} and in {others[0]}: leave one below root.")
            return first
    raise UserError(f"The images of {file} are not below {folder}: looked for {', '.join(names[:3]) or 'none'}.")


def _box(annotation: Annotation, categories: Mapping[Any, str]) -> Box | str:
    """The object of an annotation, or what is wrong with it."""
    label = categories.get(annotation.category)
    if not label:
        return f"an object is of an unknown class, {annotation.category!r}"
    try:
        x, y, width, height = (float(number) for number in annotation.box)
    except (TypeError, ValueError):
        return f"the box of an object ({label}) must be four numbers, found {annotation.box!r}"
    return Box(label, (x, y, x + width, y + height), crowd=annotation.crowd, ignore=annotation.ignore)


def _size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    """Width and height in pixels, where the file has them."""
    width, height = image.get("width"), image.get("height")
    return (width, height) if isinstance(width, int) and isinstance(height, int) else None
