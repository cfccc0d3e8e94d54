"""Pairs of images with like features, without comparing each image with all others."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from stages.reviewing.vectors import Vectors

NEAREST = 6  # neighbours of each image that are looked at
CELLS = 3  # each image is compared within the cells of so many pivots: like images share at least one
ALL = 4096  # images: of fewer, each is compared with all
BLOCK = 1024  # images compared at a time


class Pairs(NamedTuple):
    """Pairs of positions, the first below the second, and the cosine of their centred features.

    Attributes:
        first: (p,) int64.
        second: (p,) int64.
        cosine: (p,) float32.
    """

    first: npt.NDArray[np.int64]
    second: npt.NDArray[np.int64]
    cosine: npt.NDArray[np.float32]


def nearest(vectors: Vectors) -> Pairs:
    """Every image with its NEAREST most similar ones, as far as they share a cell.

    Of many images some, evenly spread, are pivots; an image lies in the cells of its most similar pivots, and is
    compared with the images there. N images cost about N·√N comparisons.
    """
    cells = [np.arange(len(vectors))] if len(vectors) <= ALL else _cells(vectors)
    parts = [_within(vectors, cell) for cell in cells if len(cell) > 1]  # eighteen pairs for each of a million images
    pair, cosine = (np.concatenate(part) for part in zip(*parts, strict=True))
    del parts
    pair, unique = np.unique(pair, return_index=True)
    return Pairs(pair // len(vectors), pair % len(vectors), cosine[unique])


def closest(pairs: Pairs, count: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Of each of `count` images the most similar one of its pairs, and the cosine; -1 and -1 where it is in none."""
    nearest, cosine = np.full(count, -1), np.full(count, -1, np.float32)
    own, other = np.concatenate([pairs.first, pairs.second]), np.concatenate([pairs.second, pairs.first])
    similarity = np.concatenate([pairs.cosine, pairs.cosine])
    order = np.argsort(similarity, kind="stable")  # of several values for one image the last one stays: the largest
    nearest[own[order]], cosine[own[order]] = other[order], similarity[order]
    return nearest, cosine


def _cells(vectors: Vectors) -> list[npt.NDArray[np.int64]]:
    count = round(len(vectors) ** 0.5)
    pivots = vectors.unit(np.linspace(0, len(vectors) - 1, count).round().astype(np.int64))
    chosen = [
        (vectors.unit(positions) @ pivots.T).topk(min(CELLS, count)).indices.numpy()
        for positions in np.array_split(np.arange(len(vectors)), max(1, len(vectors) // BLOCK))
    ]
    cell_of = np.concatenate(chosen)
    order = np.argsort(cell_of.ravel(), kind="stable")
    ends = np.searchsorted(cell_of.ravel()[order], np.arange(1, count))
    return [np.sort(members // cell_of.shape[1]) for members in np.split(order, ends)]


def _within(vectors: Vectors, cell: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The most similar images of each image of a cell: the lower position times N plus the other, and the cosine."""
    units = vectors.unit(cell)
    pairs, cosines = [], []
    count = min(NEAREST, len(cell) - 1)
    for start in range(0, len(cell), BLOCK):
        block = units[start : start + BLOCK]
        similar = block @ units.T
        similar[torch.arange(len(block)), torch.arange(start, start + len(block))] = -2.0  # not itself
        cosine, which = similar.topk(count)
        own, other = np.repeat(cell[start : start + BLOCK], count), cell[which.numpy().ravel()]
        pairs.append(np.minimum(own, other) * len(vectors) + np.maximum(own, other))
        cosines.append(cosine.numpy().ravel())
    return np.concatenate(pairs), np.concatenate(cosines)
