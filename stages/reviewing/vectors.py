"""One vector per image, read in blocks, so that a large feature file need not be in memory."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from stages.features import h5

BLOCK = 2048  # images read at a time
WIDEST = 2048  # numbers per vector: wider ones are projected, as what is done with them grows with the cube of that
SMALLEST = 1e-6  # a deviation: features that are all the same are left alone


@dataclass(frozen=True)
class Vectors:
    """The vectors of some images.

    Attributes:
        rows: (N, D) as stored, in memory or mapped from the disk.
        images: (n,) the rows that count, ascending.
        mean: (D,) float32, over these images.
        scale: (D,) float32: what standardises a centred vector; no smaller than the typical deviation.
    """

    rows: npt.NDArray[np.floating]
    images: npt.NDArray[np.int64]
    mean: torch.Tensor
    scale: torch.Tensor

    def __len__(self) -> int:
        return len(self.images)

    @property
    def width(self) -> int:
        """How many numbers a vector has."""
        return int(self.rows.shape[1])

    def centred(self, positions: npt.NDArray[np.int64]) -> torch.Tensor:
        """(k, D) float32: the vectors of the images at these positions, minus the mean."""
        return torch.from_numpy(self.rows[self.images[positions]]).float() - self.mean

    def unit(self, positions: npt.NDArray[np.int64]) -> torch.Tensor:
        """(k, D) float32: the same, of length 1."""
        return torch.nn.functional.normalize(self.centred(positions))

    def blocks(self) -> Iterator[tuple[npt.NDArray[np.int64], torch.Tensor]]:
        """All positions and their standardised vectors (k, D) float32, some at a time."""
        for positions in _split(len(self)):
            yield positions, self.centred(positions) * self.scale


def load(features: h5.Features) -> Vectors | None:
    """The evaluation view of every image that could be decoded; None where the cache holds pixels or too few images.

    Maps are averaged over positions, tokens over tokens; several maps of a pyramid stand one after the other.
    """
    images = np.flatnonzero(features.ok)
    if h5.INPUT in features.layers or len(images) < 2:
        return None
    layers = [_pooled(layer) for _, layer in sorted(features.layers.items())]
    rows = layers[0] if len(layers) == 1 else np.concatenate(layers, 1)
    return of_rows(_projected(rows) if rows.shape[1] > WIDEST else rows, images)


def of_rows(rows: npt.NDArray[np.floating], images: npt.NDArray[np.int64]) -> Vectors:
    """Vectors with their statistics, from the rows (N, D) of a file and the images that count."""
    total, squares = torch.zeros(rows.shape[1]).double(), torch.zeros(rows.shape[1]).double()
    for positions in _split(len(images)):
        block = torch.from_numpy(rows[images[positions]].astype(np.float64))
        total, squares = total + block.sum(0), squares + block.square().sum(0)
    mean = total / len(images)
    deviation = (squares / len(images) - mean.square()).clamp(min=0).sqrt()
    typical = max(float(deviation.square().mean().sqrt()), SMALLEST)
    return Vectors(rows, images, mean.float(), (1 / deviation.clamp(min=typical)).float())


def _split(count: int) -> Iterator[npt.NDArray[np.int64]]:
    for first in range(0, count, BLOCK):
        yield np.arange(first, min(first + BLOCK, count))


def _pooled(layer: h5.Array) -> npt.NDArray[np.floating]:
    """(N, D) of a layer (N, views, D), (N, views, C, H, W) or (N, views, T, C)."""
    if layer.ndim == 3:
        vectors: npt.NDArray[np.floating] = layer[:, 0]
        return vectors
    positions, channels = ((2, 3), layer.shape[2]) if layer.ndim == 5 else ((1,), layer.shape[3])
    pooled = np.empty((len(layer), channels), np.float32)
    for images in (slice(first, first + BLOCK // 8) for first in range(0, len(layer), BLOCK // 8)):
        pooled[images] = layer[images, 0].astype(np.float32).mean(positions)
    return pooled


def _projected(rows: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Wide vectors on WIDEST random directions, always the same ones: angles and distances stay nearly as they are."""
    directions = np.random.default_rng(0).standard_normal((rows.shape[1], WIDEST), np.float32) / np.sqrt(WIDEST)
    narrow = np.empty((len(rows), WIDEST), np.float32)
    for positions in _split(len(rows)):
        narrow[positions] = rows[positions].astype(np.float32) @ directions
    return narrow
