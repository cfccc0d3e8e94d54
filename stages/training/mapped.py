"""Features that would take too much memory stay on the disk, and each batch is read when it is needed."""

from collections.abc import Sequence

import numpy as np
import torch

from stages import machine
from stages.features import h5

SHARE = 0.5  # of the machine's memory: maps, pyramids and images that take more stay on the disk
BLOCK = 64  # neighbouring images that are read from the disk together
VECTORS = 1 << 28  # bytes: vectors that take more in float32 stay in the file too; the system keeps its pages in memory


def room() -> int:
    """Bytes that the features of a run may take: a share of all memory, not of what is free at the moment."""
    return int(SHARE * machine.memory())


def stays_on_disk(layers: Sequence[h5.Array]) -> bool:
    """Whether the layers of a feature file stay on the disk."""
    if not all(isinstance(layer, np.memmap) for layer in layers):
        return False
    return _bytes(layers) > room() or (layers[0].ndim == 3 and 4 * layers[0].size > VECTORS)


def _bytes(layers: Sequence[h5.Array]) -> int:
    return sum(layer.nbytes for layer in layers)


class MappedFeatures:
    """The features (N, V, …) of some images, read from the disk on access; used in place of a tensor.

    Args:
        layers: memory-mapped, (rows, V, …) each; several are joined to one, their numbers one after the other.
        rows: (N,) the row of each image in the layers.
    """

    device = torch.device("cpu")

    def __init__(self, layers: Sequence[h5.Array], rows: Sequence[int]) -> None:
        self.layers, self.rows = layers, np.asarray(rows, np.int64)
        views, *shape = layers[0].shape[1:]
        if len(layers) > 1:
            shape = [sum(int(np.prod(layer.shape[2:])) for layer in layers)]
        self.shape = len(self.rows), views, *shape
        self.ndim = len(self.shape)

    def __getitem__(self, index: tuple[torch.Tensor, torch.Tensor | int]) -> torch.Tensor:
        """The features (n, …) of the images (n,) in the views (n,) of an index, or all in one view."""
        images, views = index
        rows = self.rows[images.numpy()]
        columns = views if isinstance(views, int) else views.numpy()
        tensors = [torch.from_numpy(layer[rows, columns]) for layer in self.layers]
        return tensors[0] if len(tensors) == 1 else torch.cat([tensor.flatten(1) for tensor in tensors], 1)

    def some(self, images: torch.Tensor) -> "MappedFeatures":
        """Those of some images (n,) alone."""
        return MappedFeatures(self.layers, self.rows[images.numpy()].tolist())

    def join(self, other: "MappedFeatures") -> "MappedFeatures":
        """These images, then those of another split."""
        return MappedFeatures(self.layers, [*self.rows.tolist(), *other.rows.tolist()])

    def load(self) -> torch.Tensor:
        """All features (N, V, …) in memory."""
        views = torch.arange(self.shape[1])
        return torch.stack([self[torch.arange(self.shape[0]), int(view)] for view in views], 1)

    def shuffled(self) -> torch.Tensor:
        """The positions of all images in random order; if the file does not fit into memory, one that reads in pieces.

        Neighbours on the disk then stay together in blocks, the blocks come in random order, and as many blocks as
        there is room for are mixed image by image.
        """
        if _bytes(self.layers) <= room():
            return torch.randperm(len(self.rows))
        mixed = max(1, room() * len(self.layers[0]) // (_bytes(self.layers) * BLOCK))
        blocks = np.array_split(np.argsort(self.rows, kind="stable"), np.arange(BLOCK, len(self.rows), BLOCK))
        order = torch.randperm(len(blocks)).tolist()
        groups = [
            np.concatenate([blocks[number] for number in order[first : first + mixed]])
            for first in range(0, len(order), mixed)
        ]
        return torch.cat([torch.from_numpy(group)[torch.randperm(len(group))] for group in groups])
