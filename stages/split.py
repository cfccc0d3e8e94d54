"""split: which image is train, val or test, or in which fold it is, in `data/split/<dataset>.json`."""

from stages import paths
from stages.datasets import corrections, grouping, index_file, splits
from stages.errors import UserError
from stages.overrides import argument
from stages.params import Params
from stages.stage import run


def main(params: Params) -> dict[str, object]:
    """Assigns every image of the index to train, val or test; with the protocol `kfold` to a fold."""
    folds = None
    try:
        rows = index_file.read(params.dataset)
        pairs = corrections.together(corrections.read(params.dataset))
        groups = grouping.groups(rows, pairs, params.split.groups)
        if params.split.protocol == "kfold":
            folds, source = splits.draw_folds(rows, params.split, groups)
            images = splits.kept(folds)
        else:
            images, source = splits.draw(rows, params.split, groups)
    except splits.UnusableClasses as error:
        leave_out = argument(f"datasets.{params.dataset}.exclude", error.labels)
        raise UserError(f"{error} Add images, or leave the classes out: {leave_out}") from None
    splits.write(paths.split(params.dataset), images, source=source, choices=params.split, folds=folds)
    print(f"split: {source}", flush=True)
    return {name: len(part) for name, part in splits.read_parts(params.dataset).items()}


if __name__ == "__main__":
    run("split", main, announce=lambda params: f"{params.dataset}, protocol {params.split.protocol}")
