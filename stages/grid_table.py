"""grid_table: every backbone of the grid on every dataset, side by side, in `reports/grid.md`."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from stages import files, paths
from stages.params import Params
from stages.reporting.gather import read_json
from stages.reporting.words import number, percent
from stages.stage import run

PAGE = paths.REPORTS / "grid.md"
EMPTY = "The grid is empty: `grid` in params.yaml names datasets and backbones."
SCORES = {  # of a task: the metrics that the table has, as it calls them, the one that decides first
    "classification": {"top1": "top-1", "top5": "top-5", "ridge_top1": "ridge top-1"},
    "detection": {"map_50": "mAP at IoU 0.5", "map_50_95": "mAP at IoU 0.5 to 0.95"},
    "largest": {"correct_at_iou50": "class and box right", "accuracy": "class right", "mean_iou": "mean IoU"},
}
Metrics = Mapping[str, Any]


def main(params: Params) -> dict[str, object]:
    """Writes the table: a row for each backbone on each dataset, the best on validation first."""
    grid = params.grid
    cells = [read_json(paths.grid_result(*cell)) for cell in product(grid.datasets, grid.backbones)]
    files.write_bytes(PAGE, (page(cells) if cells else f"# Grid\n\n{EMPTY}\n").encode())
    return {"datasets": len(grid.datasets), "backbones": len(grid.backbones)}


def page(cells: Sequence[Metrics]) -> str:
    """The table in Markdown, from the metrics of each backbone on each dataset."""
    first, scores = cells[0], SCORES[cells[0]["task"]]
    decides = next(name for name in scores if f"val_{name}" in first)
    ranked = sorted(cells, key=lambda cell: -cell[f"val_{decides}"])
    ranked.sort(key=lambda cell: [one["dataset"] for one in cells].index(cell["dataset"]))
    titles = ["dataset", "backbone", f"val {scores[decides]}", *scores.values(), "test images", "parameters"]
    rows = [_row(cell, decides, list(scores)) for cell in ranked]
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join([
        "# Grid", "",
        f"Head {first['head']} on cut {first['cut']}, everything but the dataset and the backbone as in params.yaml. "
        "The best on validation comes first: choose by that, tell test.", "",
        *(f"| {' | '.join(cells)} |" for cells in lines), "",
    ])  # fmt: skip


def _row(cell: Metrics, decides: str, scores: Sequence[str]) -> list[str]:
    judged = [percent(cell.get(name)) for name in scores]
    if (low := cell.get(f"{decides}_low")) is not None:
        judged[scores.index(decides)] += f" ({percent(low)}–{percent(cell[f'{decides}_high'])})"
    val = percent(cell[f"val_{decides}"])
    return [cell["dataset"], cell["backbone"], val, *judged, number(cell["n_test"]), number(cell["parameters_total"])]


if __name__ == "__main__":
    run("grid_table", main, lambda params: f"{len(params.grid.datasets)} x {len(params.grid.backbones)}")
