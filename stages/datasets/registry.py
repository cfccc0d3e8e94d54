"""The registry of datasets: one block of params.yaml per dataset module, and what all of them share."""

from collections.abc import Mapping, Sequence
from math import ceil

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
    parquet,
    voc,
    voc0712,
    voc2007,
    voc2012,
    webdataset,
    yolo,
)
from stages.datasets.reasons import commonest
from stages.errors import counted

ALWAYS_LEFT_OUT = 3  # unreadable images that never stop a run: one in a folder of fifty should not


class BadImages(Block):
    """The share of the images that may be unreadable before a run stops; a few never stop it."""

    max_fraction: Fraction

    def limit(self, images: int) -> int:
        """How many of `images` may be unreadable: none if `max_fraction` is 0, otherwise at least ALWAYS_LEFT_OUT."""
        return max(ALWAYS_LEFT_OUT, int(self.max_fraction * images)) if self.max_fraction else 0

    def refusal(self, bad: Sequence[Mapping[str, str]], *, images: int, verb: str) -> str:
        """The message that too many images cannot be read: how many, for which reasons, and how to go on.

        Args:
            bad: `path` and `reason` of each unreadable image.
            images: how many there are in all.
            verb: what failed: `read` or `decoded`.
        """
        share = max(ceil(1000 * len(bad) / images) / 1000, self.max_fraction)
        reasons = commonest((image["reason"], image["path"]) for image in bad)
        return (
            f"{len(bad)} of {counted(images, 'images')} cannot be {verb}, more than the {self.limit(images)} that "
            f"`bad_images.max_fraction` ({self.max_fraction:g}) allows: {reasons}. Repair or remove them, or go on "
            f"without them: dvc exp run -S bad_images.max_fraction={share:g}\nreports/bad_images.jsonl lists them all."
        )


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
    yolo: yolo.Options
    webdataset: webdataset.Options
    parquet: parquet.Options
