"""Odd images: what stands out in a set by its features, its size or its pixels.

Every measure is compared with the rest of the set: where more than a few images are so, that is what the set is like.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from statistics import median
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from stages.datasets.index_file import IndexRow
from stages.reviewing.pixels import Pixels

FEW = 0.02  # share of the images: what more than these have is not odd
FAR = 4.0  # deviations below the typical similarity to the nearest image
BLANK = 4.0  # grey values: standard deviation
TINY = 0.25  # of the median short side
EXTREME = 4.0  # long over short side
BLURRED = 3.5  # deviations below the typical logarithm of the sharpness
GREY = 1.0  # mean distance between channels
COLOURED = 20.0  # the same: median of a class that is in colour
FEWEST = 20  # images: of fewer nothing is typical


class Oddity(NamedTuple):
    """An image that stands out: its position, why, and by how much, larger being odder."""

    position: int
    what: str
    score: float


def by_size(rows: Sequence[IndexRow]) -> Iterator[Oddity]:
    """Images that are tiny or of an extreme shape."""
    short = np.array([min(row.width, row.height) for row in rows], np.float64)
    shape = np.array([max(row.width, row.height) for row in rows]) / short
    yield from _few("tiny", short < TINY * np.median(short), np.median(short) / short)
    yield from _few("extreme shape", shape > EXTREME, shape)


def by_features(cosine: npt.NDArray[np.float32]) -> Iterator[Oddity]:
    """Images that are far from all others.

    Args:
        cosine: (n,) of each image with its nearest one.
    """
    deviation = _deviations(cosine.astype(np.float64))
    yield from _few("far from all others", deviation < -FAR, -deviation)


def by_pixels(rows: Sequence[IndexRow], pixels: Pixels) -> Iterator[Oddity]:
    """Images that are blank, blurred, or grey in a class that is in colour."""
    blank = pixels.readable & (pixels.contrast < BLANK)
    yield from _few("blank", blank, BLANK - pixels.contrast)
    visible = pixels.readable & ~blank
    sharpness = _deviations(np.log(np.where(visible, pixels.sharpness, np.nan) + 1e-6))
    yield from _few("blurred", visible & (sharpness < -BLURRED), -sharpness)
    grey = visible & (pixels.colour < GREY)
    yield from _few("grey in a class in colour", grey & _in_coloured_class(rows, pixels), GREY - pixels.colour)


def _in_coloured_class(rows: Sequence[IndexRow], pixels: Pixels) -> npt.NDArray[np.bool_]:
    """Whether most images with the label of an image are in strong colours; of images without a label, never."""
    colours = defaultdict[str, list[float]](list)
    for row, colour in zip(rows, pixels.colour.tolist(), strict=True):
        colours[row.label].append(colour)
    coloured = {label for label, values in colours.items() if label and median(values) >= COLOURED}
    return np.array([row.label in coloured for row in rows])


def _deviations(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """How many deviations each value is above the median; robust, as what is looked for would widen a plain one."""
    median = np.nanmedian(values) if np.isfinite(values).any() else 0.0
    spread = 1.4826 * np.nanmedian(np.abs(values - median)) if np.isfinite(values).any() else 0.0
    deviations: npt.NDArray[np.float64] = np.nan_to_num((values - median) / max(spread, 1e-6))
    return deviations


def _few(what: str, odd: npt.NDArray[np.bool_], score: npt.NDArray[np.floating]) -> Iterator[Oddity]:
    """The odd images, unless they are too many to be odd or the set is too small to tell."""
    if len(odd) < FEWEST or odd.sum() > max(1, FEW * len(odd)):
        return
    for position in np.flatnonzero(odd):
        yield Oddity(int(position), what, float(score[position]))
