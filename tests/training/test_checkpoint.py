"""Training that was cut off goes on from its last epoch and ends with the same bytes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stages import paths
from stages.training import checkpoint, loop
from stages.training.checkpoint import Checkpoint
from stages.training.data import HeadData, SplitData
from stages.training.model import TrainResult

Make = Callable[..., Any]
FEATURES = {"cut": "pooled", "backbone": "squeezenet1_1", "image_size": 64}
CPU = torch.device("cpu")
TRAIN = """
import os, sys, torch
sys.path.insert(0, {root!r})
from pathlib import Path
from stages import params
from stages.training import checkpoint, loop, model
from tests.training.test_checkpoint import toy
torch.set_num_threads(1)
checkpoint.SECONDS = 0
found = loop.fit("mlp", toy(2000, 256), params=params.load(), device=torch.device("cpu"))
model.save_head(Path("head"), found.module, {{"epochs": len(found.history)}})
"""


class Killed(BaseException):
    """Stands for a signal."""


def toy(train: int = 60, columns: int = 8, views: int = 2) -> HeadData:
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> SplitData:
        y = torch.arange(count) % 3
        x = torch.randn(count, views, columns, generator=generator)
        x[:, :, 0] += y[:, None]
        return SplitData(x, y, list(range(count)))

    return HeadData(
        ["a", "b", "c"],
        {"train": split(train), "val": split(30), "test": split(3)},
        {"cut": "pooled", "backbone": "squeezenet1_1", "image_size": 64},
        "identity",
    )


@pytest.fixture
def turned(workplace: Path, params: Make, monkeypatch: pytest.MonkeyPatch) -> Make:
    monkeypatch.setattr(checkpoint, "SECONDS", 0)

    def make(**overrides: Any) -> Any:
        plain = {"head": "mlp", "epochs": 12, "batch_size": 16, "lr": 0.01, "hidden": 16, "early_stopping_patience": 4}
        return params(**(plain | overrides))

    return make


def cut_off(monkeypatch: pytest.MonkeyPatch, chosen: Any, after: int) -> None:
    """Trains until so many epochs are kept."""
    evaluate, calls = loop.evaluate, list[int]()

    def counted(module: Any, split: SplitData, task: Any) -> Any:
        calls.append(1)
        if len(calls) > after:
            raise Killed
        return evaluate(module, split, task)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "evaluate", counted)
        with pytest.raises(Killed):
            loop.fit("mlp", toy(), params=chosen, device=CPU)


def same(first: TrainResult, second: TrainResult) -> bool:
    states = first.module.state_dict(), second.module.state_dict()
    return first.history == second.history and all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("schedule", ["cosine", "plateau", "one_cycle"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_it_goes_on_with_the_same_result(
    turned: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], optimizer: str, schedule: str
) -> None:
    chosen = turned(optimizer=optimizer, schedule=schedule)
    expected = loop.fit("mlp", toy(), params=chosen, device=CPU)
    cut_off(monkeypatch, chosen, after=2)
    cut_off(monkeypatch, chosen, after=1)
    result = loop.fit("mlp", toy(), params=chosen, device=CPU)
    assert "resumed after epoch 3" in capsys.readouterr().out
    assert same(result, expected)
    assert not list((paths.store() / "train").iterdir())  # a finished run leaves nothing behind


@pytest.mark.parametrize("change", [{"lr": 0.02}, {"seed": 1}, {"dropout": 0.1}])
def test_another_run_does_not_take_it(
    turned: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], change: dict[str, Any]
) -> None:
    cut_off(monkeypatch, turned(), after=2)
    loop.fit("mlp", toy(), params=turned(**change), device=CPU)
    assert "resumed" not in capsys.readouterr().out


@pytest.mark.parametrize("size", [0, 100])
def test_a_damaged_one_is_passed_over(turned: Make, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    chosen = turned()
    expected = loop.fit("mlp", toy(), params=chosen, device=CPU)
    cut_off(monkeypatch, chosen, after=2)
    (path,) = (paths.store() / "train").iterdir()
    path.write_bytes(path.read_bytes()[:size])
    assert same(loop.fit("mlp", toy(), params=chosen, device=CPU), expected)


def test_a_second_passes_between_two(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: clock[0])
    kept = Checkpoint({})
    for moment, expected in ((0.5, None), (1.0, 1), (1.9, 1), (2.0, 3)):
        clock[0] = moment
        kept.save({"step": {0.5: 0, 1.0: 1, 1.9: 2, 2.0: 3}[moment]})
        assert (kept.load() or {"step": None})["step"] == expected


@pytest.mark.slow
def test_kill_9_and_again_is_the_same_head_byte_for_byte(turned: Make, workplace: Path, repository: Path) -> None:
    turned(epochs=40, hidden=512, early_stopping_patience=100)
    environment = {name: value for name, value in os.environ.items() if name != "DVC_ROOT"}
    command = [sys.executable, "-c", TRAIN.format(root=str(repository))]

    def run() -> dict[str, bytes]:
        subprocess.run(command, cwd=workplace, env=environment, check=True)
        return {path.name: path.read_bytes() for path in (workplace / "head").iterdir()}

    expected = run()
    for _ in range(3):
        before = {path: path.stat().st_mtime_ns for path in (workplace / "cache/store/train").glob("*.pt")}
        process = subprocess.Popen(command, cwd=workplace, env=environment)
        while before == {path: path.stat().st_mtime_ns for path in (workplace / "cache/store/train").glob("*.pt")}:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert run() == expected
