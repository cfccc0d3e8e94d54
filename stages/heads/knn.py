"""`knn`: the labels of the most similar training images vote.

Similarity is the cosine of standardised features, and a vote weighs exp(similarity / 0.07): the k-NN classifier of
Wu et al. 2018 (arXiv:1805.01978, §3.4) with the temperature that it and DINO use.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

TEMPERATURE = 0.07
UNIFORM = 1e-3  # the share of the votes that all classes have: no class gets probability 0


class Neighbours(nn.Module):
    """Training vectors and their labels.

    Args:
        rows: how many training vectors.
        features: numbers a vector.
        classes: how many.
        k: neighbours asked.
    """

    vectors: torch.Tensor
    labels: torch.Tensor

    def __init__(self, rows: int, features: int, classes: int, k: int) -> None:
        super().__init__()
        self.classes, self.k = classes, k
        self.register_buffer("vectors", torch.zeros(rows, features, dtype=torch.float16))
        self.register_buffer("labels", torch.zeros(rows, dtype=torch.long))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes) of vectors (N, D): the logarithm of the share of the votes."""
        near, which = (F.normalize(x) @ self.vectors.T.to(x.dtype)).topk(min(self.k, len(self.vectors)))
        votes = (near / TEMPERATURE).softmax(1)
        shares = torch.zeros(x.shape[0], self.classes, device=x.device).scatter_add_(1, self.labels[which], votes)
        return ((1 - UNIFORM) * shares + UNIFORM / self.classes).log()


def build(shape: Sequence[int], classes: int, knobs: Mapping[str, Any]) -> nn.Module:
    """(N, D) to logits (N, classes), with `rows` training vectors of which `k` vote."""
    return Neighbours(knobs["rows"], shape[0], classes, knobs["k"])
