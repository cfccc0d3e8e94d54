"""`folder`: a user's own images below the flat, absolute parameter `root`. Only ever read.

Either `class/image`, or `train/class/image` beside `val` (or `valid`, `validation`) and `test`: then these are the
dataset's own lists.
"""

from collections.abc import Iterator
from pathlib import Path

from stages.datasets.base import Block, Record

SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


class Options(Block):
    """Nothing to set: the folder is the flat parameter `root`."""


def scan(folder: Path, options: Options) -> Iterator[Record]:
    """Every file below each class folder, in path order; hidden folders are passed over."""
    tops = {path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")}
    listed = "train" in tops and tops <= SPLITS.keys()
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if len(parts) > 1 + listed and not any(part.startswith(".") for part in parts[:-1]) and path.is_file():
            split = SPLITS[parts[0]] if listed else None
            yield Record(path="/".join(parts), label=parts[listed], split=split)
