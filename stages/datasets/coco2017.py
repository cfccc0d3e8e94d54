"""COCO 2017 (Lin et al., 2014): 118,287 photographs for train and 5,000 for val, 80 classes, 896,782 boxes.

The annotations of its test images are not public: with `split.protocol: auto` the val list is the test, and a new val
is cut from train. 1,069 photographs have no object. The archives are 20 GB, and as much again unpacked.
"""

from collections.abc import Iterator
from pathlib import Path

from stages.blocks import Block, Source
from stages.datasets import coco
from stages.datasets.base import DatasetOptions, Item
from stages.errors import UserError


class Archives(Block):
    """The official archives."""

    train: Source
    val: Source
    annotations: Source


class Options(DatasetOptions):
    """The block `datasets.coco2017`."""

    source: Archives


def scan(folder: Path, options: Options) -> Iterator[Item]:
    """The images of the official lists.

    Raises:
        UserError: an archive has another layout.
    """
    files = {}
    for part in ("train", "val"):
        name = f"instances_{part}2017.json"
        annotation_files = sorted(folder.rglob(name))
        if not annotation_files:
            raise UserError(
                f"The archives of coco2017 do not have {name}: is it the official annotations_trainval2017.zip?"
            )
        files[part] = annotation_files[0]
    return coco.read(folder, files)
