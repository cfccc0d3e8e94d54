"""The learning rate over time."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from stages.errors import UserError
from stages.training.schedules import ONE_CYCLE_END, ONE_CYCLE_START, factor

STEPS, EPOCHS = 5, 20
TOTAL = STEPS * EPOCHS


@pytest.fixture
def factors(params: Callable[..., Any]) -> Callable[..., list[float]]:
    """`factors(schedule=…)`: the factor at every step."""

    def make(**overrides: Any) -> list[float]:
        chosen = params(epochs=EPOCHS, **overrides)
        return [factor(step, steps=STEPS, epochs=chosen.epochs, params=chosen) for step in range(TOTAL + 1)]

    return make


def reference(make: Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]) -> list[float]:
    """The same by torch's own scheduler."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = make(optimizer)
    rates = []
    for _ in range(TOTAL):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def test_constant(factors: Callable[..., list[float]]) -> None:
    assert set(factors(schedule="constant")) == {1.0}


def test_cosine_is_torchs(factors: Callable[..., list[float]]) -> None:
    expected = reference(lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, T_max=TOTAL))
    assert factors(schedule="cosine")[:TOTAL] == pytest.approx(expected, abs=1e-9)
    assert factors(schedule="cosine")[TOTAL] == pytest.approx(0)


def test_step_is_torchs(factors: Callable[..., list[float]]) -> None:
    expected = reference(lambda optimizer: lr_scheduler.StepLR(optimizer, step_size=6 * STEPS, gamma=0.3))
    assert factors(schedule="step", step_size=6, step_factor=0.3)[:TOTAL] == pytest.approx(expected)


@pytest.mark.parametrize(("length", "mult"), [(4, 1), (3, 2)])
def test_restarts_are_torchs(factors: Callable[..., list[float]], length: int, mult: int) -> None:
    expected = reference(
        lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=length * STEPS, T_mult=mult)
    )
    actual = factors(schedule="restarts", cycle_len=length, cycle_mult=mult)
    assert actual[:TOTAL] == pytest.approx(expected, abs=1e-9)


def test_one_cycle(factors: Callable[..., list[float]]) -> None:
    actual = factors(schedule="one_cycle")
    assert actual[0] == pytest.approx(ONE_CYCLE_START)
    assert max(actual) == actual[30] == pytest.approx(1)
    assert actual[TOTAL] == pytest.approx(ONE_CYCLE_END)
    assert actual[:31] == sorted(actual[:31]) and actual[30:] == sorted(actual[30:], reverse=True)


@pytest.mark.parametrize("schedule", ["constant", "step", "cosine", "restarts", "one_cycle"])
def test_a_warm_up_rises_and_then_the_schedule_starts(factors: Callable[..., list[float]], schedule: str) -> None:
    actual = factors(schedule=schedule, warmup=2)
    assert actual[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert actual[10] == pytest.approx(ONE_CYCLE_START if schedule == "one_cycle" else 1)


@pytest.mark.parametrize(
    ("turned", "said"),
    [({"schedule": "plateau", "warmup": 2}, "does not go with schedule plateau"), ({"warmup": 20}, "must end before")],
)
def test_a_warm_up_that_cannot_be(params: Callable[..., Any], turned: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        params(epochs=EPOCHS, **turned)
