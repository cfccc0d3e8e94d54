"""Training of the head `knn`: the training vectors are its weights, and validation chooses how many neighbours vote."""

import torch
from torch.nn import functional as F

from stages.heads.knn import Neighbours
from stages.params import Params
from stages.training.data import HeadData
from stages.training.history import Epoch
from stages.training.model import Standardize, TrainResult, assemble, embed, knobs
from stages.training.rest import build
from stages.training.tasks import ClassificationTask

COUNTS = (1, 3, 5, 10, 20, 50, 100, 200)  # of neighbours that are tried


def fit(data: HeadData, params: Params, device: torch.device) -> TrainResult:
    """Keeps the vectors of all views of the train split, and the number of neighbours with the best val accuracy.

    Ties go to the lower cross-entropy. The learning rate and the seed play no part.
    """
    train, val = (data.splits[name].to(device) for name in ("train", "val"))
    images, views = train.x.shape[:2]
    shaped = knobs(params, data, device) | {"rows": images * views, "k": 1}
    rest = build(data.provenance, params.tap, params.weights)
    module = assemble("knn", data.shape, len(data.classes), shaped, rest).to(device)
    vectors, neighbours, standardize = embed(module, train).flatten(0, 1), module.head, module.standardize
    assert isinstance(neighbours, Neighbours) and isinstance(standardize, Standardize)
    standardize.fit([vectors])
    neighbours.vectors.copy_(F.normalize(standardize(vectors)))
    neighbours.labels.copy_(train.y.repeat_interleave(views))
    evaluate, found = ClassificationTask(params, None).evaluate, []
    for neighbours.k in [k for k in COUNTS if k <= images * views]:
        judged = evaluate(module, val)
        found.append((-(judged.accuracy or 0.0), judged.loss, neighbours.k))
    accuracy, loss, neighbours.k = min(found)
    trained = evaluate(module, train)
    history = [Epoch(1, 1, None, trained.loss, loss, trained.accuracy, -accuracy)]
    return TrainResult(module.eval(), history, 1, {"k": neighbours.k}, shaped | {"k": neighbours.k})
