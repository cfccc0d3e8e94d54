"""Pascal VOC 2012 (Everingham, Van Gool, Williams, Winn, Zisserman): 11,540 annotated photographs, 20 classes.

Its lists have 5,717 images for train and 5,823 for val. The annotations of its test images are not public: with
`split.protocol: auto` the val list is the test, and a new val is cut from train.
"""

from collections.abc import Iterator
from pathlib import Path

from stages.blocks import Block, Source
from stages.datasets import voc
from stages.datasets.base import DatasetOptions, Item


class Archives(Block):
    """The official archive."""

    trainval: Source


class Options(DatasetOptions):
    """The block `datasets.voc2012`."""

    source: Archives


def scan(folder: Path, options: Options) -> Iterator[Item]:
    """The images of the official lists."""
    return voc.read(folder, voc.CLASSES)
