"""The registry of datasets: one block of params.yaml per dataset module, and what all of them share."""

from stages.blocks import Block, Fraction
from stages.datasets import (
    bccd,
    caltech101,
    coco,
    coco2017,
    csv,
    flickrlogos32,
    folder,
    logos,
    voc,
    voc0712,
    voc2007,
    voc2012,
)


class BadImages(Block):
    """The share of the images that may be unreadable before a run stops."""

    max_fraction: Fraction


class Datasets(Block):
    """The block `datasets` of params.yaml."""

    logos: logos.Options
    folder: folder.Options
    csv: csv.Options
    caltech101: caltech101.Options
    flickrlogos32: flickrlogos32.Options
    voc: voc.Options
    voc2007: voc2007.Options
    voc2012: voc2012.Options
    voc0712: voc0712.Options
    bccd: bccd.Options
    coco: coco.Options
    coco2017: coco2017.Options
