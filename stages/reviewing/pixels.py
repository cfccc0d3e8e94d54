"""What a look at the pixels of each image gives: a thumbnail to compare, contrast, sharpness, colour.

Kept by content in the main checkout, so that only new images are decoded.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from tqdm import tqdm

from stages import files
from stages.datasets import source
from stages.datasets.index_file import IndexRow
from stages.errors import UserError
from stages.images.header import BadImage, open_image
from stages.images.loading import load
from stages.images.scaling import is_wide

THUMBNAIL = 32  # pixels per side
LOOKED_AT = 128  # pixels of the longer side at which contrast, sharpness and colour are measured
VERSION = 1  # raise it when the code here changes what comes out


@dataclass(frozen=True)
class Pixels:
    """What was measured of N images.

    Attributes:
        readable: (N,) bool; of others everything is 0.
        thumbnails: (N, 32, 32, 3) uint8, the whole image squeezed into a square.
        contrast: (N,) float32: standard deviation of the grey values, 0 to 127.
        sharpness: (N,) float32: variance of the Laplacian over that of the grey values.
        colour: (N,) float32: mean distance between the largest and the smallest channel, 0 to 255.
    """

    readable: npt.NDArray[np.bool_]
    thumbnails: npt.NDArray[np.uint8]
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
    known, table = _read(kept)
    new = [row for row in rows if row.sha256 not in known]
    if new:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            measured = list(
                tqdm(pool.map(lambda row: _measured(folder, row), new), total=len(new), leave=False, delay=2)
            )
        known |= {row.sha256: len(known) + number for number, row in enumerate(new)}
        thumbnails, numbers = (np.stack(part) for part in zip(*measured, strict=True))
        table = {
            "thumbnails": np.concatenate([table["thumbnails"], thumbnails]),
            "numbers": np.concatenate([table["numbers"], numbers]),
        }
        digests = np.frombuffer(bytes.fromhex("".join(known)), np.uint8).reshape(-1, 32)
        files.write_bytes(kept, save({**table, "sha256": digests, "version": np.array([VERSION])}))
    places = [known[row.sha256] for row in rows]
    readable, contrast, sharpness, colour = table["numbers"][places].T
    return Pixels(readable > 0, table["thumbnails"][places], contrast, sharpness, colour)


def _read(kept: Path) -> tuple[dict[str, int], dict[str, npt.NDArray[Any]]]:
    """What is known: sha256 -> line of the tables, and the tables; nothing where the file is not there or not whole."""
    try:
        tensors = load_file(kept)
        if int(tensors["version"][0]) != VERSION:
            raise ValueError("of another version")
        known = {digest.tobytes().hex(): place for place, digest in enumerate(tensors["sha256"])}
        return known, {"thumbnails": tensors["thumbnails"], "numbers": tensors["numbers"]}
    except (OSError, SafetensorError, KeyError, ValueError):
        empty: dict[str, npt.NDArray[Any]] = {
            "thumbnails": np.zeros((0, THUMBNAIL, THUMBNAIL, 3), np.uint8),
            "numbers": np.zeros((0, 4), np.float32),
        }
        return {}, empty


def _measured(folder: Path, row: IndexRow) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """The thumbnail, and whether the image is readable, its contrast, sharpness and colour."""
    try:
        image = _small(source.read(folder, row.path, row.sha256))
    except (UserError, BadImage, OSError, ValueError, SyntaxError):  # what Pillow raises on damaged files
        return np.zeros((THUMBNAIL, THUMBNAIL, 3), np.uint8), np.zeros(4, np.float32)
    red, green, blue = (np.asarray(channel).astype(np.int16) for channel in image.split())
    grey = (red + green + blue).astype(np.float32) / 3
    inner = grey[1:-1, 1:-1]
    laplacian = 4 * inner - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    sharpness = laplacian.var() / max(grey.var(), 1e-6) if laplacian.size else 0
    largest, smallest = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    colour = (largest - smallest).mean()
    thumbnail = np.asarray(image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR))
    return thumbnail, np.array([1, grey.std(), sharpness, colour], np.float32)


def _small(data: bytes) -> Image.Image:
    """An upright RGB image of at most LOOKED_AT pixels per side."""
    with open_image(data) as image:
        if is_wide(image):
            upright = load(data)[0]
        else:
            image.draft("RGB", (LOOKED_AT, LOOKED_AT))  # JPEG decodes at half, a quarter or an eighth
            upright = ImageOps.exif_transpose(image)
            if "transparency" in upright.info:
                upright = upright.convert("RGBA")
            upright = upright.convert("RGB")
    upright.thumbnail((LOOKED_AT, LOOKED_AT), reducing_gap=2.0)
    return upright
