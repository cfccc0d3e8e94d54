"""What lies near a judged image among the cached features: training images like it, and a map of all of them.

Both are of the features and know nothing of the head: they show what it had to work with.
"""

import hashlib

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from torch.nn import functional as F

from stages import files, paths
from stages.training.data import HeadData, SplitData
from stages.training.model import pooled

COUNT = 4  # training images to show beside a judged one
FEWEST, MAPPED = 20, 1200  # images of a map: fewer show nothing, more take long, and their points lie on each other
COMPONENTS, NEIGHBOURS = 50, 30  # principal components before t-SNE, and its perplexity, as van der Maaten has them
STEPS = 500  # of t-SNE: after 1,000, half as long again, no more neighbours on Caltech-101 are of one class


def find(found: HeadData, judged: str) -> dict[str, npt.NDArray[np.float32] | npt.NDArray[np.int64]]:
    """The surroundings of the images of a split; nothing where the cache holds pixels.

    Returns:
        `nearest` (N, 4): rows of the index, the most similar training image first; and, of 20 images or more, `mapped`
        (n,): positions in the split, evenly spread; `map` (n, 2): where they lie, in [0, 1].
    """
    train, split = found.splits["train"], found.splits[judged]
    if train.pixels is not None or not len(split.y):
        return {}
    known, asked = _vectors(train), _vectors(split)
    centre = known.mean(0)
    known, asked = F.normalize(known - centre), F.normalize(asked - centre)
    rows = torch.tensor(train.index_positions)
    count = min(COUNT, len(rows))
    nearest = torch.cat([rows[(some @ known.T).topk(count).indices.cpu()] for some in asked.split(256)])  # type: ignore[no-untyped-call]
    if len(asked) < FEWEST:
        return {"nearest": nearest.numpy()}
    mapped = np.linspace(0, len(asked) - 1, min(MAPPED, len(asked))).round().astype(np.int64)
    return {"nearest": nearest.numpy(), "mapped": mapped, "map": _kept_map(asked.cpu().numpy()[mapped])}


def _vectors(split: SplitData) -> torch.Tensor:
    """(N, D) float32: evaluation views, maps averaged over positions."""
    return torch.cat([pooled(batch) for batch in split.batches(0)])


def _kept_map(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The map of these vectors; it takes seconds, so it is kept for the next head on the same features."""
    of = hashlib.sha256(vectors.tobytes() + repr((COMPONENTS, NEIGHBOURS, STEPS)).encode()).hexdigest()
    path = paths.maps() / f"{of}.safetensors"
    try:
        return load_file(path)["map"]
    except (OSError, SafetensorError, KeyError):
        drawn = _map(vectors)
        files.write_bytes(path, save({"map": drawn}))
        return drawn


def _map(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """t-SNE (n, 2), in [0, 1]."""
    from sklearn.decomposition import PCA  # a second to import, and seldom needed
    from sklearn.manifold import TSNE

    components = min(COMPONENTS, *vectors.shape)
    reduced = PCA(components, svd_solver="randomized", random_state=0).fit_transform(vectors)
    perplexity = min(NEIGHBOURS, len(vectors) / 4)
    points = TSNE(init="pca", random_state=0, perplexity=perplexity, max_iter=STEPS).fit_transform(reduced)
    low, high = points.min(0), points.max(0)
    scaled: npt.NDArray[np.float32] = ((points - low) / np.maximum(high - low, 1e-12)).astype(np.float32)
    return scaled
