"""The surroundings of the evaluated images among the cached features: similar training images, and a map.

Both depend on the features alone, not on the head: they show what the head had to work with.
"""

import hashlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from torch.nn import functional as F

from stages import files, paths
from stages.training.data import HeadData, SplitData
from stages.training.model import pooled

COUNT = 4  # training images to show beside an evaluated one
FEWEST, MAPPED = 20, 1200  # images of a map: with fewer it shows nothing, with more it takes long and points overlap
COMPONENTS, NEIGHBOURS = 50, 30  # principal components before t-SNE, and its perplexity, as in van der Maaten's paper
STEPS = 500  # of t-SNE: 1,000 take half as long again and bring no more neighbours of one class (Caltech-101)


class Surroundings(NamedTuple):
    """What lies near N images.

    Attributes:
        nearest: (N, 4) int64 positions in the index, the most similar training image first.
        vectors: (N, D) float32, of length 1, around the mean of the training images.
    """

    nearest: torch.Tensor
    vectors: torch.Tensor


def find(data: HeadData, judged: str) -> Surroundings | None:
    """The surroundings of the N images of a split; None if the cache holds pixels, or without images.

    Args:
        data: the features of train and of the split.
        judged: the name of the split.
    """
    train, split = data.splits["train"], data.splits[judged]
    if train.pixels is not None or not len(split.y):
        return None
    train_vectors, vectors = _vectors(train), _vectors(split)
    centre = train_vectors.mean(0)
    train_vectors, vectors = F.normalize(train_vectors - centre), F.normalize(vectors - centre)
    rows = torch.tensor(train.index_positions)
    count = min(COUNT, len(rows))
    batches = vectors.split(256)  # type: ignore[no-untyped-call]
    nearest = torch.cat([rows[(batch @ train_vectors.T).topk(count).indices.cpu()] for batch in batches])
    return Surroundings(nearest, vectors)


def arrays(around: Surroundings | None) -> dict[str, npt.NDArray[np.float32] | npt.NDArray[np.int64]]:
    """What the page shows of the surroundings of the N judged images; empty without any.

    Returns:
        `nearest` (N, 4). With 20 images or more also `mapped` (n,): positions among the N, evenly spread, and `map`
        (n, 2): their points, in [0, 1].
    """
    if around is None:
        return {}
    nearest, vectors = around.nearest.numpy(), around.vectors
    if len(vectors) < FEWEST:
        return {"nearest": nearest}
    mapped = np.linspace(0, len(vectors) - 1, min(MAPPED, len(vectors))).round().astype(np.int64)
    return {"nearest": nearest, "mapped": mapped, "map": _cached_map(vectors.cpu().numpy()[mapped])}


def _vectors(split: SplitData) -> torch.Tensor:
    """(N, D) float32: the evaluation view of each image, maps averaged over positions."""
    return torch.cat([pooled(batch) for batch in split.batches(0)])


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
