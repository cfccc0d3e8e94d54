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

CHOOSING = 1 << 26  # numbers of vectors and scores of the val images that choose a solution; of more, some are left out


class Normalized(NamedTuple):
    """What heads share that normalise alike.

    Attributes:
        statistics: the state of the normalisation.
        train: every view of the train images.
        val: the evaluation views of the validation images that choose.
    """

    statistics: Mapping[str, torch.Tensor]
    train: Moments
    val: LabelledVectors


def fit(
    head: str,
    data: HeadData,
    *,
    params: Params,
    device: torch.device,
    shared: MutableMapping[str, Normalized] | None = None,
) -> TrainResult:
    """The solution that validation chooses, see `history.choose`.

    Every view of a train image is a row; the learning rate and the seed do not matter. Of more validation images than
    `choosing` tells, evenly spread ones choose; the scores are those of all.

    Args:
        head: its name.
        data: with vectors, or maps to average over positions; train and val are read.
        params: `tap`, `weights`, `normalize` and the knobs of the head.
        device: where to solve.
        shared: by `normalize`, what earlier heads on the same data have computed; this one adds to it.
    """
    shared = {} if shared is None else shared
    module = cast("ClosedFormHead", module_of(head))
    train, all_val = (data.splits[name].to(device) for name in ("train", "val"))
    val = _evenly(all_val, choosing(len(all_val.y), columns(data.shape), len(data.classes)))
    knobs = stored_knobs(head, params=params, data=data, device=device)
    rest = build(data.provenance, params.tap, params.weights)
    model = assemble(head, data.shape, classes=len(data.classes), knobs=knobs, rest=rest).to(device)
    known, streams = shared.get(params.normalize), HEADS[head].streams and not data.multilabel
    if known is None or not (streams or isinstance(known.train, LabelledVectors)):
        statistics, train_vectors = normalized(model, train, streams=streams)
        known = shared[params.normalize] = Normalized(statistics, train_vectors, _evaluation_vectors(model, val))
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
    score, loss, solution = best.score, best.loss, best.solution
    if len(val.y) < len(all_val.y):
        calibrate(model, all_val)
        scores = task.evaluate(model, all_val)
        score, loss = scores.choice, scores.loss
        solution = solution._replace(notes={**solution.notes, "val_images_that_chose": len(val.y)})
    train_scores = task.evaluate(model, train)
    row = Epoch(1, 1, None, train_scores.loss, loss, train_scores.accuracy, score)
    if data.multilabel:
        row = replace(row, val_accuracy=None, val_map=score)
    return _result(model, [row], solution, knobs)


def choosing(images: int, columns: int, classes: int) -> int:
    """How many of so many validation images choose: their vectors and scores are held in float64, for each solution.

    Args:
        images: of validation.
        columns: numbers in a vector.
        classes: scores of an image.
    """
    return min(images, max(1, CHOOSING // (columns + classes)))


def columns(shape: Sequence[int]) -> int:
    """How many numbers the vector of an image has, from features (D,), tokens (T, D) or maps (D, H, W)."""
    return shape[-1] if len(shape) == 2 else shape[0]


def _evenly(split: SplitData, count: int) -> SplitData:
    """So many images of a split, evenly spread; vectors on the disk come into memory, as each solution reads them."""
    images = torch.linspace(0, len(split.y) - 1, count, dtype=torch.float64).round().long()
    some = split if count == len(split.y) else split.some(images)
    if isinstance(some.x, MappedFeatures) and some.x.ndim == 3:
        return replace(some, x=some.x[torch.arange(count), 0][:, None])
    return some


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
    solution = module.solve(model.head, normalized(model, both, streams=streams)[1], chosen.notes)
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


def normalized(
    model: HeadModel, train: SplitData, *, streams: bool = False
) -> tuple[Mapping[str, torch.Tensor], Moments]:
    """Fits the normalisation of a model on train; its state, and the normalised vectors.

    Args:
        model: with the normalisation.
        train: the split that it is fitted on.
        streams: whether features on the disk stay there, as the head reads them block by block.
    """
    normalize = model.standardize
    assert isinstance(normalize, FeatureNormalization)
    if streams and isinstance(train.x, MappedFeatures):
        model.fit_normalization(train)
        return normalize.state_dict(), _blocks(model, train)
    vectors = embed(model, train).flatten(0, 1)
    normalize.fit([vectors])
    return normalize.state_dict(), _labelled(normalize(vectors), train.y.repeat_interleave(train.x.shape[1], 0))


@torch.inference_mode()
def _evaluation_vectors(model: HeadModel, split: SplitData) -> LabelledVectors:
    """The normalised evaluation view of each image."""
    model.eval()
    vectors = torch.cat([model.standardize(model.features(batch)) for batch in split.batches()])
    return _labelled(vectors, split.y)


def _blocks(model: HeadModel, split: SplitData) -> Moments:
    """Every view of the images of a split, to be read block by block."""
    views = range(split.x.shape[1])

    @torch.inference_mode()
    def read() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        model.eval()
        for view in views:
            for images, batch in zip(split.image_batches(), split.batches(view), strict=True):
                yield model.standardize(model.features(batch)), split.y[images]

    numbers = next(iter(read()))[0].shape[1]
    return VectorBlocks(read, (len(split.y) * len(views), numbers), split.y.repeat(len(views)))


def _labelled(x: torch.Tensor, labels: torch.Tensor) -> LabelledVectors:
    """Vectors to solve for; on the CPU where the device has no float64."""
    return LabelledVectors(x.cpu(), labels.cpu()) if x.device.type == "mps" else LabelledVectors(x, labels)
