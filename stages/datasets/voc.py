"""Pascal VOC's layout: `JPEGImages`, one XML file per image in `Annotations`, lists in `ImageSets/Main`.

The dataset `voc` reads any folder in this layout below the flat, absolute parameter `root`; the official sets use the
same functions. A folder with several sets (VOCdevkit) is read as one. The folders may have other usual names (`images`,
`annots`) and subfolders. Corners in the files are pixels from 1, right and bottom inclusive; a set that counts from 0
is recognised.
"""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from stages.datasets import tree
from stages.datasets.base import AnnotationFault, Box, DatasetOptions, Item, Note, Record, UnusedFile
from stages.datasets.layout import ANNOTATIONS, IMAGES, SPLIT_NAMES, split_named, splits_of
from stages.datasets.matching import ImageFinder, stem, unmentioned
from stages.errors import UserError, counted, nearest

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
ORDER = ("test", "val", "train", "trainval")  # the first list that names an image counts
CORNERS = ("xmin", "ymin", "xmax", "ymax")
Corners = tuple[float, float, float, float]
DECLARED = re.compile(rb"""^(\s*<\?xml[^>]*?)\s+encoding\s*=\s*["']([\w.-]+)["']""")


class Options(DatasetOptions):
    """The block `datasets.voc`; the folder is the flat parameter `root`."""

    classes: list[str]  # objects of other classes are broken annotations; if it is empty, every class is valid


@dataclass(frozen=True)
class Home:
    """One set: where its images and annotations are, below the folder that is read."""

    images: str
    annotations: str
    lists: str | None
    split: str | None


@dataclass(frozen=True)
class VocAnnotation:
    """The contents of an annotation file: objects with corners as in the file, and size and name of the image."""

    path: str
    objects: tuple[Box, ...]
    size: tuple[int, int] | None
    image: str


def scan(folder: Path, options: Options) -> Iterator[Item]:
    """The images of every set below a folder."""
    return read(folder, options.classes)


def read(folder: Path, classes: Sequence[str]) -> Iterator[Item]:
    """The images of every set below `folder`, in the order of its lists; without lists all annotated ones.

    Images without a readable annotation are left out, because nobody knows what they show, and so are images that are
    in none of the lists.

    Raises:
        UserError: there is no set in VOC's layout, or a list cannot be read.
    """
    files = tree.read(folder).files
    homes = _homes(tree.nested(files))
    if not homes:
        raise UserError(_no_home(folder, files))
    for home in homes:
        yield from _set(folder, home, [path for path in files if path.startswith(f"{home.images}/")], files, classes)


def _homes(top: tree.Folder) -> list[Home]:
    """Every folder that holds a folder of annotations beside one of images."""
    homes = list[Home]()

    def walk(folder: tree.Folder) -> None:
        names = {name.casefold(): name for name in folder.folders}
        annotations = next(
            (names[name] for name in ANNOTATIONS if name in names and _has_xml(folder.folders[names[name]])), None
        )
        images = next((names[name] for name in IMAGES if name in names and names[name] != annotations), None)
        if annotations and images:
            lists = folder.folders.get(names.get("imagesets", ""))
            main = (
                {name.casefold(): inner for name, inner in lists.folders.items()}.get("main", lists) if lists else None
            )
            homes.append(
                Home(folder.folders[images].path, folder.folders[annotations].path, main.path if main else None, None)
            )
            return
        for name in sorted(folder.folders):
            walk(folder.folders[name])

    walk(top)
    return _with_splits(homes)


def _with_splits(homes: list[Home]) -> list[Home]:
    """Sets in folders called train, val or test get that split, if none of them has lists of its own."""
    if any(home.lists for home in homes):
        return homes
    above = {home: PurePosixPath(home.images).parent.name for home in homes}
    splits = splits_of(above.values())
    return [replace(home, split=splits.get(name)) for home, name in above.items()]


def _has_xml(folder: tree.Folder) -> bool:
    return any(path.lower().endswith(".xml") for path in folder.below())


def _no_home(folder: Path, files: Sequence[str]) -> str:
    xml = [path for path in files if path.lower().endswith(".xml")]
    message = (
        f"{folder} has no dataset in VOC's layout: expected the folders Annotations and JPEGImages side by side "
        "(or annotations and images)"
    )
    if not xml:
        return f"{message}; there is no XML file."
    return (
        f"{message}. {counted(len(xml), 'XML files lie')} elsewhere, such as {xml[0]}: move XML files "
        "into Annotations, and the images into JPEGImages."
    )


def _set(
    folder: Path, home: Home, images: Sequence[str], files: Sequence[str], classes: Sequence[str]
) -> Iterator[Item]:
    """The images of one set, and what is wrong with its annotations."""
    annotations = [path for path in files if path.startswith(f"{home.annotations}/") and _is_annotation(path)]
    splits, faults = _splits(folder, home, annotations, files)
    yield from faults
    read_annotations = list[tuple[VocAnnotation, str | None]]()
    for path, split in splits.items():
        annotation, broken = _annotation(folder, path, classes)
        yield from broken
        if annotation:
            read_annotations.append((annotation, split))
    boxes = [(box.box, annotation.size) for annotation, _ in read_annotations for box in annotation.objects]
    from_zero = counts_from_zero(boxes)
    if from_zero:
        yield Note(f"the corners in {home.annotations} count from 0, not from 1 as VOC's do: they are read so")
    yield from _records(folder, home, images, read_annotations, from_zero)
    listed_paths = set(splits)
    if unlisted := [path for path in annotations if path not in listed_paths]:
        yield Note(
            f"{counted(len(unlisted), 'annotations')} in {home.annotations} but in no list: images of such are left out"
        )


def _records(
    folder: Path, home: Home, images: Sequence[str], annotations: list[tuple[VocAnnotation, str | None]], from_zero: str
) -> Iterator[Item]:
    finder, mentioned = ImageFinder(folder, (path for path in images if not _is_annotation(path))), set[str]()
    names = [annotation.path.removeprefix(f"{home.annotations}/") for annotation, _ in annotations]
    for (annotation, split), match in zip(annotations, finder.find_all(names, [home.images]), strict=True):
        if match.problem and annotation.image:  # the name of the image in the annotation itself
            (by_name,) = finder.find_all([annotation.image], [home.images])
            match = match if by_name.problem else by_name
        if match.problem:
            below = annotation.path.removeprefix(f"{home.annotations}/")
            match = match._replace(path=f"{home.images}/{below[:-4]}.jpg")
        mentioned.add(match.path)
        objects = tuple(replace(box, box=corners(box.box, from_zero)) for box in annotation.objects)
        yield Record(match.path, None, objects, split, annotation.path, annotation.size, match.problem)
    yield from (UnusedFile(path, "no annotation that is used names it") for path in unmentioned(images, mentioned))


def _is_annotation(path: str) -> bool:
    name = PurePosixPath(path).name
    return name.lower().endswith(".xml") and not name.startswith(".")


def _splits(
    folder: Path, home: Home, annotations: Sequence[str], files: Sequence[str]
) -> tuple[dict[str, str | None], list[AnnotationFault]]:
    """The split of every annotation file in a list; without lists, of every annotation file.

    Lists may have suffixes and flags: `im00`, `im00.jpg`, `im00  1`, `im00.jpg -1`.
    """
    lists = _lists(home, files)
    by_name = dict[str, str]()
    for path in annotations:
        below = path.removeprefix(f"{home.annotations}/")
        by_name.setdefault(stem(PurePosixPath(below).name), path)
        by_name[stem(below)] = path
    splits, faults = dict[str, str | None](), list[AnnotationFault]()
    for path, split in lists:
        try:
            text = (folder / path).read_bytes()
            lines = (
                text.decode("utf-16") if text[:2] in (b"\xff\xfe", b"\xfe\xff") else text.decode("utf-8-sig")
            ).splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"The list {folder / path} cannot be read: {error}") from None
        for line in filter(None, map(str.strip, lines)):
            bare = re.sub(r"\s+-?[01]$", "", line)
            names = [line, bare, PurePosixPath(bare.replace("\\", "/")).name]
            keys = [key for name in names for key in (stem(f"{name}.xml"), stem(name))]
            annotation = next((by_name[key] for key in keys if key in by_name), None)
            if annotation:
                splits.setdefault(annotation, split)
            else:
                missing = f"{home.annotations}/{bare}.xml"
                faults.append(AnnotationFault(missing, "cannot be read: No such file or directory"))
    if lists:
        return splits, list(dict.fromkeys(faults))
    inside = {path: path.removeprefix(f"{home.annotations}/").partition("/") for path in annotations}
    tops = splits_of({top for top, slash, _ in inside.values() if slash})
    return {path: tops.get(top, home.split) for path, (top, _, _) in inside.items()}, []


def _lists(home: Home, files: Sequence[str]) -> list[tuple[str, str]]:
    """The lists of a set with their splits; VoTT writes one list per class, such as `cell_train.txt`."""
    if not home.lists:
        return []
    texts = [path for path in files if PurePosixPath(path).parent.as_posix() == home.lists and path.endswith(".txt")]
    named = {path: PurePosixPath(path).stem.casefold() for path in texts}
    split_of = {name: split for split, names in SPLIT_NAMES.items() for name in names}
    lists = [(path, split_of[name]) for path, name in named.items() if name in split_of]
    if not lists:
        per_class = ((path, split_named(name.rpartition("_")[2])) for path, name in named.items())
        lists = [(path, split[0]) for path, split in per_class if split]
    rank = {split: number for number, split in enumerate(ORDER)}
    return sorted(lists, key=lambda item: (rank[item[1]], "trainval" in named[item[0]], item[0]))


def _annotation(folder: Path, path: str, classes: Sequence[str]) -> tuple[VocAnnotation | None, list[AnnotationFault]]:
    """The contents of an annotation file, and what is broken in it."""
    try:
        root = parse(tree.without_pointer((folder / path).read_bytes()))
    except OSError as error:
        return None, [AnnotationFault(path, f"cannot be read: {error.strerror}")]
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        return None, [AnnotationFault(path, f"malformed XML: {error}")]
    objects, faults = list[Box](), list[AnnotationFault]()
    for number, element in enumerate(root.findall("object"), 1):
        label = element.findtext("name", "").strip()
        if not label or (classes and label not in classes):
            meant = f"; {nearest(label, list(classes))}" if label and classes else ""
            faults.append(AnnotationFault(path, f"unknown class {label!r}{meant}", f"object {number}", objects=1))
            continue
        try:
            objects.append(object_of(element, label))
        except ValueError:
            texts = ", ".join(repr(element.findtext(f"bndbox/{name}")) for name in CORNERS)
            detail = f"object {number} ({label}) has the corners {texts}"
            faults.append(AnnotationFault(path, "corners must be four numbers", detail, objects=1, label=label))
    image = PurePosixPath(root.findtext("filename", "").strip().replace("\\", "/")).name
    return VocAnnotation(path, tuple(objects), _size(root), image), faults


def parse(data: bytes) -> ElementTree.Element:
    """The root of an XML document. Entities are refused: annotations do not need them, and they can fill the memory.

    Python decodes encodings that expat lacks (gb2312, shift_jis, …).

    Raises:
        ElementTree.ParseError, ValueError, LookupError: it is malformed, has a DOCTYPE, or an unknown encoding.
    """
    declared = DECLARED.match(data)
    if declared and declared[2].lower() not in (b"utf-8", b"utf-16", b"us-ascii", b"iso-8859-1"):
        text = data[declared.end() :].decode(declared[2].decode())
        data = declared[1] + text.encode()
    return ElementTree.fromstring(data, ElementTree.XMLParser(target=_NoDoctype()))


class _NoDoctype(ElementTree.TreeBuilder):
    def doctype(self, *_: object) -> None:
        raise ValueError("it has a DOCTYPE, which is refused")


def object_of(element: ElementTree.Element, label: str) -> Box:
    """An object with its corners as in the file."""
    x1, y1, x2, y2 = (float(element.findtext(f"bndbox/{name}", "")) for name in CORNERS)
    difficult, truncated = (element.findtext(name, "").strip() == "1" for name in ("difficult", "truncated"))
    return Box(label, (x1, y1, x2, y2), difficult=difficult, truncated=truncated)


def counts_from_zero(boxes: Iterable[tuple[Corners, tuple[int, int] | None]]) -> str:
    """How the corners of a set count: from 0 (`inclusive` or `exclusive`), or empty for from 1 as in VOC.

    In a set that counts from 1, a box at the left or upper edge begins at 1; in one that counts from 0, it begins at 0.
    If a set counts from 0, a box that ends at the image's width must be exclusive.

    Args:
        boxes: corners as in the files, and width and height of their images in pixels, or None.
    """
    zeros = ones = 0
    ends_at_size = False
    for (x1, y1, x2, y2), size in boxes:
        zeros += 0 in (x1, y1)
        ones += 1 in (x1, y1)
        ends_at_size |= size is not None and (x2 == size[0] or y2 == size[1])
    if zeros <= ones:
        return ""
    return "exclusive" if ends_at_size else "inclusive"


def corners(box: Corners, from_zero: str) -> Corners:
    """Corners in pixels from 0, right and bottom exclusive.

    Args:
        box: corners as in the file.
        from_zero: as `counts_from_zero` returns it.
    """
    x1, y1, x2, y2 = box
    if from_zero:
        return (x1, y1, x2, y2) if from_zero == "exclusive" else (x1, y1, x2 + 1, y2 + 1)
    return x1 - 1, y1 - 1, x2, y2


def _size(root: ElementTree.Element) -> tuple[int, int] | None:
    """Width and height in pixels; None if the annotation does not have them."""
    try:
        return int(root.findtext("size/width", "")), int(root.findtext("size/height", ""))
    except ValueError:
        return None
