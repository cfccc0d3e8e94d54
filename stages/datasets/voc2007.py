"""Pascal VOC 2007 (Everingham, Van Gool, Williams, Winn, Zisserman): 9,963 photographs, 20 classes.

Its lists have 2,501 images for train, 2,510 for val and 4,952 for test, all with annotations.
"""

from collections.abc import Iterator
from pathlib import Path

from stages.blocks import Block, Source
from stages.datasets import voc
from stages.datasets.base import DatasetOptions, Item


class Archives(Block):
    """The official archives."""

    trainval: Source
    test: Source


class Options(DatasetOptions):
    """The block `datasets.voc2007`."""

    source: Archives


def scan(folder: Path, options: Options) -> Iterator[Item]:
    """The images of the official lists."""
    return voc.read(folder, voc.CLASSES)
