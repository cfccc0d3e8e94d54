"""grid_data: archives, index and split of a dataset of the grid, in `data/grid/<dataset>/`."""

from stages import download, index, paths, split
from stages.params import Params
from stages.stage import run


def main(params: Params) -> dict[str, object]:
    """Runs download, index and split in a workplace of their own."""
    with paths.workplace(paths.grid_data(params.dataset)):
        download.main(params)
        return {"images": index.main(params)["images"], **split.main(params)}


if __name__ == "__main__":
    run("grid_data", main, lambda params: params.dataset, knobs=("dataset",))
