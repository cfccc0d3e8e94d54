"""YOLO's format: one text file per image, with one line per object: class, x, y, width, height.

x and y are the centre of the box; all four are fractions of the upright image. A polygon becomes the box around it. The
dataset `yolo` reads a folder in this format below the parameter `root`, as Ultralytics, Roboflow, CVAT, Label Studio
and labelImg write it. `yolo_lists.py` reads its classes and lists.
"""

import math
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.datasets import tree, yolo_lists
from stages.datasets.base import AnnotationFault, Box, DatasetOptions, Item, Note, Record, UnusedFile
from stages.datasets.layout import IMAGES
from stages.datasets.matching import ImageFinder, plain, stem
from stages.datasets.tree import named_as_image
from stages.datasets.yolo_lists import Description, lines_of, text_of
from stages.errors import UserError, counted

LABELS = "labels"  # the folder of label files beside one of images
NOT_LABELS = frozenset({"classes.txt", "_classes.txt", "labels.txt", "notes.txt"})
BOX_COLUMNS, FEWEST_OF_POLYGON = 5, 7
MOST_SHARE = 4.0  # a larger number was meant in pixels
SHOWN = 60  # letters of a broken line in a message
NOT_LISTED = "no list names it"
UNREADABLE = "the label file cannot be read"


class Options(DatasetOptions):
    """The block `datasets.yolo`; the folder is the flat parameter `root`."""


@dataclass(frozen=True)
class LabelFile:
    """A label file with its objects.

    Attributes:
        path: path of the label file.
        image: the image that it belongs to; if there is a problem, the image that was looked for.
        problem: why no image belongs to it; empty if one does.
        objects: boxes, with corners as fractions of the image; None if the file cannot be read.
        faults: what is wrong in the file.
    """

    path: str
    image: str
    problem: str
    objects: tuple[Box, ...] | None
    faults: tuple[AnnotationFault, ...]


def scan(folder: Path, options: Options) -> Iterator[Item]:
    """Yields the images of every list, or all images if there are no lists.

    An image with an empty label file has no objects, and neither has an image without one; the notes count them apart.

    Raises:
        UserError: there are no label files, the train list is missing, or a file with classes or lists is broken.
    """
    files = tree.read(folder).files
    description = yolo_lists.describe(folder, files)
    labels = [_read(folder, *pair, description) for pair in _pairs(folder, files)]
    images = [path for path in files if named_as_image(path)]
    if not labels:
        raise UserError(_no_labels(folder, len(images)))
    images = list(dict.fromkeys([*images, *(label.image for label in labels if not label.problem)]))
    if not description.names:
        yield Note("no data.yaml or classes.txt names the classes: they are called by their numbers", warning=True)
    splits = yield from yolo_lists.splits(folder, files, images, description)
    for label in labels:
        yield from label.faults
        yield _labelled(label, splits)
    labelled = {label.image for label in labels}
    without = [path for path in images if path not in labelled]
    yield from (Record(path, None, split=splits[path]) for path in without if path in splits)
    yield from (UnusedFile(path, NOT_LISTED) for path in without if path not in splits)
    yield from _notes_on_background(labels, [path for path in without if path in splits])


def _labelled(label: LabelFile, splits: Mapping[str, str | None]) -> Record | UnusedFile:
    """The image of a label file, or why it is not used."""
    objects = label.objects or ()
    if label.problem:
        problem = f"{label.problem}: {label.path} is its label file"
        return Record(label.image, None, objects, None, label.path, problem=problem, in_shares=True)
    if label.image not in splits:
        return UnusedFile(label.image, NOT_LISTED, len(objects))
    if label.objects is None:  # nobody knows what the image shows
        return UnusedFile(label.image, UNREADABLE)
    return Record(label.image, None, objects, splits[label.image], label.path, in_shares=True)


def _notes_on_background(labels: Sequence[LabelFile], without: Sequence[str]) -> Iterator[Note]:
    """How many images have no objects because their label file is empty, or because there is none."""
    empty = [label.image for label in labels if label.objects == () and not label.faults and not label.problem]
    if empty:
        yield Note(
            f"{counted(len(empty), 'images have')} an empty label file (such as {empty[0]}): images without objects"
        )
    if without:
        yield Note(
            f"{counted(len(without), 'images have')} no label file (such as {without[0]}): read as images without "
            "objects. If nobody has labelled them yet, leave them out with `datasets.yolo.exclude`",
            warning=True,
        )


def _no_labels(folder: Path, images: int) -> str:
    return (
        f"{folder} has no label files in YOLO's format: expected one .txt per image, in a folder `labels` beside "
        f"`images` or next to the image. {counted(images, 'images are')} below it."
    )


# Which image a label file is of


def _pairs(folder: Path, files: Sequence[str]) -> list[tuple[str, str, str]]:
    """Every label file, the image that it is of, and why there is none (empty if there is one)."""
    texts = [path for path in files if _may_hold_labels(path)]
    homes = dict[str, list[str]]()  # folder of label files -> those in it
    for path in texts:
        if (home := _labels_folder(path)) is not None:
            homes.setdefault(home, []).append(path)
    if not homes:  # as in Darknet, they lie next to the images
        homes = {"": _beside_images(folder, texts, files)}
    pairs = list[tuple[str, str, str]]()
    for home, paths in homes.items():
        images, of_labels = _images_folder(home, files), set(paths)
        finder = ImageFinder(folder, [path for path in files if path.startswith(images) and path not in of_labels])
        names = [posixpath.splitext(path.removeprefix(f"{home}/"))[0] for path in paths]
        for path, name, match in zip(paths, names, finder.find_all(names, [images.rstrip("/")]), strict=True):
            pairs.append((path, f"{images}{name}.jpg" if match.problem else match.path, match.problem))
    return pairs


def _may_hold_labels(path: str) -> bool:
    name = posixpath.basename(path).lower()
    return name.endswith(".txt") and not name.startswith(".") and name not in NOT_LABELS


def _labels_folder(path: str) -> str | None:
    """The part of a path up to the last folder that is called `labels`; None if there is none."""
    parts = path.split("/")[:-1]
    last = next((place for place in reversed(range(len(parts))) if plain(parts[place]) == LABELS), None)
    return None if last is None else "/".join(parts[: last + 1])


def _images_folder(home: str, files: Sequence[str]) -> str:
    """Where the images of a folder of label files are, with a slash: in `images` beside it, or in the folder above."""
    above = posixpath.dirname(home)
    prefix = f"{above}/" if above else ""
    named = {plain(name): name for path in files if (name := path.removeprefix(prefix).partition("/")[0]) != path}
    images = next((named[name] for name in IMAGES if name in named), None) if home else None
    folder = f"{prefix}{images}/"
    return folder if images and any(path.startswith(folder) for path in files) else prefix


def _beside_images(folder: Path, texts: Sequence[str], files: Sequence[str]) -> list[str]:
    """The texts next to an image of the same stem, and those whose lines are of objects: their image is missing."""
    stems = {_place_and_stem(path) for path in files if named_as_image(path)}
    return [path for path in texts if _place_and_stem(path) in stems or _has_objects(folder / path)]


def _place_and_stem(path: str) -> tuple[str, str]:
    return posixpath.dirname(path), stem(posixpath.basename(path))


def _has_objects(path: Path) -> bool:
    """Whether the first line of a text is that of an object."""
    try:
        words = next(iter(lines_of(path)), "").split()
        return len(words) >= BOX_COLUMNS and all(math.isfinite(float(word)) for word in words)
    except (UserError, ValueError):
        return False


# What a label file holds


def _read(folder: Path, path: str, image: str, problem: str, description: Description) -> LabelFile:
    """Reads the objects of an image."""
    try:
        lines = text_of(folder / path).splitlines()
    except UserError as error:
        return LabelFile(path, image, problem, None, (AnnotationFault(path, UNREADABLE, str(error)),))
    objects, faults = list[Box](), list[AnnotationFault]()
    for number, line in enumerate(lines, 1):
        try:
            objects += [_object(words, description)] if (words := line.split()) else []
        except ValueError as error:
            detail = f"{image}: line {number} is {line.strip()[:SHOWN]!r}"
            faults.append(AnnotationFault(path, str(error), detail, objects=1))
    return LabelFile(path, image, problem, tuple(objects), tuple(faults))


def _object(words: Sequence[str], description: Description) -> Box:
    """The object of a line, its corners in shares of the image.

    Raises:
        ValueError: what is wrong with the line, in words that all such lines share.
    """
    try:
        number, *values = map(float, words)
    except ValueError:
        raise ValueError("a line must hold numbers only") from None
    if not all(map(math.isfinite, (number, *values))):
        raise ValueError("a line must hold finite numbers only")
    if not number.is_integer() or number < 0:
        raise ValueError("the class must be a whole number, 0 or more")
    if description.names and int(number) not in description.names:
        raise ValueError(f"{description.file} has no class {number:.0f}")
    label = description.names.get(int(number), f"{number:.0f}")
    if len(words) == BOX_COLUMNS + description.keypoints:  # keypoints are not read
        values = values[:4]
        x, y, width, height = values
        corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    elif len(words) >= FEWEST_OF_POLYGON and len(words) % 2 and not description.keypoints:
        corners = (min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2]))
    else:
        raise ValueError(_wrong_columns(len(words), description.keypoints))
    if max(map(abs, values)) > MOST_SHARE:
        raise ValueError("coordinates must be fractions of the image, from 0 to 1, and these look like pixels")
    return Box(label, corners)


def _wrong_columns(columns: int, keypoints: int) -> str:
    expected = "5 columns (class, x, y, width, height), or an odd number from 7 on (class, polygon)"
    if keypoints:
        expected = f"{BOX_COLUMNS + keypoints} columns (class, x, y, width, height, keypoints as `kpt_shape` says)"
    confidence = "; a sixth one is the confidence of a prediction" if columns == BOX_COLUMNS + 1 else ""
    return f"a line must have {expected}, and this one has {columns}{confidence}"
