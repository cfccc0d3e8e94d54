"""Pascal VOC's layout: `JPEGImages`, one XML an image in `Annotations`, lists in `ImageSets/Main`.

`voc` is any folder in this layout below the flat, absolute parameter `root`; the official sets read theirs from here. A
folder with several (VOCdevkit) is read as one set. Corners in the files are pixels from 1, right and bottom inclusive.
"""

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from pathlib import Path

from stages.datasets.base import Annotated, Box, Broken, Record
from stages.errors import UserError

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
LISTS = {"test": "test", "val": "val", "train": "train", "trainval": "train"}  # the first that names an image counts
CORNERS = ("xmin", "ymin", "xmax", "ymax")


class Options(Annotated):
    """The block `datasets.voc`; the folder is the flat parameter `root`."""

    classes: list[str]  # objects of other classes are broken; none: any class is taken


def scan(folder: Path, options: Options) -> Iterator[Record | Broken]:
    """The images of every set below a folder."""
    return read(folder, options.classes)


def read(folder: Path, classes: Sequence[str]) -> Iterator[Record | Broken]:
    """The images of every set below `folder` in the order of its lists, or all annotated ones where it has no lists.

    An image without a readable annotation is left out, as nobody knows what it shows; so are those in no list.

    Raises:
        UserError: there is no set in VOC's layout, or a list cannot be read.
    """
    homes = sorted(path.parent for path in folder.rglob("Annotations") if (path.parent / "JPEGImages").is_dir())
    if not homes:
        raise UserError(f"{folder} holds no set in VOC's layout: expected the folders Annotations and JPEGImages.")
    for home in homes:
        names = {path.stem: path.name for path in sorted((home / "JPEGImages").iterdir())}
        for image, part in _listed(home).items():
            path = (home / "JPEGImages" / names.get(image, f"{image}.jpg")).relative_to(folder)
            annotation = (home / "Annotations" / f"{image}.xml").relative_to(folder)
            yield from _image(folder, path, annotation, part, classes)


def _listed(home: Path) -> dict[str, str | None]:
    """The part of every image that a list names; without lists, every annotated image in none."""
    parts: dict[str, str | None] = {}
    files = {name: home / "ImageSets" / "Main" / f"{name}.txt" for name in LISTS}
    found = {name: file for name, file in files.items() if file.is_file()}
    for name, file in found.items():
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"The list {file} cannot be read: {error}") from None
        for image in filter(None, map(str.strip, lines)):
            parts.setdefault(image, LISTS[name])
    return parts if found else {path.stem: None for path in sorted((home / "Annotations").glob("*.xml"))}


def _image(
    folder: Path, path: Path, annotation: Path, part: str | None, classes: Sequence[str]
) -> Iterator[Record | Broken]:
    """The record of an image, and what is broken in its annotation."""
    try:
        root = parse((folder / annotation).read_bytes())
    except OSError as error:
        yield Broken(annotation.as_posix(), f"cannot be read: {error.strerror}")
        return
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        yield Broken(annotation.as_posix(), f"malformed XML: {error}")
        return
    objects = list[Box]()
    for number, element in enumerate(root.findall("object"), 1):
        label = element.findtext("name", "").strip()
        if not label or (classes and label not in classes):
            yield Broken(annotation.as_posix(), f"object {number} is of an unknown class, {label!r}")
            continue
        try:
            objects.append(_box(element, label))
        except ValueError:
            found = ", ".join(repr(element.findtext(f"bndbox/{name}")) for name in CORNERS)
            yield Broken(
                annotation.as_posix(), f"object {number} ({label}) needs four numbers as corners, found {found}"
            )
    yield Record(path.as_posix(), None, tuple(objects), part, annotation.as_posix(), _size(root))


def parse(data: bytes) -> ElementTree.Element:
    """The root of an XML document, which may declare no entities: none needs them, and they can fill the memory.

    Raises:
        ElementTree.ParseError, ValueError, LookupError: it is malformed, has a DOCTYPE, or an unknown encoding.
    """
    return ElementTree.fromstring(data, ElementTree.XMLParser(target=_NoDoctype()))


class _NoDoctype(ElementTree.TreeBuilder):
    def doctype(self, *_: object) -> None:
        raise ValueError("it has a DOCTYPE, which is refused")


def _box(element: ElementTree.Element, label: str) -> Box:
    x1, y1, x2, y2 = (float(element.findtext(f"bndbox/{name}", "")) for name in CORNERS)
    difficult, truncated = (element.findtext(name, "").strip() == "1" for name in ("difficult", "truncated"))
    return Box(label, (x1 - 1, y1 - 1, x2, y2), difficult=difficult, truncated=truncated)


def _size(root: ElementTree.Element) -> tuple[int, int] | None:
    """Width and height in pixels, where the annotation has them."""
    try:
        return int(root.findtext("size/width", "")), int(root.findtext("size/height", ""))
    except ValueError:
        return None
