"""Unknown images: those that are less similar to the training images than nearly all validation images are.

An image of something that the head was never trained on still gets a class, often with a high probability. Its features
tell: they lie far from those of all training images. Nothing is trained for it. The similarity is the mean cosine with
the five nearest training images (Sun et al., Out-of-Distribution Detection with Deep Nearest Neighbors, 2022,
https://arxiv.org/abs/2204.06507), and validation gives the similarity from which an image counts as known.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch.nn import functional as F

from stages import files, paths
from stages.errors import REPAIR, UserError
from stages.training.data import BATCH, SplitData
from stages.training.model import pooled

PATH = paths.PREDICTIONS / "known.safetensors"
NEIGHBOURS = 5
MOST = 10_000  # images of train that are kept, and of val that choose, evenly spread: the file stays small


@dataclass(frozen=True)
class Known:
    """What a head was trained on.

    Attributes:
        vectors: (n, D) float16 features of training images, of length 1.
        least: the similarity below which an image is unknown.
    """

    vectors: torch.Tensor
    least: float

    def similarity(self, split: SplitData) -> torch.Tensor:
        """(N,) float32: how similar the evaluation view of each image is to the training images nearest to it."""
        return similarity(self.vectors, split, range(len(split.y)))

    def unknown(self, split: SplitData) -> torch.Tensor:
        """(N,) bool: which images are unknown."""
        return self.similarity(split) < self.least

    def to(self, device: torch.device) -> "Known":
        """The same on a device."""
        return Known(self.vectors.to(device), self.least)


def learn(splits: Mapping[str, SplitData], share: float) -> Known | None:
    """What is known after training; None where nothing shall be unknown, or the cache holds pixels.

    Args:
        splits: train, and val, which chooses from when on an image is known.
        share: of the images of val that are unknown, `decide.unknown`.
    """
    train, val = splits["train"], splits["val"]
    if not share or train.pixels is not None or not len(val.y):
        return None
    images = _spread(len(train.y))
    batches = torch.tensor(images).split(256)  # type: ignore[no-untyped-call]
    vectors = torch.cat([F.normalize(pooled(train.batch(batch))) for batch in batches]).half()
    return Known(vectors, float(similarity(vectors, val, _spread(len(val.y))).double().quantile(share)))


def similarity(vectors: torch.Tensor, split: SplitData, images: Sequence[int]) -> torch.Tensor:
    """(n,) float32: the mean cosine of some images of a split with the NEIGHBOURS nearest training images.

    Args:
        vectors: (N, D) of length 1, of training images.
        split: that the images are in.
        images: their n positions in it.
    """
    known, count = vectors.float().T, min(NEIGHBOURS, len(vectors))
    means, first = known.new_empty(len(images)), 0
    products = known.new_empty(BATCH, known.shape[1])  # one for all: freed ones would leave holes in the heap
    for batch in torch.tensor(images).split(BATCH):  # type: ignore[no-untyped-call]
        similar = torch.mm(F.normalize(pooled(split.batch(batch))), known, out=products[: len(batch)])
        means[first : first + len(batch)] = similar.topk(count).values.mean(1)
        first += len(batch)
    return means


def write(known: Known | None) -> None:
    """Writes it beside the predictions, whole or not at all; without it no such file is left."""
    if known is None:
        PATH.unlink(missing_ok=True)
        return
    least = torch.tensor([known.least], dtype=torch.float64)
    files.write_bytes(PATH, save({"vectors": known.vectors.cpu().contiguous(), "least": least}))


def read() -> Known | None:
    """What evaluate wrote last; None where nothing is unknown.

    Raises:
        UserError: the file is damaged.
    """
    if not PATH.exists():
        return None
    try:
        tensors = load_file(PATH)
        return Known(tensors["vectors"], float(tensors["least"][0]))
    except (OSError, SafetensorError, KeyError, IndexError) as error:
        raise UserError(f"{PATH} is damaged ({error}): {REPAIR} writes it again.") from None


def _spread(count: int) -> list[int]:
    """At most MOST of so many positions, evenly spread: the index is in the order of folders, often one per class."""
    return [int(position) for position in torch.linspace(0, count - 1, min(count, MOST), dtype=torch.float64).round()]
