"""`folder`: a user's own images below the flat, absolute parameter `root`. Only ever read.

Either `class/image`, or `train/class/image` beside `val` (or `valid`, `validation`) and `test`: then these are the
dataset's own lists.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from stages.blocks import Block
from stages.datasets.base import Record
from stages.errors import UserError

SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


class Options(Block):
    """Nothing to set: the folder is the flat parameter `root`."""


def scan(folder: Path, options: Options) -> Iterator[Record]:
    """Every file below each class folder, in path order; links are followed, hidden folders passed over.

    Raises:
        UserError: the folders of lists (train, val, test) stand beside others.
    """
    tops = {path.name.lower() for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")}
    lists = tops & SPLITS.keys()
    listed = "train" in lists and len(lists) > 1
    if listed and tops != lists:
        raise UserError(
            f"`root`: {folder} holds {', '.join(sorted(lists))}, which are lists, beside "
            f"{', '.join(sorted(tops - lists))}, which are not: move those elsewhere."
        )
    for path in sorted(_files(folder)):
        parts = path.relative_to(folder).parts
        if len(parts) > 1 + listed:
            split = SPLITS[parts[0].lower()] if listed else None
            yield Record(path="/".join(parts), label=parts[listed], split=split)


def _files(folder: Path) -> Iterator[Path]:
    """Files below a folder; a linked folder that was seen already is not walked again."""
    seen: set[str] = set()
    for home, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(home)
        folders[:] = [] if real in seen else [name for name in folders if not name.startswith(".")]
        if real not in seen:
            yield from (Path(home, name) for name in files)
        seen.add(real)
