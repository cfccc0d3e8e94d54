"""Caltech-101 (Li, Andreeto, Ranzato, Perona, 2003), CC BY 4.0, in its official nesting: a zip with a tar.gz inside.

The archive is `https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip`. It holds 101 categories and
BACKGROUND_Google; published numbers differ in which categories they leave out, which `exclude` sets.
"""

from collections.abc import Iterator
from pathlib import Path

from stages.blocks import Block, Source
from stages.datasets import tree
from stages.datasets.base import DatasetOptions, Item, Record, UnusedFile
from stages.errors import UserError

FOLDER = "101_ObjectCategories"


class Archives(Block):
    """The files to fetch."""

    images: Source


class Options(DatasetOptions):
    """The block `datasets.caltech101`."""

    has_objects = False
    source: Archives


def scan(folder: Path, options: Options) -> Iterator[Item]:
    """Every file below each class folder, in path order, and the images that lie elsewhere.

    Raises:
        UserError: the archive has another layout.
    """
    files = tree.read(folder).files
    home = _home(tree.nested(files))
    if not home:
        raise UserError(f"The archive of caltech101 has no folder {FOLDER}: is it the official caltech-101.zip?")
    for label in sorted(home.folders):
        yield from (Record(path, label) for path in home.folders[label].below())
    in_classes = f"{home.path}/"
    for path in files:
        if not path.startswith(in_classes) and tree.named_as_image(path):
            yield UnusedFile(path, f"it lies outside of {home.path}")
    yield from (UnusedFile(path, "it lies in no class folder") for path in home.files)


def _home(folder: tree.Folder) -> tree.Folder | None:
    """The folder of the classes: the first of its name, from the top."""
    if FOLDER in folder.folders:
        return folder.folders[FOLDER]
    return next((home for name in sorted(folder.folders) if (home := _home(folder.folders[name]))), None)
