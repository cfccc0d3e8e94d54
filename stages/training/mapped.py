"""Features that would take too much memory stay on the disk, and batches are read as they are asked for."""

import os
from collections.abc import Sequence

import numpy as np
import torch

from stages.features import h5

SHARE = 0.5  # of the machine's memory: maps, pyramids and images that take more stay on the disk
NEIGHBOURS = 64  # images read from one place of the disk, as long as they are mixed


def room() -> int:
    """Bytes that the features of a run may take. Of all memory, not of what is free: a run must not depend on that."""
    return int(SHARE * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def too_large(layers: Sequence[h5.Array]) -> bool:
    """Whether layers of a feature file stay on the disk."""
    return all(isinstance(layer, np.memmap) for layer in layers) and _bytes(layers) > room()


def _bytes(layers: Sequence[h5.Array]) -> int:
    return sum(layer.nbytes for layer in layers)


class MappedFeatures:
    """The features (N, V, …) of some images where they lie, in place of a tensor.

    Args:
        layers: memory-mapped, (rows, V, …) each; several are given as one, their numbers one after the other.
        places: (N,) the row of each image.
    """

    device = torch.device("cpu")

    def __init__(self, layers: Sequence[h5.Array], places: Sequence[int]) -> None:
        self.layers, self.places = layers, np.asarray(places, np.int64)
        views, *shape = layers[0].shape[1:]
        if len(layers) > 1:
            shape = [sum(int(np.prod(layer.shape[2:])) for layer in layers)]
        self.shape = len(self.places), views, *shape
        self.ndim = len(self.shape)

    def __getitem__(self, at: tuple[torch.Tensor, torch.Tensor | int]) -> torch.Tensor:
        """(n, …) of some images, each in its view."""
        images, views = at
        rows = self.places[images.numpy()]
        columns = views if isinstance(views, int) else views.numpy()
        found = [torch.from_numpy(layer[rows, columns]) for layer in self.layers]
        return found[0] if len(found) == 1 else torch.cat([one.flatten(1) for one in found], 1)

    def join(self, other: "MappedFeatures") -> "MappedFeatures":
        """These images, then those of another part."""
        return MappedFeatures(self.layers, [*self.places.tolist(), *other.places.tolist()])

    def shuffled(self) -> torch.Tensor:
        """The positions of all images in random order, but so that the disk is read in pieces that memory holds.

        Neighbours on the disk stay together in blocks, blocks come in random order, and as many as there is room for
        are mixed image by image.
        """
        mixed = max(1, room() * len(self.layers[0]) // (_bytes(self.layers) * NEIGHBOURS))
        blocks = np.array_split(
            np.argsort(self.places, kind="stable"), np.arange(NEIGHBOURS, len(self.places), NEIGHBOURS)
        )
        order = torch.randperm(len(blocks)).tolist()
        groups = [
            np.concatenate([blocks[place] for place in order[i : i + mixed]]) for i in range(0, len(order), mixed)
        ]
        return torch.cat([torch.from_numpy(group)[torch.randperm(len(group))] for group in groups])
