"""Many heads at once: those that share batches and dropout masks are trained as stacks of tensors.

A batch meets the first layer of every head in a single product, (N, D) by (D, heads · outputs), and each head has its
own rate and weight decay in the optimizer. On a CPU the heads are cut in small stacks, which run side by side on a
single thread each: that spares the cores from waiting for each other at every small operation.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import lr_scheduler
from tqdm import tqdm

from stages.params import Params
from stages.training import loop, losses, schedules
from stages.training.data import Data, Part
from stages.training.fitted import Build, Epoch, Fitted, Standardize, assemble

HEADS = ("linear", "mlp")  # what `_logits` knows: a linear layer, or two with a ReLU and dropout between them
AXES = ("lr", "weight_decay", "dropout", "label_smoothing", "seed")  # what heads may differ in
MAX_BYTES = 1 << 30  # of parameters, gradients, two moments and best parameters held at a time; more is not faster
COPIES = 5
Make = Callable[[], nn.Sequential]
STACK = 16  # heads in a stack on a CPU: twice as many fall out of the cache and take a tenth longer each
ROWS = 256  # of the validation part judged at a time, so that the logits of a stack stay in the cache


def fit(
    build: Build, data: Data, settings: Sequence[Params], device: torch.device
) -> Iterator[tuple[int, Fitted | None]]:
    """Trains a head for each of the settings and yields (place in settings, head) as they are done.

    Each is what `loop.fit` gives for these settings, within float tolerance; None where the loss is not finite.

    Args:
        build: of a head in `HEADS`.
        data: train and val are read.
        settings: alike in all but `AXES`.
        device: where to train.
    """
    train, val = data.parts["train"], data.parts["val"]
    inputs, classes = train.x.shape[2], len(data.classes)
    standardize = Standardize(inputs)
    if settings[0].standardize:
        standardize.fit(train.x.flatten(0, 1))
    standardize.to(device)
    ready = [Part(standardize(part.x.to(device)), part.y.to(device), part.rows) for part in (train, val)]
    weights = losses.class_weights(ready[0].y, classes, settings[0].class_weights)
    order = sorted(range(len(settings)), key=lambda place: _shared(settings[place]))
    for _, group in groupby(order, key=lambda place: _shared(settings[place])):
        shared = settings[(places := list(group))[0]]
        make = partial(assemble, build, inputs, classes, loop.knobs(shared))
        at_once = _at_once(make)
        for first in range(0, len(places), at_once):
            some = places[first : first + at_once]
            heads = _train(make, [settings[place] for place in some], ready[0], ready[1], weights)
            for place, head in zip(some, heads, strict=True):
                yield place, _fitted(head, make, standardize)


def _shared(params: Params) -> tuple[int, float, float]:
    """What heads of one stack have in common: chance, and the loss."""
    return params.seed, params.dropout, params.label_smoothing


def _at_once(make: Make) -> int:
    """How many heads to hold in memory."""
    with torch.device("meta"):
        numbers = sum(parameter.numel() for parameter in make().parameters())
    return max(1, MAX_BYTES // (COPIES * 4 * numbers))


@dataclass
class _Head:
    """A head in training.

    Attributes:
        weights: one a parameter, views of the stack that it is in; gradients and moments likewise.
        history: without the epoch in which it diverged.
        best: score (the lower the better), epoch and weights.
        plateau: what `schedule: plateau` steps.
    """

    params: Params
    weights: list[torch.Tensor] = field(default_factory=list)
    gradients: list[torch.Tensor] = field(default_factory=list)
    moments: list[list[torch.Tensor]] = field(default_factory=list)
    history: list[Epoch] = field(default_factory=list)
    best: tuple[tuple[float, float], int, list[torch.Tensor]] | None = None
    diverged: bool = False

    def __post_init__(self) -> None:
        rate = torch.optim.SGD([torch.zeros(1)], lr=self.params.lr)
        self.plateau = loop.make_schedule(rate, self.params, 1)

    def lr(self, step: int, steps: int) -> float:
        """The rate of a step, counted over all epochs of so many steps."""
        if isinstance(self.plateau, lr_scheduler.ReduceLROnPlateau):
            return float(self.plateau.optimizer.param_groups[0]["lr"])
        return self.params.lr * schedules.factor(step, steps, self.params)

    def note(self, epoch: Epoch) -> None:
        """Takes in the result of an epoch."""
        self.diverged = not (math.isfinite(epoch.train_loss) and math.isfinite(epoch.val_loss))
        if self.diverged:
            return
        self.history.append(epoch)
        if isinstance(self.plateau, lr_scheduler.ReduceLROnPlateau):
            self.plateau.step(epoch.val_loss)
        by_loss = self.params.monitor == "val_loss"
        score = (epoch.val_loss, -epoch.val_accuracy) if by_loss else (-epoch.val_accuracy, epoch.val_loss)
        if self.best is None or score < self.best[0]:
            self.best = score, epoch.epoch, [weight.clone() for weight in self.weights]

    @property
    def goes_on(self) -> bool:
        """Whether there is another epoch in it."""
        if self.diverged or self.best is None:
            return not self.diverged
        trained = len(self.history)
        return trained < self.params.epochs and trained - self.best[1] < self.params.early_stopping_patience


@dataclass(frozen=True)
class _Draw:
    """What chance decides in an epoch, the same for all heads.

    Attributes:
        batches: positions in the train part, a tensor a step.
        views: (N,), the view of each image.
        masks: (batch, hidden) a step, what dropout multiplies with; none where there is no dropout.
    """

    batches: Sequence[torch.Tensor]
    views: torch.Tensor
    masks: Sequence[torch.Tensor] | None


class _Stack:
    """Heads whose parameters lie in one tensor (heads, …) for each layer's weight and bias.

    Gradients are written in place: a fresh tensor of that size costs more in page faults than the product in it.
    """

    def __init__(self, settings: Sequence[Params], start: Sequence[torch.Tensor]) -> None:
        self.heads = [_Head(params) for params in settings]
        weights = [tensor.expand(len(settings), *tensor.shape).clone() for tensor in start]
        self._hold(self.heads, weights, [[torch.zeros_like(tensor) for tensor in weights] for _ in range(2)])

    def _hold(self, active: list[_Head], weights: list[torch.Tensor], moments: list[list[torch.Tensor]]) -> None:
        """Takes over stacked tensors, and gives each head its views of them."""
        self.active, self.weights, self.moments = active, weights, moments
        self.gradients = [torch.empty_like(tensor) for tensor in weights]
        for place, head in enumerate(active):
            head.weights, head.gradients, *head.moments = (
                [tensor[place] for tensor in tensors] for tensors in (weights, self.gradients, *moments)
            )

    def epoch(self, number: int, train: Part, val: Part, draw: _Draw, class_weights: torch.Tensor | None) -> None:
        """Trains all heads for an epoch, judges them and drops those that have stopped."""
        rates = [head.lr((number - 1) * len(draw.batches), len(draw.batches)) for head in self.active]
        trained, judged = self._train(number, train, draw, class_weights), self._judge(val)
        for head, *row in zip(self.active, rates, *(values.tolist() for values in (*trained, *judged)), strict=True):
            lr, train_loss, train_accuracy, val_loss, val_accuracy = row
            head.note(Epoch(number, lr, train_loss, val_loss, train_accuracy, val_accuracy))
        self._drop_stopped()

    def _train(
        self, number: int, train: Part, draw: _Draw, class_weights: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One pass; mean loss and accuracy of the batches as trained on, (active,) each."""
        shared, steps = self.heads[0].params, len(draw.batches)
        loss_of_each = torch.func.vmap(lambda some, labels: losses.loss(some, labels, shared, class_weights), (0, None))
        loss_sum, hits = torch.zeros(2, len(self.active), device=train.x.device)
        for step, rows in enumerate(draw.batches):
            x, labels = train.x[rows, draw.views[rows]], train.y[rows]
            first = self._first(x).requires_grad_()
            later = [tensor.detach().requires_grad_() for tensor in self.weights[2:]]
            logits = self._logits(first, later, draw.masks[step] if draw.masks else None)
            loss = loss_of_each(logits, labels)
            self._set_gradients(x, *torch.autograd.grad(loss.sum(), [first, *later]))
            self._update((number - 1) * steps + step, steps)
            loss_sum += loss.detach() * len(rows)
            hits += (logits.argmax(2) == labels).sum(1)
        return loss_sum / len(train.y), hits / len(train.y)

    @torch.inference_mode()
    def _judge(self, part: Part) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross-entropy and accuracy on the evaluation views of a part, (active,) each."""
        loss_sum, hits = torch.zeros(2, len(self.active), device=part.x.device)
        for x, labels in zip(part.evaluation.split(ROWS), part.y.split(ROWS), strict=True):  # type: ignore[no-untyped-call]
            logits = self._logits(self._first(x), self.weights[2:], None)
            repeated = labels.expand(len(self.active), -1)
            loss_sum += F.cross_entropy(logits.transpose(1, 2), repeated, reduction="none").sum(1)
            hits += (logits.argmax(2) == labels).sum(1)
        return loss_sum / len(part.y), hits / len(part.y)

    def _first(self, x: torch.Tensor) -> torch.Tensor:
        """The first layer of all heads: (N, D) to (N, active · outputs)."""
        weight, bias = (tensor.flatten(0, 1) for tensor in self.weights[:2])
        return torch.addmm(bias, x, weight.T)

    def _logits(self, first: torch.Tensor, later: Sequence[torch.Tensor], mask: torch.Tensor | None) -> torch.Tensor:
        """What follows the first layer: to (active, N, classes)."""
        values = first.view(len(first), len(self.active), -1).transpose(0, 1)
        if not later:
            return values
        weight, bias = later
        hidden = values.relu() if mask is None else values.relu() * mask
        return torch.baddbmm(bias[:, None], hidden, weight.transpose(1, 2))

    def _set_gradients(self, x: torch.Tensor, first: torch.Tensor, *later: torch.Tensor) -> None:
        """Gradients of the stacked tensors, from those of the first layer's outputs and of the tensors after it."""
        weight, bias, *others = self.gradients
        torch.mm(first.T, x, out=weight.view(-1, x.shape[1]))
        torch.sum(first, 0, out=bias.view(-1))
        for gradient, found in zip(others, later, strict=True):
            gradient.copy_(found)

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
        """Leaves the heads that have stopped out of the tensors."""
        stay = [place for place, head in enumerate(self.active) if head.goes_on]
        if len(stay) < len(self.active):
            weights, *moments = ([tensor[stay] for tensor in tensors] for tensors in (self.weights, *self.moments))
            self._hold([self.active[place] for place in stay], weights, moments)


def _descend(head: _Head, lr: float, count: torch.Tensor) -> None:
    """A step of a head with the kernels of torch.optim, whose bookkeeping would take a tenth of the time of a sweep.

    Args:
        head: with its gradients.
        lr: of this step.
        count: steps with this one.
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


def _train(
    make: Make, settings: Sequence[Params], train: Part, val: Part, class_weights: torch.Tensor | None
) -> list[_Head]:
    """Heads that share chance and loss, in the order of the settings."""
    shared, device = settings[0], train.x.device
    workers = torch.get_num_threads() if device.type == "cpu" else 1
    count = min(len(settings), max(workers, -(-len(settings) // STACK))) if device.type == "cpu" else 1
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), _pool(workers) as pool:
        torch.manual_seed(shared.seed)
        start = [parameter.detach().to(device) for parameter in make().parameters()]
        hidden = len(start[0]) if len(start) > 2 and shared.dropout else 0
        stacks = [_Stack(settings[first::count], start) for first in range(count)]
        for number in tqdm(range(1, shared.epochs + 1), f"{len(settings)} heads", unit=" epochs", leave=False, delay=2):
            if not (going := [stack for stack in stacks if stack.active]):
                break
            draw = _draw(shared, train, hidden)
            for done in [pool.submit(stack.epoch, number, train, val, draw, class_weights) for stack in going]:
                done.result()
    return [stacks[place % count].heads[place // count] for place in range(len(settings))]


def _draw(params: Params, train: Part, hidden: int) -> _Draw:
    """The chance of an epoch, drawn in the order in which `loop.fit` draws it; `hidden` is 0 without dropout."""
    images, views = train.x.shape[:2]
    device = train.x.device
    drawn = torch.randint(views, (images,)).to(device) if views > 1 else torch.zeros_like(train.y)
    batches = torch.randperm(images).to(device).split(params.batch_size)  # type: ignore[no-untyped-call]
    if not hidden:
        return _Draw(batches, drawn, None)
    masks = [F.dropout(torch.ones(len(rows), hidden, device=device), params.dropout) for rows in batches]
    return _Draw(batches, drawn, masks)


@contextmanager
def _pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Workers that have one thread of torch's each."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)


def _fitted(head: _Head, make: Make, standardize: Standardize) -> Fitted | None:
    """A head's best weights in a module of its own."""
    if head.diverged or head.best is None:
        return None
    _, best_epoch, weights = head.best
    with torch.device("meta"):  # which draws no first weights
        module = make()
    module[0] = standardize
    names = [name for name, _ in module.named_parameters()]
    module.load_state_dict(dict(zip(names, weights, strict=True)), strict=False, assign=True)
    return Fitted(module.eval(), head.history, best_epoch, {})
