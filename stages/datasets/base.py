"""What every dataset module speaks: typed options, sources to fetch, and records, one an image.

A dataset is one module under `stages/datasets/` with

- `class Options(Block)`: its block under `datasets.` in params.yaml;
- `scan(folder, options)`: the records of the images found below `folder`, and what is broken in their annotations.

A dataset whose archives are made here rather than kept as fetched also has `build(fetched, options, out)`, which the
stage download calls by name.
"""

from dataclasses import dataclass
from typing import Any

from stages.blocks import Block

SOURCES = "sources.json"  # beside the archives: their checksums and the options they were fetched with


def has_source(options: Any) -> bool:
    """Whether a dataset comes from archives, not from the user's own folder (`root`)."""
    return "source" in type(options).model_fields


class Annotated(Block):
    """The block of a dataset whose objects stand in annotation files."""

    strict: bool  # broken annotations stop the run; otherwise they are listed


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
        label: its class; None takes that of its largest object (`boxes.largest`).
        objects: what is to be seen in it.
        split: train, val or test where the dataset has official lists.
        annotation: the file that its objects stand in, for messages.
        size: width and height in pixels as that file has them, where it does.
    """

    path: str
    label: str | None
    objects: tuple[Box, ...] = ()
    split: str | None = None
    annotation: str = ""
    size: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Broken:
    """Something in an annotation file that cannot be meant: the file and what is wrong."""

    path: str
    reason: str
