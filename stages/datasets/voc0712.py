"""Pascal VOC 2007 and 2012 together, as detectors are trained: train and val of both years, tested on 2007's test.

The index keeps each content once and test before val before train: a test image that a train list holds as well is
dropped from train, and listed under `duplicates` with both lists.
"""

from collections.abc import Iterator
from pathlib import Path

from stages.blocks import Block, Source
from stages.datasets import voc
from stages.datasets.base import DatasetOptions, Item


class Archives(Block):
    """The official archives."""

    trainval2007: Source
    test2007: Source
    trainval2012: Source


class Options(DatasetOptions):
    """The block `datasets.voc0712`."""

    source: Archives


def scan(folder: Path, options: Options) -> Iterator[Item]:
    """The images of the official lists of both years."""
    return voc.read(folder, voc.CLASSES)
