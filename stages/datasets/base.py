"""What every dataset module has: typed options, and a reader that gives one record per image.

A dataset is one module under `stages/datasets/` with

- `class Options(DatasetOptions)`: its block under `datasets.` in params.yaml;
- `scan(folder, options)`: a record for each image below `folder`, the faults of annotations, what is left out, notes.

A dataset whose archives are made here rather than kept as fetched also has `build(fetched, options, out)`, which the
stage download calls by name.
"""

import re
from dataclasses import dataclass
from typing import Any

from stages.blocks import Block

SOURCES = "sources.json"  # beside the archives: their checksums and the options they were fetched with


def has_source(options: Any) -> bool:
    """Whether a dataset comes from archives, not from the user's own folder (`root`)."""
    return "source" in type(options).model_fields


class DatasetOptions(Block):
    """What every dataset of real images lets people choose.

    Attributes:
        exclude: globs of classes, folders or files to leave out; a name without a slash is looked for at any depth.
        strict: broken annotations and images of two classes stop the run; otherwise they are left out and listed.
    """

    exclude: list[str]
    strict: bool


@dataclass(frozen=True, slots=True)
class Box:
    """An object in an image: corners in pixels of the stored image, from 0, right and bottom exclusive.

    In the index x1 < x2 and y1 < y2, all inside the image; a dataset gives boxes as it finds them.

    Attributes:
        label: its class.
        box: x1, y1, x2, y2.
        difficult: hard to recognise (VOC): a detector is neither asked for it nor blamed for finding it.
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
        """In square pixels."""
        x1, y1, x2, y2 = self.box
        return (x2 - x1) * (y2 - y1)


@dataclass(frozen=True, slots=True)
class Record:
    """One image as its dataset describes it; the index stage adds sha256, width and height.

    Attributes:
        path: below the folder of the images, with forward slashes.
        label: its class; None takes that of its largest object (`annotations.largest`).
        objects: what is to be seen in it.
        split: train, val or test where the dataset has official lists.
        annotation: the file that its objects stand in, for messages.
        size: width and height in pixels as that file has them, where it does.
        problem: why no file below the folder can be meant; empty where one is.
        excluded: how many of its objects the user leaves out.
        group: what it belongs to, such as a patient or a video, where the dataset tells: groups stay in one split.
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


@dataclass(frozen=True, slots=True)
class AnnotationFault:
    """Something in an annotation file that cannot be meant.

    Attributes:
        path: the annotation file.
        kind: what is wrong, in words that all faults of the kind share.
        detail: where, and what was found.
        objects: how many objects are lost by it.
        label: their class, where that is known.
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
    """A file that was seen and is not used, though it may be a fine image.

    Attributes:
        path: below the folder of the images.
        reason: why.
        objects: how many objects are lost by it.
        in_note: whether a note tells of it already.
    """

    path: str
    reason: str
    objects: int = 0
    in_note: bool = False


@dataclass(frozen=True, slots=True)
class EmptyClass:
    """A class without a single file."""

    label: str


@dataclass(frozen=True, slots=True)
class Note:
    """How the data was read, where that is not plain; a warning where it may not be what was meant."""

    text: str
    warning: bool = False


def natural(name: str) -> list[tuple[str, int]]:
    """A key that sorts names as people count: c1, c2, c10."""
    pieces = re.findall(r"(\D*)(\d*)", name)
    return [(text, int(digits or -1)) for text, digits in pieces] + [(name, 0)]


Item = Record | AnnotationFault | UnusedFile | EmptyClass | Note
