"""The grid: every backbone on every dataset, in workplaces of their own, and one table."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages import grid, grid_data, grid_table, paths
from stages.errors import UserError
from stages.params import with_overrides

QUICK = {"weights": "random", "image_size": 64, "epochs": 2, "hidden": 8}


def cell(dataset: str, backbone: str, val: float, top1: float | None) -> dict[str, Any]:
    """Metrics of a classifier, with or without a test part."""
    judged = {} if top1 is None else {"top1": top1, "top1_low": top1 - 0.1, "top1_high": top1 + 0.1}
    named = {"task": "classification", "dataset": dataset, "backbone": backbone, "head": "mlp", "cut": "pooled"}
    return named | judged | {"val_top1": val, "ridge_top1": 0.5, "n_test": 40, "parameters_total": 1_000_000}


def test_a_cell_leaves_its_metrics_and_nothing_else(
    workplace: Path,
    class_folder: Callable[[int], Path],
    params: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(workplace))
    chosen = params(
        dataset="folder", root=str(class_folder(8)), grid={"datasets": ["folder"], "backbones": ["resnet18"]}, **QUICK
    )
    grid_data.main(chosen)
    cells = with_overrides(chosen, backbone="resnet18")
    assert grid.main(cells)["computed"] == 24
    found = json.loads(paths.grid_result("folder", "resnet18").read_text())
    assert (found["dataset"], found["backbone"], found["n_test"]) == ("folder", "resnet18", 6)
    assert grid.main(cells)["computed"] == 0  # the rows are in the store
    assert json.loads(paths.grid_result("folder", "resnet18").read_text()) == found
    assert not paths.HEAD.exists() and not list(Path("cache/grid").iterdir())
    grid_table.main(chosen)
    assert "| folder | resnet18 | " in grid_table.PAGE.read_text()


def test_the_best_on_validation_comes_first_on_each_dataset() -> None:
    cells = [
        cell("pets", "small", 0.7, 0.9), cell("pets", "large", 0.8, 0.6),
        cell("cars", "small", 0.4, 0.3), cell("cars", "large", 0.3, None),
    ]  # fmt: skip
    rows = [line for line in grid_table.page(cells).splitlines() if line.startswith("| ")][2:]
    assert [row.split(" | ")[:2] for row in rows] == [
        ["| pets", "large"], ["| pets", "small"], ["| cars", "small"], ["| cars", "large"]
    ]  # fmt: skip
    assert "| 80.0% | 60.0% (50.0%–70.0%) |" in rows[0]
    assert "| 30.0% | – |" in rows[3]


def test_an_empty_grid_is_a_sentence(workplace: Path, params: Callable[..., Any]) -> None:
    grid_table.main(params())
    assert "The grid is empty" in grid_table.PAGE.read_text()


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({"datasets": ["logo"], "backbones": ["resnet18"]}, "did you mean logos"),
        ({"datasets": ["logos"], "backbones": ["resnet81"]}, "`grid`, resnet81 on logos: .*did you mean resnet18"),
        ({"datasets": ["logos"], "backbones": []}, "both have a name, or neither"),
        ({"datasets": ["logos"], "backbones": ["resnet18", "resnet18"]}, "twice"),
    ],
)
def test_a_grid_with_a_slip_is_refused(params: Callable[..., Any], names: dict[str, list[str]], said: str) -> None:
    with pytest.raises(UserError, match=said):
        params(grid=names)
