"""lr_sweep: a learning-rate range test on a copy of the head; `lr: auto` takes what it suggests."""

from stages import files, paths
from stages.backbones.device import pick_head_device
from stages.heads.registry import HEADS
from stages.params import Params
from stages.stage import run
from stages.training import range_test
from stages.training.data import load_data


def main(params: Params) -> dict[str, object]:
    """Writes the curve to `reports/plots/lr_sweep.csv` and what it suggests to `reports/lr_sweep.json`.

    A head in closed form has no learning rate: its curve is empty. So is that of head auto, whose mlp is one of many
    candidates and trains at the rate of params.yaml, and the curve of no steps.
    """
    points, content = list[range_test.Point](), dict[str, object]()
    if _has_rate(params) and params.lr_sweep.steps:
        device = pick_head_device(params.device)
        points = range_test.range_test(params.head, load_data(params), params=params, device=device)
        content = range_test.suggestion(points, params.lr_sweep.steps).as_json()
    range_test.write(paths.PLOTS / "lr_sweep.csv", points)
    files.write_json(paths.REPORTS / "lr_sweep.json", content)
    if reason := content.get("reason"):
        print(f"lr_sweep: no rate is suggested, because {reason}", flush=True)
        return {"steps": len(points)}
    return {"steps": len(points), **{f"suggested {name}": value for name, value in content.items()}}


def _has_rate(params: Params) -> bool:
    return not (HEADS[params.head].closed_form or HEADS[params.head].candidates)


def _what(params: Params) -> str:
    """What is about to be tried."""
    if not _has_rate(params):
        return f"nothing to do, head {params.head} has no learning rate of its own"
    if not params.lr_sweep.steps:
        return "nothing to do, `lr_sweep.steps` is 0"
    return f"{params.head}, {params.lr_sweep.steps} steps from lr {params.lr_sweep.low:g} to {params.lr_sweep.high:g}"


if __name__ == "__main__":
    run("lr_sweep", main, announce=_what)
