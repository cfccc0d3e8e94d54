"""grid: a backbone on a dataset of the grid, from extraction to the metrics, in `reports/grid/`."""

import shutil
from pathlib import Path

from stages import files, paths
from stages.features import watchdog
from stages.params import Params
from stages.stage import run


def main(params: Params) -> dict[str, object]:
    """Runs extract, train and evaluate in a workplace of their own; of what they leave, the metrics stay.

    Features go to the row store as those of every experiment do.
    """
    from stages import evaluate, extract, train  # torch is imported in the process that works, as in extract

    data = paths.grid_data(params.dataset).absolute() / "data"
    result = paths.grid_result(params.dataset, params.backbone).absolute()
    home = Path("cache/grid").absolute() / result.stem
    shutil.rmtree(home, ignore_errors=True)  # of a killed run
    try:
        with paths.workplace(home):
            Path("data").symlink_to(data)
            extracted = extract.main(params)
            train.main(params)
            judged = evaluate.main(params)
            files.copy(paths.REPORTS / "metrics.json", result)
    finally:
        shutil.rmtree(home)
    return {"computed": extracted["computed"], **judged}


if __name__ == "__main__":
    watchdog.start()
    run("grid", main, lambda params: f"{params.backbone} on {params.dataset}", knobs=("dataset", "backbone"))
