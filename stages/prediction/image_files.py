"""Which files a user means, and what the bytes of each say before any pixel is decoded."""

import hashlib
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from stages import paths
from stages.images.formats import HEAD_BYTES
from stages.images.header import BadImage, looks_like_image
from stages.images.loading import inspect

STDIN = "-"


class ImageFile(NamedTuple):
    """A file as the user named it.

    Attributes:
        path: as the user wrote it, or as it was found below a folder.
        sha256: of its bytes; empty where there is a problem.
        extent: width and height in pixels.
        problem: why it cannot be used; empty where it can.
        scaled: how its values of more than 8 bits are scaled; empty for a plain conversion.
    """

    path: str
    sha256: str = ""
    extent: tuple[int, int] = (0, 0)
    problem: str = ""
    scaled: str = ""


def expand(arguments: Iterable[str]) -> Iterator[str]:
    """Yields the paths of the files that arguments mean: a file, all images below a folder, or `-` for standard input.

    A relative path is meant in the folder in which the command was called. Files below a folder come in the order of
    their paths. Links are followed; hidden files and folders are skipped, and so are files below a folder that are not
    images, judged by their first bytes. A name that is not UTF-8 contains surrogates, as everywhere in Python:
    `os.fsencode` gives its bytes.
    """
    for path in arguments:
        if path == STDIN:
            yield from expand(os.fsdecode(line.rstrip(b"\r\n")) for line in sys.stdin.buffer if line.strip())
        elif os.path.isdir(file := paths.typed(path)):
            images = filter(_is_image, walk(file))
            yield next(images, file)  # a folder without images is reported as itself
            yield from images
        else:
            yield file


def walk(folder: str) -> Iterator[str]:
    """Yields the files below a folder in the order of their paths; enters a folder that several links lead to once."""
    visited: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        folders[:] = [] if real in visited else sorted(name for name in folders if not name.startswith("."))
        if real not in visited:
            yield from (os.path.join(parent, name) for name in sorted(names) if not name.startswith("."))
        visited.add(real)


def read(path: str) -> ImageFile:
    """Reads a file and its header; a file that cannot be used says why in `problem`."""
    if os.path.isdir(path):
        return ImageFile(path, problem="a folder without images")
    if os.path.exists(path) and not os.path.isfile(path):
        return ImageFile(path, problem="not a regular file")  # a pipe cannot be read twice, /dev/zero has no end
    try:
        data = Path(path).read_bytes()
        width, height, scaling = inspect(data)
        return ImageFile(path, hashlib.sha256(data).hexdigest(), (width, height), scaled=scaling or "")
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        return ImageFile(path, problem=getattr(error, "strerror", None) or str(error))
    except BadImage as error:
        return ImageFile(path, problem=str(error))


def _is_image(path: str) -> bool:
    """Whether the first bytes are those of an image; true of files that cannot be read, so that they are reported."""
    if not os.path.isfile(path):
        return os.path.islink(path)  # a broken link is reported, a socket or a pipe is not
    try:
        with open(path, "rb") as file:
            return looks_like_image(file.read(HEAD_BYTES))
    except OSError:
        return True
