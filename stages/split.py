"""split: which image is train, val or test, in `data/split/<dataset>.json`."""

from stages import paths
from stages.datasets import corrections, grouping, index_file, splits
from stages.errors import UserError
from stages.overrides import argument
from stages.params import Params
from stages.stage import run


def main(params: Params) -> dict[str, object]:
    """Assigns every image of the index to train, val or test."""
    try:
        rows = index_file.read(params.dataset)
        pairs = corrections.together(corrections.read(params.dataset))
        images, source = splits.draw(rows, params.split, grouping.groups(rows, pairs, params.split.groups))
    except splits.UnusableClasses as error:
        leave_out = argument(f"datasets.{params.dataset}.exclude", error.labels)
        raise UserError(f"{error} Add images, or leave the classes out: {leave_out}") from None
    splits.write(paths.split(params.dataset), images, source=source, choices=params.split)
    print(f"split: {source}", flush=True)
    return {name: len(part) for name, part in images.items()}


if __name__ == "__main__":
    run("split", main, announce=lambda params: f"{params.dataset}, protocol {params.split.protocol}")
