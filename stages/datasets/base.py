"""What every dataset module has: typed options, and a reader that yields one record per image.

A dataset is one module under `stages/datasets/` with

- `class Options(DatasetOptions)`: its block under `datasets.` in params.yaml;
- `scan(folder, options)`: a record for each image below `folder`, the faults of annotations, unused files, notes.

A dataset whose archives are made here instead of being kept as fetched also has `build(fetched, options, out)`, which
the stage download calls by name.
"""

import re
from dataclasses import dataclass
from typing import Any, ClassVar

from stages.blocks import Block

SOURCES = "sources.json"  # beside the archives: their checksums and the options they were fetched with


def has_source(options: Any) -> bool:
    """Whether a dataset comes from archives, not from the user's own folder (`root`)."""
    return "source" in type(options).model_fields


class DatasetOptions(Block):
    """The options of every dataset of real images.

    Attributes:
        has_objects: whether there can be boxes; not a knob.
        shard_suffixes: of the files below `root` that hold the images, if these travel in shards; not a knob.
        exclude: globs of classes, folders or files to leave out; a name without a slash matches at any depth.
        strict: broken annotations and images of two classes stop the run; otherwise they are left out and listed.
    """

    has_objects: ClassVar[bool] = True
    shard_suffixes: ClassVar[tuple[str, ...]] = ()
    exclude: list[str]
    strict: bool


@dataclass(frozen=True, slots=True)
class Box:
    """An object in an image: corners in pixels of the stored image, from 0, right and bottom exclusive.

    In the index x1 < x2 and y1 < y2, all inside the image; a dataset yields boxes as they are in its files.

    Attributes:
        label: its class.
        box: x1, y1, x2, y2.
        difficult: hard to recognise (VOC): it counts neither way, whether a detector finds it or not.
        truncated: the object goes on outside the box (VOC).
        crowd: one box around many objects (COCO's iscrowd).
        ignore: left out of scores (COCO-style files).
    """

    label: str
    box: tuple[float, float, float, float]
    difficult: bool = False
    truncated: bool = False
    crowd: bool = False
    ignore: bool = False

    @property
    def area(self) -> float:
        """The area in square pixels."""
        x1, y1, x2, y2 = self.box
        return (x2 - x1) * (y2 - y1)


@dataclass(frozen=True, slots=True)
class Record:
    """One image as its dataset describes it; the index stage adds sha256, width and height.

    Attributes:
        path: below the folder of the images, with forward slashes.
        label: its class; empty if nobody has labelled it yet; None takes that of its largest object
            (`annotations.largest`).
        objects: the objects in it.
        labels: all of its classes, where images have several labels; None where each has one.
        unknown_labels: of these nobody knows whether the image has them.
        split: train, val or test, if the dataset has official lists.
        annotation: the file with its objects, for messages.
        size: width and height in pixels according to that file; None if it has no size.
        problem: why no file below the folder matches; empty if one does.
        excluded: how many of its objects the user leaves out.
        group: what it belongs to, such as a patient or a video, where the dataset tells: groups stay in one split.
        in_shares: whether its boxes are in shares of the width and height that a viewer shows, as YOLO's are, and not
            in pixels; `annotations.fit` turns them into pixels.
    """

    path: str
    label: str | None
    objects: tuple[Box, ...] = ()
    split: str | None = None
    annotation: str = ""
    size: tuple[int, int] | None = None
    problem: str = ""
    excluded: int = 0
    group: str | None = None
    in_shares: bool = False
    labels: tuple[str, ...] | None = None
    unknown_labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AnnotationFault:
    """Something in an annotation file that must be a mistake.

    Attributes:
        path: the annotation file.
        kind: what is wrong, in words that all faults of the kind share.
        detail: where, and what was found.
        objects: how many objects are lost because of it.
        label: their class; empty if that is not clear.
    """

    path: str
    kind: str
    detail: str = ""
    objects: int = 0
    label: str = ""

    @property
    def reason(self) -> str:
        """The whole sentence."""
        return f"{self.detail}: {self.kind}" if self.detail else self.kind


@dataclass(frozen=True, slots=True)
class UnusedFile:
    """A file that is not used, although it may be a good image.

    Attributes:
        path: below the folder of the images.
        reason: why it is not used.
        objects: how many objects are lost because of it.
        in_note: whether a note mentions it already.
    """

    path: str
    reason: str
    objects: int = 0
    in_note: bool = False


@dataclass(frozen=True, slots=True)
class EmptyClass:
    """A class without images, and why it has none."""

    label: str
    reason: str = "its folder is empty"


@dataclass(frozen=True, slots=True)
class Note:
    """How the data was read, if that is not obvious; a warning if it may not be what the user meant."""

    text: str
    warning: bool = False


def natural(name: str) -> list[tuple[str, int]]:
    """A key that sorts names as people count: c1, c2, c10."""
    pieces = re.findall(r"(\D*)(\d*)", name)
    return [(text, int(digits or -1)) for text, digits in pieces] + [(name, 0)]


Item = Record | AnnotationFault | UnusedFile | EmptyClass | Note
