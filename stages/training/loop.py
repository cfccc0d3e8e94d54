"""Gradient descent on features in memory: batches are slices of a shuffled tensor, no sample passes through Python."""

import copy
import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import lr_scheduler
from tqdm import tqdm

from stages.errors import UserError
from stages.params import Params
from stages.training import losses, schedules
from stages.training.data import Data, Part
from stages.training.fitted import Build, Epoch, Fitted, Standardize, assemble


def fit(build: Build, data: Data, params: Params, device: torch.device) -> Fitted:
    """Trains a head and keeps its best epoch by `monitor` on the validation part.

    The same input gives the same head, bit for bit, on the same machine.

    Raises:
        UserError: the loss is not finite.
    """
    train, val = (_on(data.parts[name], device) for name in ("train", "val"))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(params.seed)
        module = assemble(build, train.x.shape[2], len(data.classes), knobs(params)).to(device)
        standardize = module[0]
        assert isinstance(standardize, Standardize)
        if params.standardize:
            standardize.fit(train.x.flatten(0, 1))
        optimizer = make_optimizer(module, params)
        steps = math.ceil(len(train.y) / params.batch_size)
        schedule = make_schedule(optimizer, params, steps)
        weights = losses.class_weights(train.y, len(data.classes), params.class_weights)
        history: list[Epoch] = []
        best: tuple[float, float] | None = None
        best_epoch, best_state = 0, copy.deepcopy(module.state_dict())
        for epoch in tqdm(range(1, params.epochs + 1), unit=" epochs", leave=False, delay=2):
            lr = optimizer.param_groups[0]["lr"]
            trained = _one_epoch(module, train, optimizer, schedule, params, weights)
            judged = judge(module, val)
            if not math.isfinite(trained[0]) or not math.isfinite(judged[0]):
                raise UserError(f"The loss is not finite in epoch {epoch}: try a smaller `lr` (now {params.lr:g}).")
            history.append(Epoch(epoch, lr, trained[0], judged[0], trained[1], judged[1]))
            if isinstance(schedule, lr_scheduler.ReduceLROnPlateau):
                schedule.step(judged[0])
            score = (judged[0], -judged[1]) if params.monitor == "val_loss" else (-judged[1], judged[0])
            if best is None or score < best:
                best, best_epoch, best_state = score, epoch, copy.deepcopy(module.state_dict())
            elif epoch - best_epoch >= params.early_stopping_patience:
                break
    module.load_state_dict(best_state)
    return Fitted(module.eval(), history, best_epoch, {})


def knobs(params: Params) -> dict[str, Any]:
    """The knobs that shape a head; they are stored with it, so that it can be built again."""
    return {"hidden": params.hidden, "dropout": params.dropout}


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


@torch.inference_mode()
def judge(module: nn.Module, part: Part) -> tuple[float, float]:
    """Cross-entropy and accuracy on the evaluation views of a part, in eval mode."""
    logits = module.eval()(part.evaluation)
    return float(F.cross_entropy(logits, part.y)), float((logits.argmax(1) == part.y).float().mean())


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
    drawn = torch.randint(views, (images,)).to(train.x.device) if views > 1 else torch.zeros_like(train.y)
    loss_sum = torch.zeros((), device=train.x.device)
    hits = torch.zeros((), device=train.x.device)
    for batch in torch.randperm(len(train.y)).to(train.x.device).split(params.batch_size):  # type: ignore[no-untyped-call]
        logits, labels = module(train.x[batch, drawn[batch]]), train.y[batch]
        loss = losses.loss(logits, labels, params, weights)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if params.clip_grad:
            nn.utils.clip_grad_norm_(module.parameters(), params.clip_grad)
        optimizer.step()
        if not isinstance(schedule, lr_scheduler.ReduceLROnPlateau):
            schedule.step()
        loss_sum += loss.detach() * len(batch)
        hits += (logits.argmax(1) == labels).sum()
    return float(loss_sum) / len(train.y), float(hits) / len(train.y)


def _on(part: Part, device: torch.device) -> Part:
    return Part(part.x.to(device), part.y.to(device), part.rows)
