"""`knn`: the labels of the most similar training images vote; how many are asked is chosen on validation.

Similarity is the cosine of standardised features, and a vote weighs exp(similarity / 0.07): the k-NN classifier of
Wu et al. 2018 (arXiv:1805.01978, §3.4) with the temperature that it and DINO use.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from stages.params import Params
from stages.training.data import Data
from stages.training.history import Epoch
from stages.training.model import Standardize, TrainResult, assemble, embed, knobs
from stages.training.rest import build as build_rest
from stages.training.tasks import Labels

TEMPERATURE = 0.07
NEIGHBOURS = (1, 3, 5, 10, 20, 50, 100, 200)
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


def fit(data: Data, params: Params, device: torch.device) -> TrainResult:
    """Keeps the vectors of all views of the train part, and the number of neighbours with the best val accuracy.

    Ties go to the lower cross-entropy. The learning rate and the seed play no part.
    """
    train, val = (data.parts[name].to(device) for name in ("train", "val"))
    images, views = train.x.shape[:2]
    shaped = knobs(params, data, device) | {"rows": images * views, "k": 1}
    rest = build_rest(data.provenance, params.tap, params.weights)
    module = assemble("knn", data.shape, len(data.classes), shaped, rest).to(device)
    vectors, neighbours, standardize = embed(module, train).flatten(0, 1), module.head, module.standardize
    assert isinstance(neighbours, Neighbours) and isinstance(standardize, Standardize)
    standardize.fit([vectors])
    neighbours.vectors.copy_(F.normalize(standardize(vectors)))
    neighbours.labels.copy_(train.y.repeat_interleave(views))
    judge, found = Labels(params, None).judge, []
    for neighbours.k in [k for k in NEIGHBOURS if k <= images * views]:
        judged = judge(module, val)
        found.append((-(judged.accuracy or 0.0), judged.loss, neighbours.k))
    accuracy, loss, neighbours.k = min(found)
    trained = judge(module, train)
    history = [Epoch(1, 1, None, trained.loss, loss, trained.accuracy, -accuracy)]
    return TrainResult(module.eval(), history, 1, {"k": neighbours.k}, shaped | {"k": neighbours.k})
