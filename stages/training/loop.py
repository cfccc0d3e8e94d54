"""Gradient descent on features in memory: batches are slices of a shuffled tensor, no sample passes through Python."""

import copy
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.optim import lr_scheduler
from tqdm import tqdm

from stages import threads
from stages.errors import UserError
from stages.heads import optimizers
from stages.params import Params, with_overrides
from stages.training import schedules, tasks
from stages.training.checkpoint import Checkpoint
from stages.training.data import HeadData, SplitData
from stages.training.history import Epoch, score
from stages.training.model import HeadModel, TrainResult, assemble, calibrate, embed, normalized, stored_knobs
from stages.training.options import Phase
from stages.training.rest import build
from stages.training.tasks import EpochScores, Task

# Knobs that a head does not depend on, or only through its features and its data.
NOT_TRAININGS = {"root", "device", "task", "split", "extract", "lr_sweep", "decide", "bad_images", "datasets"}

SHORT = 100_000_000  # multiplications of a step: with fewer, one thread is faster than two
HOPELESS_SHARE = 1 / 3  # of the epochs after which training may be given up,
HOPELESS_ERRORS = 3.0  # if it is so many standard errors behind


@dataclass
class Progress:
    """How far training has come.

    Attributes:
        phase: counted from 1.
        best: the score of the best epoch so far, smaller is better.
        state: the weights of that epoch.
    """

    phase: int = 1
    history: list[Epoch] = field(default_factory=list)
    best: tuple[float, float] | None = None
    best_epoch: int = 0
    state: dict[str, torch.Tensor] = field(default_factory=dict)

    def add(self, epoch: Epoch, module: nn.Module, monitor: str) -> None:
        """Adds an epoch, and keeps the weights after it if it is the best so far."""
        self.history.append(epoch)
        epoch_score = score(epoch.val_loss, epoch.val_accuracy, monitor=monitor, map_50=epoch.val_map_50,
                            map=epoch.val_map)  # fmt: skip
        if self.best is None or epoch_score < self.best:
            self.best, self.best_epoch = epoch_score, epoch.epoch
            self.state = copy.deepcopy(module.state_dict())


@dataclass(frozen=True)
class TrainingRun:
    """What the phases of one run share."""

    module: HeadModel
    train: SplitData
    val: SplitData
    params: Params
    task: Task
    checkpoint: Checkpoint
    reach: float | None = None


def fit(
    head: str,
    data: HeadData,
    *,
    params: Params,
    device: torch.device,
    last: bool = False,
    reach: float | None = None,
) -> TrainResult:
    """Trains a head, and whatever each phase unfreezes of the rest of the backbone.

    The best epoch by `monitor` on the validation split is kept, and a phase begins with the best epoch so far. The same
    input gives the same head, bit for bit, on the same machine, even if the run was killed: it goes on from its
    checkpoint.

    Args:
        head: its name.
        data: the features and labels; train and val are read.
        params: everything that is set for training.
        device: where to train.
        last: keep the last epoch, whatever validation says.
        reach: a validation accuracy (or mAP) that another head has reached; training is given up where this one is far
            below.

    Raises:
        UserError: a phase names a module that the rest does not have, the loss is not finite, or training is given up.
    """
    train, val = (data.splits[name].to(device) for name in ("train", "val"))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(params.seed)
        module, knobs = start(head, data, train=train, params=params, device=device)
        trained = _trained(module, params)
        task = tasks.task_of(head, module, knobs, data=data, params=params)
        checkpoint = Checkpoint(inputs(head, data, params=params, device=device))
        run = TrainingRun(module, train, val, params, task, checkpoint, reach)
        progress, saved = Progress(), checkpoint.load()
        if saved:
            progress = Progress(**saved["progress"])
            progress.history = [Epoch(**row) for row in saved["history"]]
            print(f"resumed after epoch {len(progress.history)}", flush=True)
        for number, phase in enumerate(plan(params), 1):
            if number >= progress.phase:
                _phase(run, phase, number, progress, saved)
                saved = None
    if not last:
        module.load_state_dict(progress.state)
    checkpoint.drop()
    module.eval()
    if not last:
        calibrate(module, val)
    epoch = len(progress.history) if last else progress.best_epoch
    notes = {"anchor_iou": knobs["anchor_iou"]} if "anchor_iou" in knobs else {}
    return TrainResult(module, progress.history, epoch, notes, knobs, trained)


def refit(head: str, data: HeadData, *, params: Params, device: torch.device, epochs: int) -> TrainResult:
    """Trains again on train and val together for a number of epochs, and keeps the last one.

    There is nothing left to choose, so each epoch is scored by its loss alone.

    Args:
        head: its name.
        data: train and val are read.
        params: everything that is set for training.
        device: where to train.
        epochs: how many; the schedule ends with them.
    """
    both = data.splits["train"].join(data.splits["val"])
    joined = replace(data, splits=data.splits | {"train": both}, identity=f"{data.identity} trainval")
    again = with_overrides(
        params,
        {"epochs": epochs, "early_stopping_patience": epochs, "warmup": min(params.warmup, epochs - 1)}
        | {"monitor": "val_loss"},
    )
    return fit(head, joined, params=again, device=device, last=True)


def start(
    head: str, data: HeadData, *, train: SplitData, params: Params, device: torch.device
) -> tuple[HeadModel, dict[str, Any]]:
    """A head before its first step, and the knobs that are stored with it.

    Args:
        head: its name.
        data: the classes and provenance, and the boxes of train.
        train: the split that the normalisation is fitted on, on the device.
        params: `tap`, `weights` and the knobs of the head.
        device: of the head.
    """
    knobs = stored_knobs(head, params=params, data=data, device=device)
    rest = build(data.provenance, params.tap, params.weights)
    module = assemble(head, data.shape, classes=len(data.classes), knobs=knobs, rest=rest).to(device)
    module.fit_normalization(train)
    return module, knobs


def plan(params: Params) -> list[Phase]:
    """The phases; if there are none, a single one that trains everything."""
    return params.phases or [Phase(epochs=params.epoch_count)]


def inputs(head: str, data: HeadData, *, params: Params, device: torch.device) -> dict[str, Any]:
    """Everything that a trained head depends on, as values for JSON; it identifies the checkpoint of a run."""
    return {
        "head": head,
        "params": params.model_dump(exclude=NOT_TRAININGS),
        "classes": data.classes,
        "features": data.provenance,
        "data": data.identity,
        "device": device.type,
    }


def unfreeze(module: HeadModel, phase: Phase, params: Params) -> list[dict[str, Any]]:
    """Freezes what a phase does not train, and groups what it trains by learning rate, the head first."""
    groups = [{"params": list(module.head.parameters()), "lr": phase.lr or params.learning_rate}]
    if module.rest:
        module.rest.freeze(phase.train_from, batchnorm=params.freeze_batchnorm)
        groups += module.rest.groups(phase, params)
    return groups


def _trained(module: HeadModel, params: Params) -> int:
    """How many parameters train in any phase. A mistake in a late phase shows before the first one begins."""
    groups = [group for phase in plan(params) for group in unfreeze(module, phase, params)]
    return sum(parameter.numel() for parameter in {weights for group in groups for weights in group["params"]})


def make_optimizer(groups: list[dict[str, Any]], params: Params) -> torch.optim.Optimizer:
    """AdamW, Adam or SGD with momentum over groups of parameters with their learning rates."""
    if params.optimizer == "sgd":
        return optimizers.SGD(groups, momentum=params.momentum, weight_decay=params.weight_decay, fused=True)
    kind = optimizers.AdamW if params.optimizer == "adamw" else optimizers.Adam
    return kind(groups, weight_decay=params.weight_decay, fused=True)  # one pass over the weights instead of ten


def make_schedule(
    optimizer: torch.optim.Optimizer, *, params: Params, epochs: int, steps: int
) -> lr_scheduler.LRScheduler:
    """The schedule of a phase, stepped once per batch; `plateau` is stepped once per epoch with the validation loss.

    Args:
        optimizer: the rates that it changes.
        params: `schedule` and its knobs.
        epochs: of the phase.
        steps: per epoch.
    """
    if params.schedule == "plateau":
        return lr_scheduler.ReduceLROnPlateau(optimizer, factor=params.plateau_factor, patience=params.plateau_patience)
    return lr_scheduler.LambdaLR(
        optimizer, lambda step: schedules.factor(step, steps=steps, epochs=epochs, params=params)
    )


def _phase(run: TrainingRun, phase: Phase, number: int, progress: Progress, saved: dict[str, Any] | None) -> None:
    """One phase, from its beginning or from where it was saved."""
    params, module = run.params, run.module
    if progress.state:
        module.load_state_dict(progress.state)
    optimizer = make_optimizer(unfreeze(module, phase, params), params)
    schedule = make_schedule(
        optimizer, params=params, epochs=phase.epochs, steps=math.ceil(len(run.train.y) / params.batch_size)
    )
    if saved:
        _restore(saved, module, optimizer, schedule, run.train.y.device)
    net, train, val = _shortest(module, run.train, run.val)
    progress.phase = number
    before = sum(epoch.phase < number for epoch in progress.history)
    done = len(progress.history) - before
    for epoch in tqdm(range(before + done + 1, before + phase.epochs + 1), unit=" epochs", leave=False, delay=2):
        if epoch - 1 - max(progress.best_epoch, before) >= params.early_stopping_patience:
            break
        lr = optimizer.param_groups[0]["lr"]
        with threads.limited_to(step_threads(net, params.batch_size)):
            loss, accuracy = _one_epoch(net, train, optimizer, schedule, params, run.task)
        scores = evaluate(net, val, run.task)
        if not math.isfinite(loss) or not math.isfinite(scores.loss):
            rate = params.learning_rate
            raise UserError(f"The loss is not finite in epoch {epoch}: try a smaller `lr` (now {rate:g}).")
        row = Epoch(epoch, number, lr, loss, scores.loss, accuracy, scores.accuracy, scores.map_50, scores.map)
        progress.add(row, module, params.monitor)
        if run.reach is not None:
            _give_up(run, progress, run.reach)
        if isinstance(schedule, lr_scheduler.ReduceLROnPlateau):
            schedule.step(scores.loss)
        run.checkpoint.save(_state(progress, module, optimizer, schedule, run.train.y.device))


def _give_up(run: TrainingRun, progress: Progress, reach: float) -> None:
    """Ends training where after a share of the epochs it is far below an accuracy, more than chance explains."""
    epochs, limit = len(progress.history), sum(phase.epochs for phase in plan(run.params))
    best = max(epoch.choice for epoch in progress.history)
    rate = (reach * len(run.val.y) + 1) / (len(run.val.y) + 2)  # by the rule of succession: 100% of few is no certainty
    error = math.sqrt(rate * (1 - rate) / len(run.val.y))
    if epochs == math.ceil(limit * HOPELESS_SHARE) and best < reach - HOPELESS_ERRORS * error:
        run.checkpoint.drop()
        multilabel = run.val.y.ndim == 2
        found = f"mAP on validation is {best:.1%}" if multilabel else f"{best:.1%} of the validation images are right"
        raise UserError(f"After {epochs} of {limit} epochs {found}, far below {reach:.1%}.")


def _shortest(module: HeadModel, train: SplitData, val: SplitData) -> tuple[HeadModel, SplitData, SplitData]:
    """What does not train runs once: the rest, and the normalisation of vectors. The layers train on the outputs.

    This does not work with pixels, which change every time, nor with several maps, which are not a single tensor.
    """
    if train.pixels or module.takes == "pyramid":
        return module, train, val
    if module.rest is not None:
        if any(parameter.requires_grad for parameter in module.rest.parameters()):
            return module, train, val
        train, val = (replace(split, x=embed(module, split)) for split in (train, val))
        module = module.without_rest()
    if isinstance(train.x, torch.Tensor) and isinstance(val.x, torch.Tensor) and train.x.ndim == 3:
        train, val = replace(train, x=normalized(module, train.x)), replace(val, x=normalized(module, val.x))
        module = module.without_normalization()
    return module, train, val


def step_threads(net: HeadModel, batch_size: int) -> int:
    """How many threads a step takes on a CPU: a short one is over before a second thread is awake."""
    weights = sum(parameter.numel() for parameter in net.head.parameters())
    short = net.rest is None and len(net.shape) == 1 and batch_size * weights < SHORT
    return 1 if short else torch.get_num_threads()


def evaluate(net: nn.Module, split: SplitData, task: Task) -> EpochScores:
    """The scores of a split after an epoch."""
    return task.evaluate(net, split)


def step(
    module: nn.Module,
    batch: torch.Tensor,
    *,
    targets: Any,
    optimizer: torch.optim.Optimizer,
    params: Params,
    task: Task,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """One step of the optimizer on a batch; returns the loss, and which images were right, before the step.

    Args:
        module: the head, with the rest before it.
        batch: (n, …) features.
        targets: as the task gives them.
        optimizer: of what trains.
        params: `clip_grad`.
        task: its loss, and what counts as right.
    """
    outputs = module(batch)
    loss = task.loss(outputs, targets)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    if params.clip_grad:
        trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        nn.utils.clip_grad_norm_(trained, params.clip_grad)  # what is frozen may hold gradients of an earlier phase
    optimizer.step()
    return loss.detach(), task.correct(outputs, targets)


def draw(train: SplitData, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """One pass over the images of a split in random order, each in a random view: indices and views of each batch."""
    images, views = train.x.shape[:2]
    drawn = torch.randint(views, (images,)) if views > 1 else torch.zeros(images, dtype=torch.long)
    for chosen in train.shuffled().split(size):  # type: ignore[no-untyped-call]
        yield chosen, drawn[chosen]


def _one_epoch(
    module: nn.Module,
    train: SplitData,
    optimizer: torch.optim.Optimizer,
    schedule: lr_scheduler.LRScheduler,
    params: Params,
    task: Task,
) -> tuple[float, float | None]:
    """One pass over the train split; the mean loss and accuracy of its batches, each before its step."""
    module.train()
    device = train.y.device
    loss_sum, hits = torch.zeros((), device=device), list[torch.Tensor]()
    for chosen, views in draw(train, params.batch_size):
        batch, affine = train.training_batch(chosen, views)
        loss, right = step(
            module,
            batch,
            targets=task.targets(train, chosen, views=views, affine=affine),
            optimizer=optimizer,
            params=params,
            task=task,
        )
        if not isinstance(schedule, lr_scheduler.ReduceLROnPlateau):
            schedule.step()
        loss_sum += loss * len(chosen)
        if right is not None:
            hits.append(right)
    return float(loss_sum) / len(train.y), tasks.share_of_true(hits)


def _state(
    progress: Progress,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: lr_scheduler.LRScheduler,
    device: torch.device,
) -> dict[str, Any]:
    """Everything that the remaining epochs depend on."""
    return {
        "progress": vars(progress) | {"history": []},
        "history": [asdict(epoch) for epoch in progress.history],
        "module": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "random": torch.get_rng_state(),
        "random_cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def _restore(
    saved: dict[str, Any],
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: lr_scheduler.LRScheduler,
    device: torch.device,
) -> None:
    """Puts everything back as it was after the last epoch that was saved."""
    module.load_state_dict(saved["module"])
    optimizer.load_state_dict(saved["optimizer"])
    schedule.load_state_dict(saved["schedule"])
    torch.set_rng_state(saved["random"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(saved["random_cuda"], device)
