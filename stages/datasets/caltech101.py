"""Caltech-101 (Li, Andreeto, Ranzato, Perona, 2003), CC BY 4.0, in its official nesting: a zip with a tar.gz inside.

The archive is `https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip`. It holds 101 categories and
BACKGROUND_Google; published numbers differ in which categories they leave out, which `exclude` sets.
"""

from collections.abc import Iterator
from pathlib import Path

from stages.blocks import Block, Source
from stages.datasets.base import DatasetOptions, Record
from stages.errors import UserError

FOLDER = "101_ObjectCategories"


class Archives(Block):
    """The files to fetch."""

    images: Source


class Options(DatasetOptions):
    """The block `datasets.caltech101`."""

    source: Archives


def scan(folder: Path, options: Options) -> Iterator[Record]:
    """The images of every class folder, in path order.

    Raises:
        UserError: the archive has another layout.
    """
    homes = [path for path in sorted(folder.rglob(FOLDER)) if path.is_dir() and "__MACOSX" not in path.parts]
    if not homes:
        raise UserError(f"The archive of caltech101 holds no folder {FOLDER}: is it the official caltech-101.zip?")
    for home in sorted(path for path in homes[0].iterdir() if path.is_dir()):
        for path in sorted(home.iterdir()):
            if path.is_file() and not path.name.startswith("."):
                yield Record(path=path.relative_to(folder).as_posix(), label=home.name)
