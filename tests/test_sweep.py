"""The sweep command: what it writes, what it chooses, what it refuses."""

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stages import paths, sweep
from stages.errors import UserError
from stages.params import Params, from_tree
from stages.training import data as loading
from stages.training import loop
from stages.training.data import HeadData, SplitData
from tests import defaults

Make = Callable[..., Params]
FEATURES = {"cut": "pooled", "backbone": "squeezenet1_1", "image_size": 64}
NONE: dict[str, str | None] = dict.fromkeys(sweep.AXES)


@pytest.fixture
def turned(workplace: Path, params: Make, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Params of a workplace with small features."""
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> SplitData:
        y = torch.arange(count) % 3
        x = torch.nn.functional.one_hot(y, 6) + 0.8 * torch.randn(count, 6, generator=generator)
        return SplitData(x[:, None], y, list(range(count)))

    head_data = HeadData(["a", "b", "c"], {"train": split(60), "val": split(30), "test": split(3)}, FEATURES)
    monkeypatch.setattr(loading, "load_data", lambda params: head_data)
    return lambda **knobs: params(**({"epochs": 3, "hidden": 8, "batch_size": 16} | knobs))


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["sweep", *arguments])
    with pytest.raises(SystemExit) as ended:
        sweep.run()
    if ended.value.code:
        raise ended.value


def test_a_row_a_setting_the_best_first(turned: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    turned(head="mlp", lr=0.01)
    command(monkeypatch, "--lr", "0.001,0.01", "--weight-decay", "0,0.01,0.1", "--dropout", "0,0.6", "--seeds", "2")
    with sweep.CSV.open() as lines:
        rows = list(csv.DictReader(lines))
    assert len({tuple(row[name] for name in sweep.AXES) for row in rows}) == len(rows) == 12
    losses = [float(row["val_loss"]) for row in rows]
    assert losses == sorted(losses)
    assert {row["seeds"] for row in rows} == {"2"}
    assert sweep.MAP.read_bytes().startswith(b"\x89PNG")


def test_results_are_means_over_the_seeds(turned: Make) -> None:
    chosen = turned(head="mlp", lr=0.01, seed=4)
    (row,) = sweep.main(chosen, NONE | {"lr": "0.01", "weight_decay": "0.01"}, 3)
    data = loading.load_data(chosen)
    best = []
    for seed in (4, 5, 6):
        head = loop.fit("mlp", data, params=chosen.model_copy(update={"seed": seed}), device=torch.device("cpu"))
        best.append(head.history[head.best_epoch - 1])
    assert row.val_loss == pytest.approx(sum(epoch.val_loss for epoch in best) / 3, rel=1e-5)
    assert row.val_accuracy == pytest.approx(sum(epoch.val_accuracy for epoch in best) / 3, rel=1e-5)


@pytest.mark.parametrize("monitor", ["val_loss", "val_accuracy"])
def test_the_choice_is_at_least_as_good_as_params_yaml(turned: Make, monitor: str) -> None:
    chosen = turned(head="linear", monitor=monitor, lr=0.02)
    rows = sweep.main(chosen, NONE | {"lr": "0.00001,10"}, 1)  # its own rate is not in the axis
    (own,) = [row for row in rows if (row.lr, row.weight_decay) == (chosen.lr, chosen.weight_decay)]
    assert sweep._score(rows[0], monitor) <= sweep._score(own, monitor)


def test_the_same_sweep_gives_the_same_bytes(turned: Make) -> None:
    def everything() -> dict[str, bytes]:
        sweep.main(turned(head="linear"), NONE, 1)
        return {str(path): path.read_bytes() for path in paths.REPORTS.rglob("*") if path.is_file()}

    first = everything()
    assert len(first) == 3
    assert everything() == first


def test_the_command_trains_the_best(turned: Make, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    turned(head="linear", lr=1e-6, weight_decay=0.5)
    command(monkeypatch, "--lr", "0.03", "--weight-decay", "0.5")
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == "dvc exp run -S lr=0.03"
    assert "dvc exp run -S lr=0.03\n" in sweep.PAGE.read_text()
    assert "python -m stages.sweep --lr 0.03 --weight-decay 0.5 --seeds 1" in sweep.PAGE.read_text()
    assert "(sweep.png)" in sweep.PAGE.read_text()


def test_the_command_names_the_head_where_auto_would_choose_another(
    turned: Make, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    turned(head="auto", lr=1e-6)
    command(monkeypatch, "--lr", "0.03", "--weight-decay", "0.01")
    train = capsys.readouterr().out.splitlines()[-1]
    assert train == "dvc exp run -S head=mlp -S lr=0.03"
    assert f"{train}\n" in sweep.PAGE.read_text() and "head mlp on" in sweep.PAGE.read_text()


def test_a_setting_that_diverges_comes_last(turned: Make) -> None:
    rows = sweep.main(turned(head="mlp", optimizer="sgd", schedule="constant"), NONE | {"lr": "1e30,0.01"}, 1)
    assert {row.lr for row in rows if row.val_loss is None} == {1e30}
    assert rows[-1].lr == 1e30 and rows[0].val_loss is not None
    assert "diverged" in sweep.PAGE.read_text()


def test_where_all_diverge_the_rate_is_named(turned: Make) -> None:
    chosen = turned(head="mlp", optimizer="sgd", schedule="constant", lr=1e30)
    with pytest.raises(UserError, match=r"not finite: try smaller values of `--lr`"):
        sweep.main(chosen, NONE | {"lr": "1e30", "weight_decay": "0"}, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lr", ""], "`--lr` is empty: give numbers"),
        (["--weight-decay", ","], "`--weight-decay` is empty"),
        (["--lr", "0.1,fast"], "`--lr` takes numbers separated by commas"),
        (["--lr", "0.1,0"], "`--lr` must be greater than 0, found 0"),
        (["--lr", "nan"], "`--lr` must be a finite number"),
        (["--dropout", "1"], "`--dropout` must be less than 1, found 1"),
        (["--label-smoothing", "-0.1"], "`--label-smoothing` must be greater than or equal to 0, found -0.1"),
        (["--seeds", "0"], "`--seeds` must be at least 1, found 0"),
    ],
)
def test_bad_axes_are_refused(
    turned: Make, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    turned(head="mlp")
    with pytest.raises(SystemExit) as stopped:
        command(monkeypatch, *arguments)
    assert message in str(stopped.value.code)
    assert not paths.REPORTS.exists()


def test_a_head_that_cannot_be_stacked_is_refused_by_name(turned: Make) -> None:
    with pytest.raises(UserError, match="heads linear and mlp, found head: ridge"):
        sweep.grid(turned(head="ridge"), NONE)


@pytest.mark.parametrize("knobs", [{"cut": "layer3", "tap": "pooled"}, {"cut": "input"}], ids=["tap", "pixels"])
def test_features_that_are_no_vectors_are_refused_with_what_fits(turned: Make, knobs: dict[str, str]) -> None:
    with pytest.raises(UserError, match=r"found cut=\w+, tap=\w+: take tap=same \(and no `phases`\)"):
        sweep.grid(turned(head="mlp", **knobs), NONE)


def test_an_axis_that_does_not_matter_is_refused(turned: Make) -> None:
    with pytest.raises(UserError, match="does not matter to head linear"):
        sweep.grid(turned(head="linear"), NONE | {"dropout": "0.5"})


def test_without_axes_it_is_64_heads_around_params_yaml(turned: Make) -> None:
    chosen = turned(head="linear", lr=0.003)
    settings = sweep.grid(chosen, NONE)
    assert len(settings) == 64 and chosen in settings
    assert sorted({setting.lr for setting in settings})[::7] == [0.0003, 0.06]


@given(
    rates=st.lists(st.floats(1e-8, 1e3), min_size=1, max_size=5),
    decays=st.lists(st.floats(0, 10), min_size=1, max_size=5),
)
def test_a_grid_is_every_combination_once_and_the_own_setting(rates: list[float], decays: list[float]) -> None:
    chosen = from_tree(defaults.tree())
    axes = {"lr": ",".join(map(repr, rates)), "weight_decay": ",".join(map(repr, decays))}
    pairs = [(setting.lr, setting.weight_decay) for setting in sweep.grid(chosen, NONE | axes)]
    assert len(set(pairs)) == len(pairs)
    own = {(chosen.lr, chosen.weight_decay)}
    assert set(pairs) == {(rate, decay) for rate in rates for decay in decays} | own


def test_it_says_what_it_starts_and_how_long_that_may_take(
    turned: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    turned(head="linear")
    command(monkeypatch, "--lr", "0.1,0.01", "--weight-decay", "0")
    said = "trains 3 linear heads at once, up to 3 epochs on "
    assert said in capsys.readouterr().err
    paths.TIMINGS.mkdir(parents=True, exist_ok=True)
    for count, said in ((60, "`dvc repro` took 20.0 s for one, so this takes 60 s at most"), (61, "")):
        timing = {"of": {"head": "linear"}, "seconds": 20.0, "train images": count}
        (paths.TIMINGS / "train.json").write_text(json.dumps(timing))
        command(monkeypatch, "--lr", "0.1,0.01", "--weight-decay", "0")
        shown = capsys.readouterr().err
        assert said in shown and ("dvc repro" in shown) == bool(said)
