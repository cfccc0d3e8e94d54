"""Which files are to be looked at, and what their bytes say before any pixel is decoded."""

import hashlib
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from stages.images.header import BadImage, looks_like_image, size

STDIN = "-"
MAGIC_BYTES = 16


class ImageFile(NamedTuple):
    """A file as it was named, its sha256 and size in pixels, or why it is no good."""

    path: str
    sha256: str = ""
    extent: tuple[int, int] = (0, 0)
    problem: str = ""


def named(given: Iterable[str]) -> Iterator[str]:
    """The files that arguments mean, as they come: files, those below folders in path order, `-` for standard input.

    Links are followed; hidden files and folders, and in folders all that is no image by its first bytes, are passed
    over. Bytes of names that are no UTF-8 are surrogates, as everywhere in Python: `os.fsencode` gives them back.
    """
    for path in given:
        if path == STDIN:
            yield from named(os.fsdecode(line.rstrip(b"\r\n")) for line in sys.stdin.buffer if line.strip())
        elif os.path.isdir(path):
            yield from filter(_is_image, below(path))
        else:
            yield path


def below(folder: str) -> Iterator[str]:
    """The files below a folder in path order; a linked folder that was seen already is not walked again."""
    seen: set[str] = set()
    for home, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(home)
        folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith("."))
        if real not in seen:
            yield from (os.path.join(home, name) for name in sorted(files) if not name.startswith("."))
        seen.add(real)


def look(path: str) -> ImageFile:
    """What the bytes of a file say."""
    if os.path.exists(path) and not os.path.isfile(path):
        return ImageFile(path, problem="not a regular file")  # a pipe cannot be read twice, /dev/zero has no end
    try:
        data = Path(path).read_bytes()
        return ImageFile(path, hashlib.sha256(data).hexdigest(), size(data))
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        return ImageFile(path, problem=getattr(error, "strerror", None) or str(error))
    except BadImage as error:
        return ImageFile(path, problem=str(error))


def _is_image(path: str) -> bool:
    """By its first bytes; what cannot be read counts, so that it is told."""
    if not os.path.isfile(path):
        return os.path.islink(path)  # a broken link is told, a socket or a pipe is not
    try:
        with open(path, "rb") as file:
            return looks_like_image(file.read(MAGIC_BYTES))
    except OSError:
        return True
