"""The surroundings of the evaluated images among the cached features: similar training images, and a map.

Both depend on the features alone, not on the head: they show what the head had to work with.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from torch.nn import functional as F

from stages import files, paths
from stages.training.data import BATCH, HeadData, SplitData
from stages.training.model import pooled

COUNT = 4  # training images to show beside an evaluated one
PAIRS = 2_000_000_000  # of an evaluated and a training image that are compared, half a minute; more images are thinned
FEWEST, MAPPED = 20, 1200  # images of a map: with fewer it shows nothing, with more it takes long and points overlap
COMPONENTS, NEIGHBOURS = 50, 30  # principal components before t-SNE, and its perplexity, as in van der Maaten's paper
STEPS = 500  # of t-SNE: 1,000 take half as long again and bring no more neighbours of one class (Caltech-101)


class Surroundings(NamedTuple):
    """What lies near N images.

    Attributes:
        nearest: (N, 4) int64 positions in the index, the most similar training image first.
        mapped: (n,) int64 positions among the N, evenly spread.
        vectors: (n, D) float32 of those, of length 1, around the mean of the training images.
        compared: how many training images were compared.
    """

    nearest: torch.Tensor
    mapped: torch.Tensor
    vectors: torch.Tensor
    compared: int


def find(data: HeadData, judged: str) -> Surroundings | None:
    """The surroundings of the N images of a split; None if the cache holds pixels, or without images.

    With so many images that there are more than PAIRS, training images evenly spread stand for all of them.

    Args:
        data: the features of train and of the split.
        judged: the name of the split.
    """
    train, split = data.splits["train"], data.splits[judged]
    if train.pixels is not None or not len(split.y):
        return None
    compared = spread(len(train.y), max(COUNT, PAIRS // len(split.y)))
    train_vectors = _vectors(train, compared)
    centre = train_vectors.mean(0)
    train_vectors = F.normalize(train_vectors.sub_(centre)).T
    rows = torch.tensor(train.index_positions)[compared]
    count = min(COUNT, len(rows))
    nearest = torch.empty(len(split.y), count, dtype=torch.long)
    products = train_vectors.new_empty(BATCH, len(rows))  # one for all: freed ones would leave holes in the heap
    for images, batch in zip(split.image_batches(), split.batches(), strict=True):
        vectors = F.normalize(pooled(batch) - centre)
        similar = torch.mm(vectors, train_vectors, out=products[: len(vectors)])
        nearest[images] = rows[similar.topk(count).indices.cpu()]
    mapped = spread(len(split.y), MAPPED)
    return Surroundings(nearest, mapped, F.normalize(_vectors(split, mapped) - centre), len(compared))


def joined(around: Sequence[Surroundings], order: torch.Tensor) -> Surroundings:
    """The surroundings of the images of several folds as one.

    Args:
        around: of each fold.
        order: (N,) positions in the folds one after the other, of the images in the order that they shall have.
    """
    firsts = torch.tensor([0, *(len(part.nearest) for part in around)]).cumsum(0)
    positions = torch.cat([part.mapped + first for part, first in zip(around, firsts.tolist(), strict=False)])
    mapped, vectors = order.argsort()[positions], torch.cat([part.vectors for part in around])
    drawn = mapped.argsort()[spread(len(mapped), MAPPED)]
    nearest = torch.cat([part.nearest for part in around])[order]
    return Surroundings(nearest, mapped[drawn], vectors[drawn], min(part.compared for part in around))


def spread(count: int, most: int) -> torch.Tensor:
    """(n,) at most so many positions of `count`, evenly spread."""
    return torch.from_numpy(np.linspace(0, count - 1, min(most, count)).round().astype(np.int64))


def arrays(around: Surroundings | None) -> dict[str, npt.NDArray[np.float32] | npt.NDArray[np.int64]]:
    """What the page shows of the surroundings of the N judged images; empty without any.

    Returns:
        `nearest` (N, 4), `compared` (1,). With 20 images or more also `mapped` (n,): positions among the N, evenly
        spread, and `map` (n, 2): their points, in [0, 1].
    """
    if around is None:
        return {}
    nearest = {"nearest": around.nearest.numpy(), "compared": np.array([around.compared])}
    if len(around.nearest) < FEWEST:
        return nearest
    return {**nearest, "mapped": around.mapped.numpy(), "map": _cached_map(around.vectors.cpu().numpy())}


def _vectors(split: SplitData, images: torch.Tensor) -> torch.Tensor:
    """(n, D) float32: the evaluation view of some images (n,), maps averaged over positions."""
    batches: tuple[torch.Tensor, ...] = images.split(BATCH)  # type: ignore[no-untyped-call]
    return torch.cat([pooled(split.batch(batch)) for batch in batches])


def _cached_map(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The map of these vectors; it takes seconds, so it is cached for the next head on the same features."""
    digest = hashlib.sha256(vectors.tobytes() + repr((COMPONENTS, NEIGHBOURS, STEPS)).encode()).hexdigest()
    path = paths.maps() / f"{digest}.safetensors"
    try:
        return load_file(path)["map"]
    except (OSError, SafetensorError, KeyError):
        points = _map(vectors)
        files.write_bytes(path, save({"map": points}))
        return points


def _map(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """t-SNE of vectors (n, D): points (n, 2) in [0, 1]."""
    from sklearn.decomposition import PCA  # a second to import, and seldom needed
    from sklearn.manifold import TSNE

    components = min(COMPONENTS, *vectors.shape)
    reduced = PCA(components, svd_solver="randomized", random_state=0).fit_transform(vectors)
    perplexity = min(NEIGHBOURS, len(vectors) / 4)
    points = TSNE(init="pca", random_state=0, perplexity=perplexity, max_iter=STEPS).fit_transform(reduced)
    low, high = points.min(0), points.max(0)
    scaled: npt.NDArray[np.float32] = ((points - low) / np.maximum(high - low, 1e-12)).astype(np.float32)
    return scaled
