"""Which learning rate `lr: auto` takes: what a range test suggests, else the default of the head."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages import paths, results
from stages.heads.registry import HEADS
from stages.params import Params, with_overrides

WIDTH = 1 / 25  # of the steps: the standard deviation of the bell that smooths the losses
FEWEST = 10  # steps; with fewer the curve says nothing
FALL = 0.05  # the loss must fall by at least this share of its first value,
CLEAR = 1.0  # and by at least this many standard deviations of single steps
START = 1 / 8  # the share of the steps in which the rate is still too low to matter
EDGE = 0.1  # the valley begins where the loss has done this share of its fall
SAFETY = 2.0  # the middle of the descent is divided by this: a rate too high costs more than one too low
RANGE_TEST = "range test"


@dataclass(frozen=True)
class Suggestion:
    """The learning rate that a range test suggests.

    Attributes:
        lr: the rate to take; None if the curve shows none.
        reason: why there is none, as the end of a sentence.
    """

    lr: float | None
    reason: str = ""

    def as_json(self) -> dict[str, Any]:
        """The contents of `reports/lr_sweep.json`."""
        return {"lr": self.lr} if self.lr is not None else {"lr": None, "reason": self.reason}


def suggest(rates: Sequence[float], losses: Sequence[float], *, diverged: bool) -> Suggestion:
    """The middle, on the log scale, between the steepest descent and the bottom of the valley, divided by SAFETY.

    The steepest descent alone is too low if the valley is wide: the grid head on 98 photographs then reaches a val
    map_50 of 0.2 in twelve epochs instead of 0.4. A tenth of the bottom is too low if the valley is narrow.
    The losses are smoothed from both sides, so that the curve does not lag behind the rates. A running mean lags by
    most of a decade.

    Args:
        rates: one per step, growing evenly on a log scale.
        losses: the loss of the batch of each step.
        diverged: the test stopped early because the loss rose.
    """
    if len(rates) < FEWEST:
        return Suggestion(None, "the loss diverged within a few steps" if diverged else "there are too few steps")
    width = max(1.0, WIDTH * len(losses))
    curve = smoothed(np.array(losses), width)
    lowest = int(curve.argmin())
    start = float(np.median(losses[: max(3, int(START * len(losses)))]))  # the first steps are far apart by chance
    fall = start - float(curve[lowest])
    if fall < max(FALL * abs(start), CLEAR * float(np.std(losses - curve))):
        return Suggestion(None, "the loss hardly falls at any rate")
    if lowest >= len(curve) - width and not diverged:
        return Suggestion(None, "the loss still falls at the highest rate: raise `lr_sweep.high`")
    slope = np.gradient(curve)
    begin = int(np.flatnonzero(curve[: lowest + 1] > start - EDGE * fall).max(initial=0))  # of the valley's near side
    steepest = begin + int(slope[begin : lowest + 1].argmin())
    return Suggestion(float(f"{math.sqrt(rates[steepest] * rates[lowest]) / SAFETY:.2g}"))


def smoothed(losses: NDArray[np.float64], width: float) -> NDArray[np.float64]:
    """Losses (n,) smoothed by a Gaussian; beyond the ends the first and the last loss are repeated.

    Args:
        losses: one per step.
        width: the standard deviation of the Gaussian, in steps.
    """
    reach = int(4 * width) + 1
    bell = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    return np.convolve(np.pad(losses, reach, mode="edge"), bell / bell.sum(), "valid")


def resolve(params: Params) -> tuple[Params, str | None, str]:
    """Params with a number in place of `lr: auto`.

    Returns:
        The params, where the number comes from, and a sentence that says so. If `lr` is a number already or the head
        has no learning rate: the same params, None and an empty sentence.

    Raises:
        UserError: there is no range test to read.
    """
    spec = HEADS[params.head]
    if params.lr != "auto" or spec.closed_form:
        return params, None, ""
    suggestion: Mapping[str, Any] = results.read_json(paths.REPORTS / "lr_sweep.json")
    if lr := suggestion.get("lr"):
        return with_overrides(params, {"lr": lr}), RANGE_TEST, f"lr: auto takes {lr:g}, what the range test suggests"
    source, lr = f"default of {params.head}", spec.default_lr
    if suggestion:
        why = f"the range test suggests none, as {suggestion['reason']}"
    else:
        why = "head auto has no range test" if params.lr_sweep.steps else "`lr_sweep.steps` is 0"
    sentence = f"lr: auto takes {lr:g}, the {source}: {why}"
    return with_overrides(params, {"lr": lr}), source, sentence
