"""Gradient descent on features in memory: batches are slices of a shuffled tensor, no sample passes through Python."""

import copy
import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import lr_scheduler
from tqdm import tqdm

from stages.errors import UserError
from stages.params import Params, Phase
from stages.training import losses, schedules
from stages.training.checkpoint import Checkpoint
from stages.training.data import Data, Part
from stages.training.fitted import Fitted, Whole, assemble, embed, knobs, logits
from stages.training.history import Epoch, score
from stages.training.rest import build


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
        """Takes an epoch in, and the weights after it where it is the best."""
        self.history.append(epoch)
        found = score(epoch.val_loss, epoch.val_accuracy, monitor)
        if self.best is None or found < self.best:
            self.best, self.best_epoch = found, epoch.epoch
            self.state = copy.deepcopy(module.state_dict())


@dataclass(frozen=True)
class Run:
    """What the phases of one run share."""

    module: Whole
    train: Part
    val: Part
    params: Params
    weights: torch.Tensor | None
    checkpoint: Checkpoint


def fit(head: str, data: Data, params: Params, device: torch.device) -> Fitted:
    """Trains a head, and of the rest of the backbone what each phase unfreezes.

    The best epoch by `monitor` on the validation part is kept, and a phase begins with the best of those before it.
    The same input gives the same head, bit for bit, on the same machine, killed in the middle or not: an interrupted
    run goes on from its checkpoint.

    Raises:
        UserError: the loss is not finite.
    """
    train, val = (data.parts[name].to(device) for name in ("train", "val"))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(params.seed)
        module, shaped = start(head, data, train, params, device)
        weights = losses.class_weights(train.y, len(data.classes), params.class_weights)
        checkpoint = Checkpoint(inputs(head, data, params, device))
        run, progress, saved = Run(module, train, val, params, weights, checkpoint), Progress(), checkpoint.load()
        if saved:
            progress = Progress(**saved["progress"])
            progress.history = [Epoch(**row) for row in saved["history"]]
            print(f"resumed after epoch {len(progress.history)}", flush=True)
        for number, phase in enumerate(plan(params), 1):
            if number >= progress.phase:
                _phase(run, phase, number, progress, saved)
                saved = None
    module.load_state_dict(progress.state)
    checkpoint.drop()
    module.eval()
    return Fitted(module, progress.history, progress.best_epoch, {}, shaped)


def start(head: str, data: Data, train: Part, params: Params, device: torch.device) -> tuple[Whole, dict[str, Any]]:
    """A head before its first step, on its standardised features, and the knobs that shape it."""
    shaped = knobs(params, data, device)
    rest = build(data.provenance, params.tap, params.weights)
    module = assemble(head, data.shape, len(data.classes), shaped, rest).to(device)
    if params.standardize:
        module.eval()
        with torch.inference_mode():
            views = range(train.x.shape[1])
            module.standardize.fit(module.features(batch) for view in views for batch in train.batches(view))
    return module, shaped


def plan(params: Params) -> list[Phase]:
    """The phases; without any, a single one that trains all there is."""
    return params.phases or [Phase(epochs=params.epochs)]


def inputs(head: str, data: Data, params: Params, device: torch.device) -> dict[str, Any]:
    """All that a trained head depends on."""
    return {
        "head": head,
        "params": params.model_dump(exclude={"root", "device", "split", "decide", "bad_images", "datasets"}),
        "classes": data.classes,
        "features": data.provenance,
        "data": data.identity,
        "device": device.type,
    }


def unfreeze(module: Whole, phase: Phase, params: Params) -> list[dict[str, Any]]:
    """Freezes what a phase does not train; what it does, in groups with their learning rates, the head first."""
    groups = [{"params": list(module.head.parameters()), "lr": phase.lr or params.lr}]
    if module.rest:
        module.rest.freeze(phase.train_from, batchnorm=params.freeze_batchnorm)
        groups += module.rest.groups(phase, params)
    return groups


def make_optimizer(groups: list[dict[str, Any]], params: Params) -> torch.optim.Optimizer:
    """AdamW, Adam or SGD with momentum over groups of parameters with their learning rates."""
    if params.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=params.momentum, weight_decay=params.weight_decay)
    kind = torch.optim.AdamW if params.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, weight_decay=params.weight_decay)


def make_schedule(
    optimizer: torch.optim.Optimizer, params: Params, epochs: int, steps: int
) -> lr_scheduler.LRScheduler:
    """The schedule of a phase, stepped once a batch; plateau is stepped once an epoch with the validation loss."""
    if params.schedule == "plateau":
        return lr_scheduler.ReduceLROnPlateau(optimizer, factor=params.plateau_factor, patience=params.plateau_patience)
    return lr_scheduler.LambdaLR(optimizer, lambda step: schedules.factor(step, steps, epochs, params))


def _phase(run: Run, phase: Phase, number: int, progress: Progress, saved: dict[str, Any] | None) -> None:
    """One phase, from its beginning or from where it was saved."""
    params, module = run.params, run.module
    if progress.state:
        module.load_state_dict(progress.state)
    optimizer = make_optimizer(unfreeze(module, phase, params), params)
    schedule = make_schedule(optimizer, params, phase.epochs, math.ceil(len(run.train.y) / params.batch_size))
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
        trained = _one_epoch(net, train, optimizer, schedule, params, run.weights)
        judged = judge(net, val)
        if not math.isfinite(trained[0]) or not math.isfinite(judged[0]):
            raise UserError(f"The loss is not finite in epoch {epoch}: try a smaller `lr` (now {params.lr:g}).")
        progress.add(Epoch(epoch, number, lr, trained[0], judged[0], trained[1], judged[1]), module, params.monitor)
        if isinstance(schedule, lr_scheduler.ReduceLROnPlateau):
            schedule.step(judged[0])
        run.checkpoint.save(_state(progress, module, optimizer, schedule, run.train.y.device))


def _shortest(module: Whole, train: Part, val: Part) -> tuple[Whole, Part, Part]:
    """Where nothing of the rest trains it runs once, and the head trains on what came out; pixels change every time."""
    rest = module.rest
    if rest is None or train.pixels or any(parameter.requires_grad for parameter in rest.parameters()):
        return module, train, val
    train, val = (replace(part, x=embed(module, part)) for part in (train, val))
    return module.without_rest(), train, val


def judge(module: nn.Module, part: Part) -> tuple[float, float]:
    """Cross-entropy and accuracy on the evaluation views of a part, in eval mode."""
    found = logits(module, part)
    return float(F.cross_entropy(found, part.y)), float((found.argmax(1) == part.y).float().mean())


def step(
    module: nn.Module,
    batch: torch.Tensor,
    labels: torch.Tensor,
    optimizer: torch.optim.Optimizer,
    params: Params,
    weights: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One step of the optimizer on a batch; the loss and the logits from before it."""
    found = module(batch)
    loss = losses.loss(found, labels, params, weights)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    if params.clip_grad:
        nn.utils.clip_grad_norm_(module.parameters(), params.clip_grad)
    optimizer.step()
    return loss.detach(), found.detach()


def _one_epoch(
    module: nn.Module,
    train: Part,
    optimizer: torch.optim.Optimizer,
    schedule: lr_scheduler.LRScheduler,
    params: Params,
    weights: torch.Tensor | None,
) -> tuple[float, float]:
    """One pass, each image in a view drawn anew; the mean loss and accuracy of the batches as trained on."""
    module.train()
    images, views = train.x.shape[:2]
    device = train.y.device
    drawn = torch.randint(views, (images,)) if views > 1 else torch.zeros(images, dtype=torch.long)
    loss_sum, hits = torch.zeros((), device=device), torch.zeros((), device=device)
    for chosen in torch.randperm(images).split(params.batch_size):  # type: ignore[no-untyped-call]
        labels = train.y[chosen.to(device)]
        loss, found = step(
            module, train.batch(chosen, drawn[chosen], training=True), labels, optimizer, params, weights
        )
        if not isinstance(schedule, lr_scheduler.ReduceLROnPlateau):
            schedule.step()
        loss_sum += loss * len(chosen)
        hits += (found.argmax(1) == labels).sum()
    return float(loss_sum) / images, float(hits) / images


def _state(
    progress: Progress,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: lr_scheduler.LRScheduler,
    device: torch.device,
) -> dict[str, Any]:
    """All that the rest of the run depends on."""
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
    """Puts everything back as it was after the last epoch that was kept."""
    module.load_state_dict(saved["module"])
    optimizer.load_state_dict(saved["optimizer"])
    schedule.load_state_dict(saved["schedule"])
    torch.set_rng_state(saved["random"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(saved["random_cuda"], device)
