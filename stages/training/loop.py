"""Gradient descent on features in memory: batches are slices of a shuffled tensor, no sample passes through Python."""

import copy
import math
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import lr_scheduler
from tqdm import tqdm

from stages.errors import UserError
from stages.params import Params
from stages.training import losses, schedules
from stages.training.checkpoint import Checkpoint
from stages.training.data import Data, Part
from stages.training.fitted import Fitted, Whole, assemble, knobs, logits
from stages.training.history import Epoch


@dataclass
class Progress:
    """How far training has come.

    Attributes:
        best: the score of the best epoch so far, smaller is better.
        state: the weights of that epoch.
    """

    history: list[Epoch] = field(default_factory=list)
    best: tuple[float, float] | None = None
    best_epoch: int = 0
    state: dict[str, torch.Tensor] = field(default_factory=dict)


def fit(head: str, data: Data, params: Params, device: torch.device) -> Fitted:
    """Trains a head and keeps its best epoch by `monitor` on the validation part.

    The same input gives the same head, bit for bit, on the same machine, killed in the middle or not: an interrupted
    run goes on from its checkpoint.

    Raises:
        UserError: the loss is not finite.
    """
    train, val = (data.parts[name].to(device) for name in ("train", "val"))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(params.seed)
        shaped = knobs(params, data, device)
        module = assemble(head, data.shape, len(data.classes), shaped).to(device)
        if params.standardize:
            standardize(module, train)
        optimizer = make_optimizer(module, params)
        schedule = make_schedule(optimizer, params, math.ceil(len(train.y) / params.batch_size))
        weights = losses.class_weights(train.y, len(data.classes), params.class_weights)
        checkpoint = Checkpoint(inputs(head, data, params, device))
        progress = _resume(checkpoint, module, optimizer, schedule, device) or Progress()
        done = len(progress.history)
        for epoch in tqdm(range(done + 1, params.epochs + 1), unit=" epochs", leave=False, delay=2):
            if epoch - 1 - progress.best_epoch >= params.early_stopping_patience:
                break
            lr = optimizer.param_groups[0]["lr"]
            trained = _one_epoch(module, train, optimizer, schedule, params, weights)
            judged = judge(module, val)
            if not math.isfinite(trained[0]) or not math.isfinite(judged[0]):
                raise UserError(f"The loss is not finite in epoch {epoch}: try a smaller `lr` (now {params.lr:g}).")
            progress.history.append(Epoch(epoch, 1, lr, trained[0], judged[0], trained[1], judged[1]))
            if isinstance(schedule, lr_scheduler.ReduceLROnPlateau):
                schedule.step(judged[0])
            score = (judged[0], -judged[1]) if params.monitor == "val_loss" else (-judged[1], judged[0])
            if progress.best is None or score < progress.best:
                progress.best, progress.best_epoch = score, epoch
                progress.state = copy.deepcopy(module.state_dict())
            checkpoint.save(_state(progress, module, optimizer, schedule, device))
    module.load_state_dict(progress.state)
    checkpoint.drop()
    module.eval()
    return Fitted(module, progress.history, progress.best_epoch, {}, shaped)


def inputs(head: str, data: Data, params: Params, device: torch.device) -> dict[str, Any]:
    """All that a trained head depends on."""
    return {
        "head": head,
        "params": params.flat(),
        "classes": data.classes,
        "features": data.provenance,
        "data": data.identity,
        "device": device.type,
    }


def standardize(module: Whole, train: Part) -> None:
    """Takes the statistics of what the head sees of every view of the train part."""
    with torch.inference_mode():
        views = range(train.x.shape[1])
        module.standardize.fit(module.features(batch) for view in views for batch in train.batches(view))


def make_optimizer(module: nn.Module, params: Params) -> torch.optim.Optimizer:
    """AdamW, Adam or SGD with momentum over the parameters that train."""
    weights = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if params.optimizer == "sgd":
        return torch.optim.SGD(weights, lr=params.lr, momentum=params.momentum, weight_decay=params.weight_decay)
    kind = torch.optim.AdamW if params.optimizer == "adamw" else torch.optim.Adam
    return kind(weights, lr=params.lr, weight_decay=params.weight_decay)


def make_schedule(optimizer: torch.optim.Optimizer, params: Params, steps: int) -> lr_scheduler.LRScheduler:
    """The schedule, stepped once a batch; plateau is stepped once an epoch with the validation loss."""
    if params.schedule == "plateau":
        return lr_scheduler.ReduceLROnPlateau(optimizer, factor=params.plateau_factor, patience=params.plateau_patience)
    return lr_scheduler.LambdaLR(optimizer, lambda step: schedules.factor(step, steps, params))


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
        loss, found = step(module, train.batch(chosen, drawn[chosen]), labels, optimizer, params, weights)
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
        "best": progress.best,
        "best_epoch": progress.best_epoch,
        "state": progress.state,
        "history": [asdict(epoch) for epoch in progress.history],
        "module": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "random": torch.get_rng_state(),
        "random_cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def _resume(
    checkpoint: Checkpoint,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: lr_scheduler.LRScheduler,
    device: torch.device,
) -> Progress | None:
    """Puts everything back as it was after the last epoch that was kept."""
    state = checkpoint.load()
    if state is None:
        return None
    module.load_state_dict(state["module"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    torch.set_rng_state(state["random"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["random_cuda"], device)
    history = [Epoch(**epoch) for epoch in state["history"]]
    print(f"resumed after epoch {len(history)}", flush=True)
    return Progress(history, state["best"], state["best_epoch"], state["state"])
