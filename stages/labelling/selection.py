"""Which images to label next: typical ones while there are few labels, then those that the labels leave in doubt.

With few labels per class no prediction is worth asking, so images are clustered, labelled ones among them, and the
largest clusters without a label are asked for, by the image at their centre (Hacohen, Dekel and Weinshall 2022, on
low budgets: https://arxiv.org/abs/2202.02794). From then on the images with the smallest margin between the best class
and the second are asked for, and a clustering weighted by doubt keeps them different from each other (Zhdanov 2019:
https://arxiv.org/abs/1901.05954).
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from stages.reviewing import labels as regression
from stages.reviewing.vectors import Vectors

FEW = 4  # labels per known class, below which clusters choose
DOUBTFUL = 4  # times as many images as are asked for: the most doubtful ones, among which clusters choose
DIRECTIONS = 128  # of the largest variance: in fewer dimensions distances tell more, and clustering is faster
CLUSTERED = 20_000  # images that are clustered; of more a random part
ITERATIONS = 50
Positions = npt.NDArray[np.int64]
Labels = npt.NDArray[np.int64]


def choose(pool: Vectors, labelled: Vectors, labels: Labels, *, classes: int, number: int, seed: int = 0) -> Positions:
    """Positions in the pool of the images to label next, the most useful first; at most `number`.

    Args:
        pool: the vectors of images without a label.
        labelled: of those with one, with the same mean and scale.
        labels: (n,) their classes, from 0.
        classes: how many there are.
        number: of images to choose.
        seed: where clustering starts.
    """
    number = min(number, len(pool))
    if not number:
        return np.empty(0, np.int64)
    if len(labelled) < FEW * len(np.unique(labels)) or len(np.unique(labels)) < 2:
        return _typical(pool, labelled, number, seed)
    return _doubtful(pool, regression.predict(labelled, labels, classes, pool), number, seed)


def margins(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(k,): how far the best class is ahead of the second, from values (k, C)."""
    best = np.partition(values, -2, 1)[:, -2:]
    margin: npt.NDArray[np.float32] = best[:, 1] - best[:, 0]
    return margin


def _typical(pool: Vectors, labelled: Vectors, number: int, seed: int) -> Positions:
    """The images at the centres of the largest clusters in which nothing is labelled."""
    asked = np.arange(len(pool))
    if len(pool) > CLUSTERED:
        asked = np.sort(np.random.default_rng(seed).choice(len(pool), max(CLUSTERED, number), replace=False))
    directions = _directions(pool)
    points = np.concatenate([_points(pool, directions)[asked], _points(labelled, directions)])
    cluster, distance = _clusters(points, min(number + len(labelled), len(points)), seed=seed)
    cluster_of, distance = cluster[: len(asked)], distance[: len(asked)]
    order = np.lexsort((distance, cluster_of))
    first = order[np.r_[True, np.diff(cluster_of[order]) > 0]]  # of each cluster the image nearest to its centre
    sizes, taken = np.bincount(cluster), np.isin(cluster_of[first], cluster[len(asked) :])
    ranked = first[np.lexsort((-sizes[cluster_of[first]], taken))]  # clusters with a label only if others run out
    rest = order[~np.isin(order, first)]
    chosen: Positions = asked[np.concatenate([ranked, rest])[:number]]
    return chosen


def _doubtful(pool: Vectors, values: npt.NDArray[np.float32], number: int, seed: int) -> Positions:
    """Images with a small margin, one from each of as many clusters of such images."""
    margin = margins(values)
    asked = np.argsort(margin, kind="stable")[: DOUBTFUL * number]
    points = _points(replace(pool, images=pool.images[asked]), _directions(pool))
    doubt = (1 - margin[asked]).clip(0.01)
    cluster, distance = _clusters(points, number, seed=seed, weights=doubt)
    order = np.lexsort((distance, cluster))
    first = order[np.r_[True, np.diff(cluster[order]) > 0]]
    rest = np.setdiff1d(np.arange(len(asked)), first)  # in the order of their margins
    chosen: Positions = asked[np.concatenate([np.sort(first), rest])[:number]]
    return chosen


def _clusters(
    points: npt.NDArray[np.float32], count: int, *, seed: int, weights: npt.NDArray[np.float32] | None = None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The cluster (n,) of each point (n, d), and its squared distance (n,) from the centre."""
    from sklearn.cluster import KMeans  # a second to import

    fitted = KMeans(count, n_init=1, max_iter=ITERATIONS, random_state=seed).fit(points, sample_weight=weights)
    cluster = fitted.labels_.astype(np.int64)
    return cluster, np.square(points - fitted.cluster_centers_[cluster]).sum(1)


def _directions(vectors: Vectors) -> torch.Tensor:
    """(D, d): the directions of the largest variance."""
    gram = torch.zeros(vectors.width, vectors.width)
    for _, x in vectors.blocks():
        gram += x.T @ x
    directions: torch.Tensor = torch.linalg.eigh(gram.double())[1]
    return directions[:, -DIRECTIONS:].float()


def _points(vectors: Vectors, directions: torch.Tensor) -> npt.NDArray[np.float32]:
    """(n, d): the vectors in these directions, of length 1."""
    blocks = [torch.nn.functional.normalize(x @ directions) for _, x in vectors.blocks()]
    return torch.cat(blocks).numpy() if blocks else np.empty((0, directions.shape[1]), np.float32)
