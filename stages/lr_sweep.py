"""lr_sweep: a learning-rate range test on a copy of the head; training takes nothing from it."""

from stages import files, paths
from stages.backbones.device import pick_device
from stages.heads.registry import HEADS
from stages.params import Params
from stages.stage import run
from stages.training import data, range_test


def main(params: Params) -> dict[str, object]:
    """Writes the curve to `reports/plots/lr_sweep.csv` and two suggestions to `reports/lr_sweep.json`.

    A head that is solved has no learning rate: its curve is empty.
    """
    points = []
    if not HEADS[params.head].closed_form:
        points = range_test.range_test(params.head, data.load_data(params), params, pick_device(params.device))
    found = {name: float(f"{lr:.2g}") for name, lr in range_test.suggestions(points).items()}
    range_test.write(paths.PLOTS / "lr_sweep.csv", points)
    files.write_json(paths.REPORTS / "lr_sweep.json", found)
    return {"steps": len(points), **{name.replace("_", " "): lr for name, lr in found.items()}}


def _what(params: Params) -> str:
    """What is about to be tried."""
    if HEADS[params.head].closed_form:
        return f"nothing, {params.head} has no learning rate"
    return f"{params.head}, {params.lr_sweep.steps} steps from lr {params.lr_sweep.low:g} to {params.lr_sweep.high:g}"


if __name__ == "__main__":
    run("lr_sweep", main, _what)
