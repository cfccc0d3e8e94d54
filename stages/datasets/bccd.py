"""BCCD (Shenggan, 2017; MIT licence): 364 photographs of blood cells in VOC's layout, 4,888 boxes in 3 classes.

Its lists have 205 images for train, 87 for val and 72 for test.
"""

from collections.abc import Iterator
from pathlib import Path

from stages.blocks import Block, Source
from stages.datasets import voc
from stages.datasets.base import DatasetOptions, Item

CLASSES = ("Platelets", "RBC", "WBC")


class Archives(Block):
    """The archive of the repository, or a zip of its folder BCCD."""

    images: Source


class Options(DatasetOptions):
    """The block `datasets.bccd`."""

    source: Archives


def scan(folder: Path, options: Options) -> Iterator[Item]:
    """The images of the official lists."""
    return voc.read(folder, CLASSES)
