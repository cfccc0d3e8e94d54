"""The list of experiments fits a terminal and says what differs."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from stages import experiments
from stages.params import Params

OWN = {"typ": "baseline", "Created": None, "parent": None, "State": None, "Executor": None}
KNOBS = {
    "dataset": "logos",
    "head": "mlp",
    "lr": 0.001,
    "hidden": 512.0,
    "split.seed": 0.0,
    "decide.tta": "False",  # as DVC gives a truth value
    "datasets.logos.scenes": 40.0,
}
SCORES = {"top1": 0.842, "top5": 0.98, "cross_entropy": 0.5, "top1_low": 0.8, "val_top1": 0.855, "ridge_top1": 0.9}
HEAD: dict[str, Any] = {"Experiment": None, "rev": "main"} | OWN | SCORES | KNOBS


def experiment(name: str, **values: Any) -> dict[str, Any]:
    return HEAD | {"Experiment": name, "rev": "1234567"} | values


def test_each_row_has_the_main_numbers_and_what_differs() -> None:
    shown = [
        HEAD | {"rev": "workspace", "lr": 0.1},
        HEAD,
        experiment("ridge", head="ridge", top1=0.9, hidden=64.0, **{"split.seed": 1.0, "decide.tta": "True"}),
        experiment("later", State="Queued", top1=None, val_top1=None, top5=None, cross_entropy=None),
    ]
    assert experiments.lines(shown, 120) == [
        "experiment  top1   val_top1  top5   cross_entropy  differs from HEAD in",
        "workspace   84.2%  85.5%     98.0%  0.500          lr=0.1",
        "main        84.2%  85.5%     98.0%  0.500",
        "ridge       90.0%  85.5%     98.0%  0.500          head=ridge, hidden=64, split.seed=1, decide.tta=true",
        "later       –      –         –      –              queued",
    ]


def test_a_line_is_not_wider_than_the_terminal_and_no_knob_is_lost() -> None:
    knobs = {f"boxes.{name}": 1.0 for name in Params.model_fields}
    header, _, *texts = experiments.lines([HEAD | knobs, experiment("x" * 12, **dict.fromkeys(knobs, 2.0))], 100)
    assert max(map(len, texts)) <= 100
    column = header.index("differs")
    told = " ".join(text[column:] for text in texts)
    assert told == ", ".join(f"{knob}=2" for knob in knobs)


@pytest.mark.parametrize("text", ["!", "None", "-", None])
def test_a_number_that_dvc_does_not_have_is_a_dash(text: str | None) -> None:
    row = experiments.plain(experiment("boxes", top1=text))
    assert experiments.lines([HEAD, row], 120)[2].split()[:2] == ["boxes", "–"]


def test_a_knob_with_the_name_of_a_metric_is_the_knob() -> None:
    def of_dvc(rev: str, lr: float) -> experiments.Row:
        row = {name: value for name, value in HEAD.items() if name != "lr"} | {"rev": rev}
        columns = {"params.yaml:lr": lr, "reports/lr_sweep.json:lr": 0.2, "reports/metrics.json:lr": 0.3}
        return experiments.plain(columns | row)

    assert experiments.lines([of_dvc("main", 0.001), of_dvc("other", 0.004)], 120)[2].endswith("lr=0.004")


@pytest.mark.parametrize("prefix", ["", "val_"])
def test_the_numbers_are_those_of_the_task(prefix: str) -> None:
    row = {"Experiment": None, "rev": "main"} | OWN | {f"{prefix}map_50": 0.5, f"{prefix}map_75": 0.2, "dataset": "x"}
    assert experiments.numbers([row])[0] == f"{prefix}map_50"


def test_the_way_to_those_of_earlier_commits_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(experiments.LOG, "propagate", True)
    monkeypatch.setattr(experiments, "rows", lambda commits: [{"Experiment": None, "rev": "main"} | OWN | KNOBS])
    with caplog.at_level("INFO"):
        experiments.main(argparse.Namespace(commits=2))
        assert "--commits" not in caplog.text
        experiments.main(argparse.Namespace(commits=1))
    assert "`coldcut experiments --commits 5`" in caplog.text


@pytest.mark.parametrize(
    ("changed", "without"),
    [({}, False), ({"lr": 0.1}, True), ({"split": {"seed": 1}}, True), ({"device": "cuda"}, False)],
)
def test_the_workspace_shows_no_numbers_of_other_knobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], without: bool
) -> None:
    """After `git checkout params.yaml` the numbers that lie there are still those of the last experiment."""
    monkeypatch.chdir(tmp_path)
    knobs = {"lr": 0.001, "split": {"seed": 0}, "datasets": {"logos": {"scenes": 40}}, "device": "auto"}
    lock = {"split": {"params": {"params.yaml": {"split": {"seed": 0}, "datasets.logos": {"scenes": 40}}}},
            "train": {"cmd": "…", "params": {"params.yaml": {"lr": 1e-3}}}, "report": {"cmd": "…"}}  # fmt: skip
    Path("dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": lock}))
    Path("params.yaml").write_text(json.dumps(knobs | changed))
    monkeypatch.setattr("dvc.api.exp_show", lambda num: [HEAD | {"rev": "workspace", "lr": 0.1}, HEAD])
    texts = experiments.lines(experiments.rows(1), 120)
    numbers = "–      –         –      –            " if without else "84.2%  85.5%     98.0%  0.500        "
    assert texts[1] == f"workspace   {numbers}  {'no results yet, ' * without}lr=0.1"
    assert texts[2].startswith("main        84.2%")


def test_without_results_there_are_no_numbers() -> None:
    row = {"Experiment": None, "rev": "main"} | OWN | KNOBS
    assert experiments.lines([row], 80)[0] == "experiment  differs from HEAD in"
