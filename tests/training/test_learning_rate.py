"""What a range test suggests: the steepest descent of a valley, and nothing where the curve has none."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages import paths
from stages.errors import UserError
from stages.training import learning_rate
from stages.training.learning_rate import SAFETY, suggest

RATES = [10 ** (number / 25 - 6) for number in range(150)]


def curve(noise: float = 0.0, fall: float = 2.0, middle: float = -3.0, rise: float = -1.0) -> list[float]:
    """Losses that fall around 10^middle, most steeply there, and rise from 10^rise on."""
    x = np.log10(RATES)
    losses = 2.5 - fall / (1 + np.exp(-4 * (x - middle))) + np.maximum(0, x - rise)
    return list(losses + noise * np.random.default_rng(0).standard_normal(len(x)))


@pytest.mark.parametrize("middle", [-4.0, -3.0, -2.0])
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_the_middle_between_steepest_and_lowest_over_a_safety_factor(middle: float, noise: float) -> None:
    losses = curve(noise, middle=middle)
    lowest = RATES[int(np.argmin(curve(middle=middle)))]
    expected = (10**middle * lowest) ** 0.5 / SAFETY
    lr = suggest(RATES, losses, diverged=False).lr
    assert lr and expected / 4 < lr < expected * 4  # noise moves the bottom of a flat valley


def test_an_unsettled_beginning_is_not_a_descent() -> None:
    losses = [3.2, 2.9, 2.2, *curve()[3:]]
    lr = suggest(RATES, losses, diverged=False).lr
    assert lr and lr > 1e-4


@pytest.mark.parametrize(
    ("losses", "diverged", "reason"),
    [
        (curve(0.3, fall=0.0, rise=1.0), False, "hardly falls"),
        (curve(fall=0.05, rise=1.0), False, "hardly falls"),
        (curve(middle=0.0, rise=1.0), False, "still falls"),
        (curve()[:5], True, "within a few steps"),
        ([], True, "within a few steps"),
    ],
    ids=["noise", "flat", "falls at the edge", "five steps", "none"],
)
def test_without_a_valley_nothing_is_suggested(losses: list[float], diverged: bool, reason: str) -> None:
    suggestion = suggest(RATES[: len(losses)], losses, diverged=diverged)
    assert suggestion.lr is None and reason in suggestion.reason


def test_a_test_that_diverges_has_its_valley_before() -> None:
    losses = curve()
    assert suggest(RATES[:130], losses[:130], diverged=True) == suggest(RATES[:130], losses[:130], diverged=False)


@pytest.fixture
def auto(workplace: Path, params: Callable[..., Any]) -> Callable[..., Any]:
    """`auto(content, **knobs)`: what `lr: auto` takes beside this `reports/lr_sweep.json`."""

    def make(content: object, **knobs: Any) -> Any:
        paths.REPORTS.mkdir(exist_ok=True)
        (paths.REPORTS / "lr_sweep.json").write_text(json.dumps(content))
        return learning_rate.resolve(params(**({"lr": "auto"} | knobs)))

    return make


def test_auto_takes_the_suggestion(auto: Callable[..., Any]) -> None:
    params, source, words = auto({"lr": 0.0021})
    assert (params.learning_rate, source) == (0.0021, "range test") and "0.0021" in words


def test_auto_takes_the_default_of_the_head_where_there_is_no_suggestion(auto: Callable[..., Any]) -> None:
    params, source, words = auto({"lr": None, "reason": "the loss hardly falls at any rate"}, head="mlp")
    assert (params.learning_rate, source) == (0.001, "default of mlp")
    assert "the loss hardly falls at any rate" in words


def test_auto_takes_the_default_of_the_head_where_the_range_test_is_left_out(auto: Callable[..., Any]) -> None:
    params, _, words = auto({}, head="mlp", lr_sweep={"steps": 0})
    assert params.learning_rate == 0.001 and words.endswith("the default of mlp: `lr_sweep.steps` is 0")


@pytest.mark.parametrize("knobs", [{"lr": 0.5}, {"head": "ridge"}])
def test_a_number_and_a_solved_head_ask_nobody(auto: Callable[..., Any], knobs: dict[str, Any]) -> None:
    params, source, _ = auto({}, **knobs)
    assert params.lr == knobs.get("lr", "auto") and source is None


def test_a_missing_range_test_is_told(workplace: Path, params: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match=r"lr_sweep\.json"):
        learning_rate.resolve(params(lr="auto"))
