"""What a look at the pixels of each image gives: a thumbnail to compare, contrast, sharpness, colour.

Kept by content in the main checkout, so that only new images are decoded.
"""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from safetensors import SafetensorError, safe_open
from tqdm import tqdm

from stages import files, tensors
from stages.datasets import source
from stages.datasets.index_file import IndexRow
from stages.images.header import open_image
from stages.images.loading import load, upright
from stages.images.scaling import is_wide
from stages.machine import cores
from stages.processes import in_order

THUMBNAIL = 32  # pixels per side
LOOKED_AT = 128  # pixels of the longer side at which contrast, sharpness and colour are measured
VERSION = 2  # raise it when the code here changes what comes out
AHEAD, BLOCK = 256, 4096  # images measured ahead of the writing; thumbnails copied at a time


@dataclass(frozen=True)
class Thumbnails:
    """The whole image squeezed into a square, of N images; they stay in the file where they are kept.

    Attributes:
        kept: (M, 32, 32, 3) uint8, of these and other images.
        lines: (N,) where each image is among them.
    """

    kept: npt.NDArray[np.uint8]
    lines: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, images: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """(n, 32, 32, 3): those of some images (n,)."""
        return np.asarray(self.kept[self.lines[images]])

    def of(self, images: npt.NDArray[np.int64]) -> "Thumbnails":
        """The same of some images (n,), still in the file."""
        return Thumbnails(self.kept, self.lines[images])

    def blocks(self, size: int) -> Iterator[npt.NDArray[np.uint8]]:
        """Those of all images, some at a time."""
        for first in range(0, len(self), size):
            yield self[np.arange(first, min(first + size, len(self)))]


@dataclass(frozen=True)
class Pixels:
    """What was measured of N images.

    Attributes:
        readable: (N,) bool; of others everything is 0.
        thumbnails: of each.
        contrast: (N,) float32: standard deviation of the grey values, 0 to 127.
        sharpness: (N,) float32: variance of the Laplacian over that of the grey values.
        colour: (N,) float32: mean distance between the largest and the smallest channel, 0 to 255.
    """

    readable: npt.NDArray[np.bool_]
    thumbnails: Thumbnails
    contrast: npt.NDArray[np.float32]
    sharpness: npt.NDArray[np.float32]
    colour: npt.NDArray[np.float32]


def look(rows: Sequence[IndexRow], folder: Path, kept: Path) -> Pixels:
    """Looks at every image, or takes what was kept of it.

    Args:
        rows: of the index.
        folder: below which the images lie.
        kept: the file with what is known of these and other images; it is written anew where images are new.
    """
    with files.locked(kept.parent, "Another run looks at images; this one waits for it."):
        known = _read(kept)
        if new := [row for row in rows if row.sha256 not in known.line_of]:
            _add(kept, known, new, folder)
            known = _read(kept)
    lines = np.array([known.line_of[row.sha256] for row in rows], np.int64)
    readable, contrast, sharpness, colour = known.numbers[lines].T
    return Pixels(readable > 0, Thumbnails(known.thumbnails, lines), contrast, sharpness, colour)


class _Known(NamedTuple):
    """The file of what is known.

    Attributes:
        line_of: sha256 of an image -> its line in the tables.
        thumbnails: (M, 32, 32, 3) uint8, memory-mapped: 3 GB of a million images.
        numbers: (M, 4) float32: readable, contrast, sharpness, colour.
    """

    line_of: dict[str, int]
    thumbnails: npt.NDArray[np.uint8]
    numbers: npt.NDArray[np.float32]


def _read(kept: Path) -> _Known:
    """What is known; nothing where the file is not there or not whole."""
    try:
        with safe_open(kept, "numpy") as file:
            if int(file.get_tensor("version")[0]) != VERSION:
                raise ValueError("of another version")
            digests, numbers = file.get_tensor("sha256"), file.get_tensor("numbers")
        thumbnails = tensors.mapped(kept, "thumbnails")
        return _Known({digest.tobytes().hex(): line for line, digest in enumerate(digests)}, thumbnails, numbers)
    except (OSError, SafetensorError, KeyError, ValueError):
        return _Known({}, np.zeros((0, THUMBNAIL, THUMBNAIL, 3), np.uint8), np.zeros((0, 4), np.float32))


def _add(kept: Path, known: _Known, new: Sequence[IndexRow], folder: Path) -> None:
    """Writes the file anew, with what is measured of new images; each thumbnail goes to the disk at once."""
    count = len(known.line_of) + len(new)
    digests = np.frombuffer(bytes.fromhex("".join([*known.line_of, *(row.sha256 for row in new)])), np.uint8)
    shapes = {
        "thumbnails": ((count, THUMBNAIL, THUMBNAIL, 3), "u1"),
        "numbers": ((count, 4), "f4"),
        "sha256": ((count, 32), "u1"),
        "version": ((1,), "i8"),
    }

    def pieces() -> Iterator[tuple[str, npt.NDArray[Any]]]:
        yield "version", np.array([VERSION])
        yield "sha256", digests
        yield "numbers", known.numbers
        for first in range(0, len(known.thumbnails), BLOCK):
            yield "thumbnails", known.thumbnails[first : first + BLOCK]
        with ThreadPoolExecutor(cores()) as pool:
            measured = in_order(pool, lambda row: _measured(folder, row), new, ahead=AHEAD)
            for thumbnail, numbers in tqdm(measured, total=len(new), leave=False, delay=2):
                yield "thumbnails", thumbnail
                yield "numbers", numbers

    files.remove_leftovers(kept)
    tensors.write(kept, shapes, pieces())


def _measured(folder: Path, row: IndexRow) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """The thumbnail, and whether the image is readable, its contrast, sharpness and colour."""
    try:
        image = _small(source.read(folder, row.path, row.sha256))
    except Exception:  # Pillow raises SyntaxError, struct.error, ValueError and more on damaged files
        return np.zeros((THUMBNAIL, THUMBNAIL, 3), np.uint8), np.zeros(4, np.float32)
    red, green, blue = (np.asarray(channel) for channel in image.split())
    grey = (red.astype(np.int16) + green + blue).astype(np.float32) / 3
    inner = grey[1:-1, 1:-1]
    laplacian = 4 * inner - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    variance = grey.var()
    sharpness = laplacian.var() / max(variance, 1e-6) if laplacian.size else 0
    largest, smallest = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    colour = (largest - smallest).mean()
    thumbnail = np.asarray(image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR))
    return thumbnail, np.array([1, np.sqrt(variance), sharpness, colour], np.float32)


def _small(data: bytes) -> Image.Image:
    """An upright RGB image of at most LOOKED_AT pixels per side."""
    with open_image(data) as image:
        if is_wide(image):
            small = load(data)[0]
        else:
            share = LOOKED_AT / max(image.size)  # JPEG decodes at half, a quarter or an eighth
            image.draft("RGB", (math.ceil(share * image.width), math.ceil(share * image.height)))
            image.load()
            small = upright(image)
            if "transparency" in small.info:
                small = small.convert("RGBA")
            if small.mode != "RGB":  # or else it would be copied
                small = small.convert("RGB")
        small.thumbnail((LOOKED_AT, LOOKED_AT), reducing_gap=2.0)
    return small
