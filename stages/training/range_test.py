"""The learning-rate range test (Smith 2017, arXiv:1506.01186, §3.3): the loss while the rate grows from step to step.

It trains a head of its own with its own random state, and leaves nothing behind for training.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import chain, count
from pathlib import Path

import torch
from tqdm import tqdm

from stages import files
from stages.heads.registry import HEADS
from stages.params import Params, with_overrides
from stages.training import loop, tasks
from stages.training.data import HeadData
from stages.training.learning_rate import Suggestion, suggest
from stages.training.options import Phase

SMOOTHING = 0.95  # of the running mean of the losses
DIVERGED = 4.0  # times the lowest smoothed loss: the test stops there


@dataclass(frozen=True)
class Point:
    """One step: its rate, the loss of its batch, and the running mean of the losses."""

    lr: float
    loss: float
    smoothed: float


def range_test(head: str, data: HeadData, *, params: Params, device: torch.device) -> list[Point]:
    """Trains a new head for `lr_sweep.steps` steps, the rate growing evenly on a log scale from `low` to `high`.

    Whatever the first phase trains of the rest trains here too. Its rates keep the ratio to the head's rate that they
    have at the head's default (or at the phase's own rate), so that the curve does not depend on `lr`.

    Args:
        head: its name.
        data: the features and labels; train is read.
        params: `lr_sweep`, and everything that is set for training.
        device: where to train.

    Returns:
        One point per step, up to where the loss diverges.
    """
    train, sweep, points = data.splits["train"].to(device), params.lr_sweep, list[Point]()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(params.seed)
        module, knobs = loop.start(head, data, train=train, params=params, device=device)
        phase = params.phases[0] if params.phases else Phase(epochs=1)
        groups = loop.unfreeze(module, phase, with_overrides(params, {"lr": HEADS[head].default_lr}))
        optimizer = loop.make_optimizer(groups, params)
        shares = [group["lr"] / groups[0]["lr"] for group in groups]
        task = tasks.task_of(head, module, knobs, data=data, params=params)
        module.train()
        mean = lowest = math.inf
        running = 0.0
        passes = chain.from_iterable(loop.draw(train, params.batch_size) for _ in count())
        steps = tqdm(range(sweep.steps), unit=" steps", leave=False, delay=2)
        for number, (images, views) in zip(steps, passes, strict=False):
            lr = sweep.low * (sweep.high / sweep.low) ** (number / (sweep.steps - 1))
            for group, share in zip(optimizer.param_groups, shares, strict=True):
                group["lr"] = share * lr
            batch, affine = train.training_batch(images, views)
            targets = task.targets(train, images, views=views, affine=affine)
            loss = float(loop.step(module, batch, targets=targets, optimizer=optimizer, params=params, task=task)[0])
            running = SMOOTHING * running + (1 - SMOOTHING) * loss
            mean = running / (1 - SMOOTHING ** (number + 1))
            if not math.isfinite(loss) or mean > DIVERGED * lowest:
                break
            lowest = min(lowest, mean)
            points.append(Point(lr, loss, mean))
    return points


def suggestion(points: Sequence[Point], steps: int) -> Suggestion:
    """The rate that the points suggest.

    Args:
        points: of the test.
        steps: how many it should have had; fewer points mean that the loss diverged.
    """
    rates, losses = [point.lr for point in points], [point.loss for point in points]
    return suggest(rates, losses, diverged=len(points) < steps)


def write(path: Path, points: Sequence[Point]) -> None:
    """Writes the points as `lr,loss,smoothed`."""
    files.write_csv(path, [field.name for field in fields(Point)], map(asdict, points), digits=6)
