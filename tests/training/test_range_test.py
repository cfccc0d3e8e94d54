"""The range test: rates on a log scale, suggestions by their definition, and nothing left for training."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stages import lr_sweep, paths
from stages.errors import UserError
from stages.training import loop, range_test
from stages.training.data import HeadData, SplitData
from stages.training.range_test import Point

Make = Callable[..., Any]
FEATURES = {"cut": "pooled", "backbone": "squeezenet1_1", "image_size": 64, "weights": "random"}
CPU = torch.device("cpu")


def toy(noise: float = 1.0) -> HeadData:
    generator = torch.Generator().manual_seed(0)
    centres = 6 * torch.nn.functional.one_hot(torch.arange(3), 8).float()

    def split(count: int) -> SplitData:
        y = torch.arange(count) % 3
        x = centres[y] + noise * torch.randn(count, 8, generator=generator)
        return SplitData(x[:, None].expand(-1, 2, -1).clone(), y, list(range(count)))

    return HeadData(["a", "b", "c"], {"train": split(60), "val": split(30), "test": split(3)}, FEATURES)


@pytest.fixture
def turned(workplace: Path, params: Make) -> Make:
    def make(**overrides: Any) -> Any:
        return params(**({"head": "mlp", "hidden": 16, "epochs": 4, "batch_size": 16} | overrides))

    return make


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_rates_grow_evenly_on_a_log_scale_and_the_loss_falls(turned: Make, optimizer: str) -> None:
    sweep = {"low": 1e-5, "high": 0.1, "steps": 41}
    points = range_test.range_test("mlp", toy(), params=turned(optimizer=optimizer, lr_sweep=sweep), device=CPU)
    assert [point.lr for point in points] == pytest.approx([1e-5 * 10 ** (n / 10) for n in range(41)])
    assert min(point.smoothed for point in points) < 0.9 * points[0].smoothed


def test_it_stops_where_the_loss_diverges(turned: Make) -> None:
    sweep = {"low": 1e-3, "high": 1e9, "steps": 100}
    points = range_test.range_test("mlp", toy(4.0), params=turned(optimizer="sgd", lr_sweep=sweep), device=CPU)
    assert 3 < len(points) < 100
    assert all(point.loss < 1e30 for point in points)


def test_the_chosen_rate_plays_no_part(turned: Make) -> None:
    first, second = (range_test.range_test("mlp", toy(), params=turned(lr=lr), device=CPU) for lr in (1e-4, 0.5))
    assert first == second


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_training_after_it_is_bit_identical_to_training_without(turned: Make, dropout: float) -> None:
    data, chosen = toy(), turned(dropout=dropout)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    plain = loop.fit("mlp", data, params=chosen, device=CPU)
    range_test.range_test("mlp", data, params=chosen, device=CPU)
    assert torch.equal(torch.get_rng_state(), state)
    after = loop.fit("mlp", data, params=chosen, device=CPU)
    assert plain.history == after.history
    for name, tensor in plain.module.state_dict().items():
        assert torch.equal(tensor, after.module.state_dict()[name])


def test_the_file(tmp_path: Path) -> None:
    range_test.write(tmp_path / "x.csv", [Point(0.001, 1 / 3, 0.5)])
    assert (tmp_path / "x.csv").read_text() == "lr,loss,smoothed\n0.001,0.333333,0.5\n"


def test_without_steps_nothing_is_tried(turned: Make) -> None:
    chosen = turned(lr_sweep={"steps": 0})
    assert lr_sweep.main(chosen) == {"steps": 0}  # there is no feature file that it could read
    assert (paths.PLOTS / "lr_sweep.csv").read_text().split() == ["lr,loss,smoothed"]
    assert json.loads((paths.REPORTS / "lr_sweep.json").read_text()) == {}


@pytest.mark.parametrize("steps", [1, 9, -1])
def test_few_steps_are_refused(turned: Make, steps: int) -> None:
    with pytest.raises(UserError, match="steps"):
        turned(lr_sweep={"steps": steps})
