"""Heads that are solved at once, without epochs: validation chooses among the solutions of the head."""

from collections.abc import Mapping, MutableMapping
from typing import NamedTuple, cast

import torch

from stages.heads.contract import ClosedFormHead, LabelledVectors, module_of
from stages.params import Params
from stages.training.data import HeadData, SplitData
from stages.training.history import Epoch
from stages.training.model import HeadModel, TrainResult, assemble, embed, stored_knobs
from stages.training.normalization import FeatureNormalization
from stages.training.rest import build
from stages.training.tasks import ClassificationTask


class Normalized(NamedTuple):
    """What heads share that normalise alike.

    Attributes:
        statistics: the state of the normalisation.
        train: every view of the train images.
        val: the evaluation views of the validation images.
    """

    statistics: Mapping[str, torch.Tensor]
    train: LabelledVectors
    val: LabelledVectors


def fit(
    head: str,
    data: HeadData,
    *,
    params: Params,
    device: torch.device,
    shared: MutableMapping[str, Normalized] | None = None,
) -> TrainResult:
    """The solution with the best validation accuracy; of equally good ones the one with the lower cross-entropy.

    Every view of a train image is a row; the learning rate and the seed do not matter.

    Args:
        head: its name.
        data: with vectors, or maps to average over positions; train and val are read.
        params: `tap`, `weights`, `normalize` and the knobs of the head.
        device: where to solve.
        shared: by `normalize`, what earlier heads on the same data have computed; this one adds to it.
    """
    shared = {} if shared is None else shared
    module = cast("ClosedFormHead", module_of(head))
    train, val = (data.splits[name].to(device) for name in ("train", "val"))
    knobs = stored_knobs(head, params=params, data=data, device=device)
    rest = build(data.provenance, params.tap, params.weights)
    model = assemble(head, data.shape, classes=len(data.classes), knobs=knobs, rest=rest).to(device)
    if params.normalize not in shared:
        shared[params.normalize] = normalized(model, train, val)
    statistics, train_vectors, val_vectors = shared[params.normalize]
    model.standardize.load_state_dict(statistics)
    task = ClassificationTask(params, None)
    best_key = None
    for solution in module.solutions(model.head, train_vectors, val_vectors):
        scores = task.evaluate(model, val)
        key = -(scores.accuracy or 0.0), scores.loss if solution.val_loss is None else solution.val_loss
        if best_key is None or key < best_key:
            best_key, best, best_scores = key, solution, scores
            state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    knobs |= best.options
    if best.options:
        model = assemble(head, data.shape, classes=len(data.classes), knobs=knobs, rest=rest).to(device)
    model.load_state_dict(state)
    model.eval().requires_grad_(False)
    train_scores = task.evaluate(model, train)
    row = Epoch(1, 1, None, train_scores.loss, best_scores.loss, train_scores.accuracy, best_scores.accuracy)
    trained = sum(parameter.numel() for parameter in model.head.parameters())
    return TrainResult(model, [row], 1, dict(best.notes), knobs, trained)


def normalized(model: HeadModel, train: SplitData, val: SplitData) -> Normalized:
    """Fits the normalisation of a model on train, and the normalised vectors of both splits."""
    normalize = model.standardize
    assert isinstance(normalize, FeatureNormalization)
    vectors = embed(model, train).flatten(0, 1)
    normalize.fit([vectors])
    train_vectors = LabelledVectors(normalize(vectors), train.y.repeat_interleave(train.x.shape[1]))
    return Normalized(normalize.state_dict(), train_vectors, LabelledVectors(normalize(embed(model, val)[:, 0]), val.y))
