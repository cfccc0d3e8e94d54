"""`knn`: the labels of the most similar training images vote; validation chooses how many of them.

Similarity is the cosine of standardised features, and a vote weighs exp(similarity / 0.07): the k-NN classifier of
Wu et al. 2018 (arXiv:1805.01978, §3.4) with the temperature that it and DINO use.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from stages.heads.contract import LabelledVectors, Solution
from stages.heads.options import KnnOptions

TEMPERATURE = 0.07
COUNTS = (1, 3, 5, 10, 20, 50, 100, 200)  # the numbers of neighbours to try
UNIFORM = 1e-3  # the share of the votes that is spread over all classes, so that no class has probability 0


class NearestNeighbours(nn.Module):
    """Training vectors and their labels.

    Args:
        rows: the number of training vectors.
        features: the length of a vector.
        classes: how many.
        k: how many neighbours vote.
        multilabel: each class has a vote of its own, of the neighbours in which it is known.
    """

    vectors: torch.Tensor
    labels: torch.Tensor

    def __init__(self, rows: int, features: int, classes: int, k: int, *, multilabel: bool = False) -> None:
        super().__init__()
        self.classes, self.k = classes, k
        self.register_buffer("vectors", torch.zeros(rows, features, dtype=torch.float16))
        shape, kind = ((rows, classes), torch.int8) if multilabel else ((rows,), torch.long)
        self.register_buffer("labels", torch.zeros(shape, dtype=kind))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes) of vectors (N, D): the logarithm of the share of the votes, or of their odds."""
        similarity, nearest = (F.normalize(x) @ self.vectors.T.to(x.dtype)).topk(min(self.k, len(self.vectors)))
        votes = (similarity.float() / TEMPERATURE).softmax(1)  # under autocast the product is in half precision
        if self.labels.ndim == 2:
            labels, votes = self.labels[nearest], votes[:, :, None]  # (N, k, classes)
            yes, no = (((labels == answer) * votes).sum(1) for answer in (1, 0))
            return ((yes + UNIFORM) / (no + UNIFORM)).log()
        shares = torch.zeros(x.shape[0], self.classes, device=x.device).scatter_add_(1, self.labels[nearest], votes)
        return ((1 - UNIFORM) * shares + UNIFORM / self.classes).log()


def build(shape: Sequence[int], classes: int, options: KnnOptions) -> nn.Module:
    """(N, D) to logits (N, classes), with `rows` training vectors of which `k` vote."""
    return NearestNeighbours(options.rows, shape[0], classes, options.k, multilabel=options.multilabel)


def solutions(layers: nn.Module, train: LabelledVectors, val: LabelledVectors) -> Iterator[Solution]:
    """One solution for each of COUNTS: the training vectors with their labels, and how many of them vote."""
    for k in [count for count in COUNTS if count <= len(train.x)]:
        yield solve(layers, train, {"k": k})


def solve(layers: nn.Module, train: LabelledVectors, notes: Mapping[str, float]) -> Solution:
    """The solution in which `k` neighbours vote."""
    assert isinstance(layers, NearestNeighbours)
    layers.vectors, layers.labels = F.normalize(train.x).to(layers.vectors), train.labels.to(layers.labels)
    layers.k = int(notes["k"])
    return Solution({"k": layers.k}, options={"rows": len(train.x), "k": layers.k})
