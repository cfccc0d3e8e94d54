"""Heads that are solved at once, without epochs: validation chooses among the solutions of the head."""

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

import torch

from stages.heads.contract import ClosedFormHead, LabelledVectors, Moments, Solution, VectorBlocks, module_of
from stages.heads.registry import HEADS
from stages.params import Params
from stages.training.data import HeadData, SplitData
from stages.training.history import Epoch, choose
from stages.training.mapped import MappedFeatures
from stages.training.model import HeadModel, TrainResult, assemble, calibrate, embed, stored_knobs
from stages.training.normalization import FeatureNormalization
from stages.training.rest import build
from stages.training.tasks import ClassificationTask, MultilabelTask


class Normalized(NamedTuple):
    """What heads share that normalise alike.

    Attributes:
        statistics: the state of the normalisation.
        train: every view of the train images.
        val: the evaluation views of the validation images.
    """

    statistics: Mapping[str, torch.Tensor]
    train: Moments
    val: Moments


def fit(
    head: str,
    data: HeadData,
    *,
    params: Params,
    device: torch.device,
    shared: MutableMapping[str, Normalized] | None = None,
) -> TrainResult:
    """The solution that validation chooses, see `history.choose`.

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
    known, streams = shared.get(params.normalize), HEADS[head].streams and not data.multilabel
    if known is None or not (streams or isinstance(known.train, LabelledVectors)):
        known = shared[params.normalize] = normalized(model, train, val, streams=streams)
    statistics, train_vectors, val_vectors = known
    model.standardize.load_state_dict(statistics)
    task = MultilabelTask(params, None) if data.multilabel else ClassificationTask(params, None)
    front = list[_Solved]()
    for solution in module.solutions(model.head, train_vectors, val_vectors):
        calibrate(model, val)
        scores = task.evaluate(model, val)
        exact = scores.loss if solution.val_loss is None else solution.val_loss
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        front = undominated(front, _Solved(scores.choice, exact, solution, state))
    best = front[choose([(solved.score, solved.loss) for solved in front])]
    knobs |= best.solution.options
    if best.solution.options:
        model = assemble(head, data.shape, classes=len(data.classes), knobs=knobs, rest=rest).to(device)
    model.load_state_dict(best.state)
    train_scores = task.evaluate(model, train)
    row = Epoch(1, 1, None, train_scores.loss, best.loss, train_scores.accuracy, best.score)
    if data.multilabel:
        row = replace(row, val_accuracy=None, val_map=best.score)
    return _result(model, [row], best.solution, knobs)


def refit(head: str, data: HeadData, *, params: Params, device: torch.device, chosen: TrainResult) -> TrainResult:
    """Solves again, on train and val together, with the settings that val has chosen.

    Args:
        head: its name.
        data: train and val are read.
        params: `tap`, `weights`, `normalize` and the knobs of the head.
        device: where to solve.
        chosen: what `fit` gave; the row of its history stays.
    """
    module, knobs = cast("ClosedFormHead", module_of(head)), dict(chosen.knobs)
    both = data.splits["train"].join(data.splits["val"]).to(device)
    rest = build(data.provenance, params.tap, params.weights)
    model = assemble(head, data.shape, classes=len(data.classes), knobs=knobs, rest=rest).to(device)
    streams = HEADS[head].streams and not data.multilabel
    solution = module.solve(model.head, normalized(model, both, both, streams=streams).train, chosen.notes)
    return _result(model, chosen.history, solution, knobs | dict(solution.options))


class _Solved(NamedTuple):
    """A solution with its score (accuracy, or mAP) and loss on validation, and the state of the model that it gives."""

    score: float
    loss: float
    solution: Solution
    state: Mapping[str, torch.Tensor]


def undominated(front: list[_Solved], candidate: _Solved) -> list[_Solved]:
    """The solutions than which none is at least as good in both scores; of equal ones the first."""
    if any(solved.score >= candidate.score and solved.loss <= candidate.loss for solved in front):
        return front
    beaten = [solved.score <= candidate.score and solved.loss >= candidate.loss for solved in front]
    return [solved for solved, is_beaten in zip(front, beaten, strict=True) if not is_beaten] + [candidate]


def _result(model: HeadModel, history: list[Epoch], solution: Solution, knobs: dict[str, Any]) -> TrainResult:
    model.eval().requires_grad_(False)
    trained = sum(parameter.numel() for parameter in model.head.parameters())
    return TrainResult(model, history, 1, dict(solution.notes), knobs, trained)


def normalized(model: HeadModel, train: SplitData, val: SplitData, *, streams: bool = False) -> Normalized:
    """Fits the normalisation of a model on train, and the normalised vectors of both splits.

    Args:
        model: with the normalisation.
        train: the split that it is fitted on.
        val: another one.
        streams: whether features on the disk stay there, as the head reads them block by block.
    """
    normalize = model.standardize
    assert isinstance(normalize, FeatureNormalization)
    if streams and isinstance(train.x, MappedFeatures):
        model.fit_normalization(train)
        views = range(train.x.shape[1])
        return Normalized(normalize.state_dict(), _blocks(model, train, views), _blocks(model, val, [0]))
    vectors = embed(model, train).flatten(0, 1)
    normalize.fit([vectors])
    train_vectors = _labelled(normalize(vectors), train.y.repeat_interleave(train.x.shape[1], 0))
    return Normalized(normalize.state_dict(), train_vectors, _labelled(normalize(embed(model, val)[:, 0]), val.y))


def _blocks(model: HeadModel, split: SplitData, views: Sequence[int]) -> Moments:
    """Some views of the images of a split, to be read block by block."""

    @torch.inference_mode()
    def read() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        model.eval()
        for view in views:
            for images, batch in zip(split.image_batches(), split.batches(view), strict=True):
                yield model.standardize(model.features(batch)), split.y[images]

    columns = next(iter(read()))[0].shape[1]
    return VectorBlocks(read, (len(split.y) * len(views), columns), split.y.repeat(len(views)))


def _labelled(x: torch.Tensor, labels: torch.Tensor) -> LabelledVectors:
    """Vectors to solve for; on the CPU where the device has no float64."""
    return LabelledVectors(x.cpu(), labels.cpu()) if x.device.type == "mps" else LabelledVectors(x, labels)
