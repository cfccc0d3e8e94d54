"""Ridge regression on one-hot labels in closed form: the instant baseline of every run."""

from bisect import bisect_left

import torch
from torch.nn import functional as F

from stages.params import Params
from stages.training.data import HeadData
from stages.training.history import Epoch
from stages.training.model import Standardize, TrainResult, assemble, embed, knobs
from stages.training.rest import build
from stages.training.tasks import ClassificationTask

STRENGTHS = tuple(10.0**power for power in range(-4, 5))  # λ, as a multiple of the number of rows
SCALES = tuple(10 ** (step / 20) for step in range(61))  # 1 to 1,000: what turns regression values into logits


def fit(data: HeadData, params: Params, device: torch.device) -> TrainResult:
    """Solves for every strength and keeps the one with the best validation accuracy (ties: the lower cross-entropy).

    Every view of a train image is a row.

    With X standardised (N, D) and Y one-hot minus class frequencies (N, C), W = (XᵀX + λN I)⁻¹ XᵀY; where N < D the
    same W is Xᵀ (XXᵀ + λN I)⁻¹ Y, which is smaller to solve. Regression values are no logits: one scale for all, chosen
    on validation by cross-entropy, makes them so.
    """
    train, val = (data.splits[name].to(device) for name in ("train", "val"))
    shaped = knobs(params, data, device)
    rest = build(data.provenance, params.tap, params.weights)
    module = assemble("ridge", data.shape, len(data.classes), shaped, rest).to(device)
    standardize, linear = module.standardize, module.head
    assert isinstance(linear, torch.nn.Linear) and isinstance(standardize, Standardize)
    vectors, labels = embed(module, train).flatten(0, 1), train.y.repeat_interleave(train.x.shape[1])
    x = standardize.fit([vectors])(vectors).double()
    unseen = standardize(embed(module, val)[:, 0]).double()
    frequencies = torch.bincount(labels, minlength=len(data.classes)).double() / len(labels)
    y = F.one_hot(labels, len(data.classes)).double() - frequencies
    evaluate = ClassificationTask(params, None).evaluate
    found: list[tuple[float, float, float, float]] = []
    states: list[dict[str, torch.Tensor]] = []
    for strength, weights in zip(STRENGTHS, _solve(x, y), strict=True):
        scale, loss = _best_scale(unseen @ weights + frequencies, val.y)
        with torch.no_grad():
            linear.weight.copy_((scale * weights.T).float())
            linear.bias.copy_((scale * frequencies).float())
        found.append((-(evaluate(module, val).accuracy or 0.0), loss, strength, scale))
        states.append({name: tensor.clone() for name, tensor in module.state_dict().items()})
    best = min(range(len(found)), key=found.__getitem__)
    module.load_state_dict(states[best])
    module.requires_grad_(False)
    trained, judged = evaluate(module, train), evaluate(module, val)
    history = [Epoch(1, 1, None, trained.loss, judged.loss, trained.accuracy, judged.accuracy)]
    module.eval()
    notes = {"strength": found[best][2], "scale": found[best][3]}
    return TrainResult(module, history, 1, notes, shaped, sum(parameter.numel() for parameter in linear.parameters()))


def _solve(x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
    """W (D, C) for every strength, from one Gram matrix and a Cholesky factor each."""
    rows, columns = x.shape
    dual = rows < columns
    gram = x @ x.T if dual else x.T @ x
    target = y if dual else x.T @ y
    identity = torch.eye(len(gram), dtype=x.dtype, device=x.device)
    solved = []
    for strength in STRENGTHS:
        factor = torch.linalg.cholesky(gram + strength * rows * identity)
        solution = torch.cholesky_solve(target, factor)
        solved.append(x.T @ solution if dual else solution)
    return solved


def _best_scale(values: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """The scale with the lowest cross-entropy, which is convex in it, and that cross-entropy."""

    def loss(step: int) -> float:
        return float(F.cross_entropy(SCALES[step] * values, labels))

    best = bisect_left(range(len(SCALES) - 1), True, key=lambda step: loss(step + 1) >= loss(step))
    return SCALES[best], loss(best)
