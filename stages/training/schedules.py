"""The learning rate over time, as a factor on `lr`: a pure function of the step."""

from math import cos, pi

from stages.params import Params

ONE_CYCLE_RISE = 0.3  # of all steps; Smith 2018, with the numbers that fastai made usual
ONE_CYCLE_START, ONE_CYCLE_END = 1 / 25, 1 / 250_000


def factor(step: int, *, steps: int, epochs: int, params: Params) -> float:
    """The factor on `lr` at a step; `plateau` does not depend on the step and has factor 1 here.

    Args:
        step: counted from 0 over all epochs of the phase.
        steps: per epoch.
        epochs: of the phase.
        params: `schedule` and its knobs; `warmup` epochs of a linear rise come before any schedule.
    """
    warmup, total = params.warmup * steps, epochs * steps
    if step < warmup:
        return (step + 1) / warmup
    step, total = step - warmup, max(1, total - warmup)
    if params.schedule == "step":
        return float(params.step_factor ** (step // (params.step_size * steps)))
    if params.schedule == "cosine":
        return _fall(step / total)
    if params.schedule == "restarts":
        return _restarts(step, params.cycle_len * steps, params.cycle_mult)
    if params.schedule == "one_cycle":
        return _one_cycle(step / total)
    return 1.0


def _fall(share: float) -> float:
    """Half a cosine from 1 to 0."""
    return (1 + cos(pi * min(1.0, share))) / 2


def _restarts(step: int, length: int, mult: int) -> float:
    """Cosine falls, each cycle `mult` times as long as the one before (Loshchilov and Hutter 2017)."""
    while step >= length:
        step, length = step - length, length * mult
    return _fall(step / length)


def _one_cycle(share: float) -> float:
    """A cosine rise to 1, then a cosine fall to nearly 0."""
    if share < ONE_CYCLE_RISE:
        return 1 - (1 - ONE_CYCLE_START) * _fall(share / ONE_CYCLE_RISE)
    return ONE_CYCLE_END + (1 - ONE_CYCLE_END) * _fall((share - ONE_CYCLE_RISE) / (1 - ONE_CYCLE_RISE))
