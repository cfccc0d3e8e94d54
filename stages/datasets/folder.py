"""`folder`: a user's own images as `class/image` under the flat, absolute parameter `root`. Only ever read."""

from collections.abc import Iterator
from pathlib import Path

from stages.datasets.base import Block, Record


class Options(Block):
    """Nothing to set: the folder is the flat parameter `root`."""


def scan(folder: Path, options: Options) -> Iterator[Record]:
    """Every file below each class folder, in path order; hidden files and folders are passed over."""
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if len(parts) > 1 and not any(part.startswith(".") for part in parts) and path.is_file():
            yield Record(path="/".join(parts), label=parts[0])
