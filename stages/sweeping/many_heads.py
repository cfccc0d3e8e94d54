"""Many heads at once: heads that share batches and dropout masks are trained as stacks of tensors.

The first layers of all heads see a batch in a single product, (heads · outputs, D) by (D, N), and each head has its own
rate and weight decay in the optimizer. On a CPU the heads are divided into small stacks, which run side by side on one
thread each, so that the cores do not wait for each other at every small operation.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import torch
from torch.nn import functional as F
from torch.optim import lr_scheduler
from tqdm import tqdm

from stages import threads
from stages.heads.optimizers import SGD
from stages.metrics.multilabel import UNKNOWN, stacked_average_precisions
from stages.params import Params
from stages.training import loop, losses, schedules
from stages.training.data import HeadData, SplitData
from stages.training.history import Epoch, score
from stages.training.mapped import MappedFeatures
from stages.training.model import HeadModel, TrainResult, assemble, normalized, stored_knobs

STACKABLE = ("linear", "mlp")  # heads that `_Stack` can train: one linear layer, or two with a ReLU and dropout between
AXES = ("lr", "weight_decay", "dropout", "label_smoothing", "seed")  # the knobs in which heads may differ
MAX_BYTES = 1 << 30  # of the heads in memory at a time; more is not faster
COPIES = 5  # of each parameter: itself, its gradient, two moments and its best value
STACK = 16  # heads in a stack on a CPU: twice as many do not fit into the cache and take a tenth longer each
ROWS = 256  # validation images that are evaluated at a time, so that the logits of a stack stay in the cache


def fit(
    head: str, data: HeadData, *, settings: Sequence[Params], device: torch.device
) -> Iterator[tuple[int, TrainResult | None]]:
    """Trains a head for each of the settings and yields (index in settings, head) as the heads are finished.

    Each head is the one that `loop.fit` gives for its settings, within float tolerance, or None if its loss is not
    finite.

    Args:
        head: one of `STACKABLE`.
        data: with vectors; train and val are read.
        settings: they differ in `AXES` alone, and have `tap: same`.
        device: where to train.
    """
    at_once = _at_once(head, data, settings[0], device)
    order = sorted(range(len(settings)), key=lambda index: _shared(settings[index]))
    for _, group in groupby(order, key=lambda index: _shared(settings[index])):
        indices = list(group)
        for first in range(0, len(indices), at_once):
            chunk = indices[first : first + at_once]
            yield from zip(chunk, _train(head, data, [settings[index] for index in chunk], device), strict=True)


def _shared(params: Params) -> tuple[int, float, float]:
    """What the heads of a stack have in common: the random numbers and the loss."""
    return params.seed, params.dropout, params.label_smoothing


def _at_once(head: str, data: HeadData, params: Params, device: torch.device) -> int:
    """How many heads to hold in memory."""
    with torch.device("meta"):
        layers = assemble(
            head,
            data.shape,
            classes=len(data.classes),
            knobs=stored_knobs(head, params=params, data=data, device=device),
        ).head
    return max(1, MAX_BYTES // (COPIES * 4 * sum(parameter.numel() for parameter in layers.parameters())))


@dataclass
class _Head:
    """A head in training.

    Attributes:
        params: its settings.
        weights: one tensor per parameter, each a view of the stack's tensor; gradients and moments likewise.
        history: without the epoch in which it diverged.
        best: score (the lower the better), epoch and weights.
        plateau: the schedule, stepped once per epoch, for `schedule: plateau`.
    """

    params: Params
    weights: list[torch.Tensor] = field(default_factory=list)
    gradients: list[torch.Tensor] = field(default_factory=list)
    moments: list[list[torch.Tensor]] = field(default_factory=list)
    history: list[Epoch] = field(default_factory=list)
    best: tuple[tuple[float, float], int, list[torch.Tensor]] | None = None
    diverged: bool = False

    def __post_init__(self) -> None:
        rate = SGD([torch.zeros(1)], lr=self.params.learning_rate)
        self.plateau = loop.make_schedule(rate, params=self.params, epochs=self.params.epoch_count, steps=1)

    def lr(self, step: int, steps: int) -> float:
        """The rate of a step, counted from 0 over all epochs; `steps` is the number of steps per epoch."""
        if isinstance(self.plateau, lr_scheduler.ReduceLROnPlateau):
            return float(self.plateau.optimizer.param_groups[0]["lr"])
        return self.params.learning_rate * schedules.factor(
            step, steps=steps, epochs=self.params.epoch_count, params=self.params
        )

    def note(self, epoch: Epoch) -> None:
        """Adds the result of an epoch, unless the loss is no longer finite."""
        self.diverged = not (math.isfinite(epoch.train_loss) and math.isfinite(epoch.val_loss))
        if self.diverged:
            return
        self.history.append(epoch)
        if isinstance(self.plateau, lr_scheduler.ReduceLROnPlateau):
            self.plateau.step(epoch.val_loss)
        epoch_score = score(epoch.val_loss, epoch.val_accuracy, monitor=self.params.monitor, map=epoch.val_map)
        if self.best is None or epoch_score < self.best[0]:
            self.best = epoch_score, epoch.epoch, [weight.clone() for weight in self.weights]

    @property
    def goes_on(self) -> bool:
        """Whether it trains for another epoch."""
        if self.diverged or self.best is None:
            return not self.diverged
        trained = len(self.history)
        return trained < self.params.epoch_count and trained - self.best[1] < self.params.early_stopping_patience


@dataclass(frozen=True)
class _Draw:
    """The random choices of an epoch, the same for all heads.

    Attributes:
        batches: one tensor per step: positions in the train split.
        views: (N,) the view of each image.
        masks: one tensor (hidden, batch) per step: the factors of dropout; None without dropout.
    """

    batches: Sequence[torch.Tensor]
    views: torch.Tensor
    masks: Sequence[torch.Tensor | None]


class _Stack:
    """Heads whose parameters lie in one tensor (heads, …) for each layer's weight and bias.

    Values are (heads, outputs, N), images last: products are fastest in this order, and softmax reads memory in order.
    Gradients are written in place: the page faults of a new tensor of that size cost more than the product itself.
    """

    def __init__(self, settings: Sequence[Params], start: Sequence[torch.Tensor]) -> None:
        self.heads = [_Head(params) for params in settings]
        weights = [tensor.expand(len(settings), *tensor.shape).clone() for tensor in start]
        self._hold(self.heads, weights, [[torch.zeros_like(tensor) for tensor in weights] for _ in range(2)])

    def _hold(self, active: list[_Head], weights: list[torch.Tensor], moments: list[list[torch.Tensor]]) -> None:
        """Keeps stacked tensors, and gives each head its views of them."""
        self.active, self.weights, self.moments = active, weights, moments
        self.gradients = [torch.empty_like(tensor) for tensor in weights]
        for index, head in enumerate(active):
            head.weights, head.gradients, *head.moments = (
                [tensor[index] for tensor in tensors] for tensors in (weights, self.gradients, *moments)
            )

    @torch.no_grad()
    def epoch(
        self, number: int, *, train: SplitData, val: SplitData, draw: _Draw, class_weights: torch.Tensor | None
    ) -> None:
        """Trains all heads for an epoch, evaluates them and drops those that have stopped.

        Args:
            number: of the epoch, counted from 1.
            train: normalised vectors.
            val: normalised vectors.
            draw: the random choices of the epoch.
            class_weights: (C,) or None; (2, C) of several labels.
        """
        rates = [head.lr((number - 1) * len(draw.batches), len(draw.batches)) for head in self.active]
        trained, val_scores = self._train(number, train, draw, class_weights), self._evaluate(val)
        for head, lr, *row in zip(
            self.active, rates, *(values.tolist() for values in (*trained, *val_scores)), strict=True
        ):
            train_loss, train_accuracy, val_loss, val_score = row
            if train.y.ndim == 2:
                head.note(Epoch(number, 1, lr, train_loss, val_loss, val_map=val_score))
            else:
                head.note(Epoch(number, 1, lr, train_loss, val_loss, train_accuracy, val_score))
        self._drop_stopped()

    def _train(
        self, number: int, train: SplitData, draw: _Draw, class_weights: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One pass over train; mean loss and accuracy of the batches, each before its step: (active,) each."""
        shared, steps = self.heads[0].params, len(draw.batches)
        loss_sum, hits = torch.zeros(2, len(self.active), device=train.x.device)
        for step, (rows, mask) in enumerate(zip(draw.batches, draw.masks, strict=True)):
            x, labels = train.x[rows, draw.views[rows]], train.y[rows]
            hidden, logits = self._forward(x, mask)
            loss, gradient = losses.stacked(logits, labels, params=shared, weights=class_weights)
            self._backward(x, hidden, mask, gradient)
            self._update((number - 1) * steps + step, steps)
            loss_sum += loss * len(rows)
            hits += _hits(logits, labels) if labels.ndim == 1 else 0
        return loss_sum / len(train.y), hits / len(train.y)

    def _evaluate(self, split: SplitData) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross-entropy and accuracy (mAP of several labels) on the evaluation views of a split, (active,) each."""
        if split.y.ndim == 2:
            return self._evaluate_labels(split)
        loss_sum, hits = torch.zeros(2, len(self.active), device=split.x.device)
        for x, labels in zip(split.evaluation_vectors.split(ROWS), split.y.split(ROWS), strict=True):  # type: ignore[no-untyped-call]
            _, logits = self._forward(x, None)
            loss_sum += F.cross_entropy(logits, labels.expand(len(logits), -1), reduction="none").sum(1)
            hits += _hits(logits, labels)
        return loss_sum / len(split.y), hits / len(split.y)

    def _evaluate_labels(self, split: SplitData) -> tuple[torch.Tensor, torch.Tensor]:
        """Binary cross-entropy and mAP of several labels, (active,) each."""
        blocks = split.evaluation_vectors.split(ROWS)  # type: ignore[no-untyped-call]
        logits, known = torch.cat([self._forward(x, None)[1] for x in blocks], 2), (split.y != UNKNOWN).T
        targets = (split.y == 1).T.to(logits.dtype).expand_as(logits)
        losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        loss = (losses * known).sum((1, 2)) / known.sum().clamp(min=1)
        return loss, stacked_average_precisions(logits, split.y).nanmean(1).nan_to_num().to(loss.dtype)

    def _forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor | None, torch.Tensor]:
        """For inputs (N, D) the input of the second layer (heads, hidden, N), or None, and the logits (heads, C, N)."""
        weight, bias, *later = self.weights
        first = torch.mm(weight.flatten(0, 1), x.T).view(*bias.shape, len(x)).add_(bias[:, :, None])
        if not later:
            return None, first
        hidden = first.relu_() if mask is None else first.relu_().mul_(mask)
        return hidden, torch.baddbmm(later[1][:, :, None], later[0], hidden)

    def _backward(
        self, x: torch.Tensor, hidden: torch.Tensor | None, mask: torch.Tensor | None, gradient: torch.Tensor
    ) -> None:
        """Sets the gradients of all parameters, from the gradient of the logits (heads, C, N)."""
        weight, bias, *later = self.gradients
        if hidden is not None:
            torch.bmm(gradient, hidden.transpose(1, 2), out=later[0])
            torch.sum(gradient, 2, out=later[1])
            gradient = torch.bmm(self.weights[2].transpose(1, 2), gradient).mul_(hidden > 0)
            gradient = gradient if mask is None else gradient.mul_(mask)
        torch.mm(gradient.flatten(0, 1), x, out=weight.flatten(0, 1))
        torch.sum(gradient, 2, out=bias)

    def _update(self, step: int, steps: int) -> None:
        """A step of the optimizer, each head at its own rate."""
        if clip := self.heads[0].params.clip_grad:
            norms = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in self.gradients]).norm(dim=0)
            for gradient in self.gradients:  # as torch.nn.utils.clip_grad_norm_ does it
                gradient.mul_((clip / (norms + 1e-6)).clamp(max=1).view(-1, *[1] * (gradient.ndim - 1)))
        count = torch.tensor(step + 1.0, device=self.weights[0].device)
        for head in self.active:
            _descend(head, head.lr(step, steps), count)

    def _drop_stopped(self) -> None:
        """Removes the heads that have stopped from the tensors."""
        stay = [index for index, head in enumerate(self.active) if head.goes_on]
        if len(stay) < len(self.active):
            weights, *moments = ([tensor[stay] for tensor in tensors] for tensors in (self.weights, *self.moments))
            self._hold([self.active[index] for index in stay], weights, moments)


def _hits(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """How many labels have the largest logit, per head: (heads,). argmax would take ten times as long."""
    of_label = logits.gather(1, labels.expand(len(logits), 1, -1))[:, 0]
    return (of_label == logits.amax(1)).sum(1)


def _descend(head: _Head, lr: float, count: torch.Tensor) -> None:
    """One step of a head, with the kernels of torch.optim but without its bookkeeping (a tenth of a sweep's time).

    Args:
        head: with its gradients.
        lr: of this step.
        count: (), the number of steps so far, this one included.
    """
    weights, gradients, (first, second), params = head.weights, head.gradients, head.moments, head.params
    if params.optimizer == "sgd":
        torch._fused_sgd_(
            weights, gradients, first if params.momentum else [], lr=lr, weight_decay=params.weight_decay,
            momentum=params.momentum, dampening=0.0, nesterov=False, maximize=False, is_first_step=False,
        )  # fmt: skip
        return
    kernel = torch._fused_adamw_ if params.optimizer == "adamw" else torch._fused_adam_
    kernel(
        weights, gradients, first, second, [], [count] * len(weights), lr=lr, weight_decay=params.weight_decay,
        beta1=0.9, beta2=0.999, eps=1e-8, amsgrad=False, maximize=False,
    )  # fmt: skip


def _train(head: str, data: HeadData, settings: Sequence[Params], device: torch.device) -> list[TrainResult | None]:
    """Trains heads that share random numbers and loss; the results are in the order of the settings."""
    shared, (train, val) = settings[0], (data.splits[name].to(device) for name in ("train", "val"))
    class_weights = (
        losses.label_weights(train.y, shared.class_weights)
        if data.multilabel
        else losses.class_weights(train.y, len(data.classes), shared.class_weights)
    )
    workers = torch.get_num_threads() if device.type == "cpu" else 1
    count = min(len(settings), max(workers, -(-len(settings) // STACK))) if device.type == "cpu" else 1
    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        threads.limited_to(1),
        ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool,
    ):
        torch.manual_seed(shared.seed)
        module, knobs = loop.start(head, data, train=train, params=shared, device=device)
        train, val = (_standardized(split, module) for split in (train, val))
        start = [parameter.detach() for parameter in module.head.parameters()]
        hidden = len(start[0]) if len(start) > 2 and shared.dropout else 0
        stacks = [_Stack(settings[first::count], start) for first in range(count)]
        numbers = range(1, shared.epoch_count + 1)
        for number in tqdm(numbers, f"{len(settings)} heads", unit="epoch", leave=False, delay=2):
            if not (active := [stack for stack in stacks if stack.active]):
                break
            draw = _draw(shared, train, hidden)
            for future in [
                pool.submit(stack.epoch, number, train=train, val=val, draw=draw, class_weights=class_weights)
                for stack in active
            ]:
                future.result()
    heads = [stacks[index % count].heads[index // count] for index in range(len(settings))]
    return [_fitted(trained, module, knobs) for trained in heads]


def _standardized(split: SplitData, module: HeadModel) -> SplitData:
    """The split with normalised vectors, as the layers of the head take them."""
    x = split.x.load().float() if isinstance(split.x, MappedFeatures) else split.x
    return replace(split, x=normalized(module, x))


def _draw(params: Params, train: SplitData, hidden: int) -> _Draw:
    """The random choices of an epoch, in the order in which `loop.fit` makes them; `hidden` is 0 without dropout."""
    images, views = train.x.shape[:2]
    device = train.x.device
    image_views = torch.randint(views, (images,)).to(device) if views > 1 else torch.zeros(images).long().to(device)
    batches = torch.randperm(images).to(device).split(params.batch_size)  # type: ignore[no-untyped-call]
    if not hidden:
        return _Draw(batches, image_views, [None] * len(batches))
    masks = [F.dropout(torch.ones(len(rows), hidden, device=device), params.dropout).T.contiguous() for rows in batches]
    return _Draw(batches, image_views, masks)


def _fitted(head: _Head, start: HeadModel, knobs: dict[str, Any]) -> TrainResult | None:
    """The best weights of a head, in a module of its own; None if it diverged."""
    if head.diverged or head.best is None:
        return None
    _, best_epoch, weights = head.best
    module = copy.deepcopy(start).eval()
    with torch.no_grad():
        for parameter, weight in zip(module.head.parameters(), weights, strict=True):
            parameter.copy_(weight)
    return TrainResult(module, head.history, best_epoch, {}, knobs)
