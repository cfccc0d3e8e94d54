"""Near-duplicates: pairs that are alike in the features and in the pixels, mirror images too."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stages.reviewing.neighbours import Pairs
from stages.reviewing.pixels import Thumbnails

SAME = 0.99  # correlation of two thumbnails that are one picture
SAME_NEAREST = 0.97  # the same where each is the most similar image of the other in the features
BLOCK = 4096  # pairs at a time
COARSE = 4  # pixels of a thumbnail that become one in the first comparison, per side
TINY = 1e-6  # instead of dividing by zero
MARGIN = 2e-3  # for the rounding of float16
CONTRAST = 4.0  # grey values: a blank image correlates with anything


@dataclass(frozen=True)
class Duplicate:
    """Two images that show the same picture.

    Attributes:
        first: position of one.
        second: position of the other, which is larger.
        correlation: of their thumbnails.
        mirrored: whether one is the other's mirror image.
    """

    first: int
    second: int
    correlation: float
    mirrored: bool


def confirmed(
    pairs: Pairs,
    nearest: npt.NDArray[np.int64],
    thumbnails: Thumbnails,
    contrast: npt.NDArray[np.float32],
) -> list[Duplicate]:
    """The pairs whose pixels agree.

    The features only say which images to compare: a threshold on them would have to differ for every backbone.

    Args:
        pairs: that are alike in the features.
        nearest: (n,) the most similar image of each.
        thumbnails: of n images.
        contrast: (n,) of each image.
    """
    pairs = _possible(pairs, thumbnails)
    plain, mirror = _correlations(pairs, thumbnails)
    correlation = np.maximum(plain, mirror)
    mutual = (nearest[pairs.first] == pairs.second) & (nearest[pairs.second] == pairs.first)
    visible = np.minimum(contrast[pairs.first], contrast[pairs.second]) >= CONTRAST
    alike = visible & ((correlation >= SAME) | (mutual & (correlation >= SAME_NEAREST)))
    return [
        Duplicate(int(pairs.first[i]), int(pairs.second[i]), float(correlation[i]), bool(mirror[i] > plain[i]))
        for i in np.flatnonzero(alike)
    ]


def _possible(pairs: Pairs, thumbnails: Thumbnails) -> Pairs:
    """The pairs that may have a correlation of SAME_NEAREST, plain or mirrored.

    Correlation r means that the centred thumbnails, of length 1, are sqrt(2 - 2 r) apart. Sums over blocks of 4 x 4,
    over 4, are a projection: they are no farther apart than that. So nothing is lost, and 16 times fewer numbers are
    compared.
    """
    coarse = np.concatenate([_coarse(block) for block in thumbnails.blocks(BLOCK)])
    farthest, near = 2 - 2 * SAME_NEAREST + MARGIN, np.empty(len(pairs.first), bool)
    for start in range(0, len(near), BLOCK):
        block = slice(start, start + BLOCK)
        first, second = (coarse[which[block]].astype(np.float32) for which in (pairs.first, pairs.second))
        plain, mirror = (np.square(first - other).sum((1, 2, 3)) for other in (second, second[:, :, ::-1]))
        near[block] = np.minimum(plain, mirror) <= farthest
    return Pairs(pairs.first[near], pairs.second[near], pairs.cosine[near])


def _coarse(thumbnails: npt.NDArray[np.uint8]) -> npt.NDArray[np.float16]:
    """(n, 8, 8, 3) sums over blocks of thumbnails (n, 32, 32, 3) that are centred and of length 1."""
    values = thumbnails.astype(np.float32)
    values -= values.mean((1, 2, 3), keepdims=True)
    values /= np.maximum(np.sqrt(np.square(values).sum((1, 2, 3), keepdims=True)), TINY)
    side = values.shape[1] // COARSE
    blocks = values.reshape(len(values), side, COARSE, side, COARSE, 3)
    coarse: npt.NDArray[np.float16] = (blocks.sum((2, 4)) / np.float32(COARSE)).astype(np.float16)
    return coarse


def _correlations(pairs: Pairs, thumbnails: Thumbnails) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Of each pair the correlation of the thumbnails, and that with the second one mirrored."""
    plain, mirror = np.empty(len(pairs.first), np.float32), np.empty(len(pairs.first), np.float32)
    for start in range(0, len(plain), BLOCK):
        block = slice(start, start + BLOCK)
        first, second = thumbnails[pairs.first[block]], thumbnails[pairs.second[block]]
        plain[block] = _correlation(first, second)
        mirror[block] = _correlation(first, second[:, :, ::-1])
    return plain, mirror


def _correlation(first: npt.NDArray[np.uint8], second: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    a, b = (pixels.reshape(len(pixels), -1).astype(np.float32) for pixels in (first, second))
    a -= a.mean(1, keepdims=True)
    b -= b.mean(1, keepdims=True)
    norm = np.sqrt(np.einsum("ij,ij->i", a, a) * np.einsum("ij,ij->i", b, b))
    correlation: npt.NDArray[np.float32] = np.einsum("ij,ij->i", a, b) / np.maximum(norm, TINY)
    return correlation
