"""split: assigns each image to train, val or test, or to a fold, and writes `data/split/<dataset>.json`."""

from collections.abc import Sequence

from stages import paths
from stages.datasets import corrections, grouping, index_file, splits
from stages.datasets.base import natural
from stages.datasets.index_file import IndexRow
from stages.datasets.splits import SplitImages
from stages.errors import UserError, listed
from stages.overrides import argument
from stages.params import Params
from stages.stage import run


def main(params: Params) -> dict[str, object]:
    """Assigns every image of the index to train, val or test; with the protocol `kfold` to a fold."""
    folds = None
    try:
        rows = index_file.read(params.dataset)
        decided = corrections.read(params.dataset)
        partly_labelled = bool(index_file.unlabelled(rows)) or corrections.labelled_later(decided)
        if partly_labelled:
            splits.refuse_partly_labelled(params.split)
        groups = grouping.groups(rows, corrections.together(decided), params.split.groups)
        if params.split.protocol == "kfold":
            folds, source = splits.draw_folds(rows, params.split, groups)
            drawn = splits.kept(folds)
        else:
            drawn, source = splits.draw(rows, params.split, groups, partly_labelled=partly_labelled)
    except splits.UnusableClasses as error:
        leave_out = argument(f"datasets.{params.dataset}.exclude", [*params.options.exclude, *error.labels])
        raise UserError(f"{error} Add images, or leave the classes out: {leave_out}") from None
    if not drawn["train"]:
        raise UserError(f"No image is left for train, where the head learns: {source}.")
    images, unlabelled = splits.without_unlabelled(drawn, rows)
    if partly_labelled:
        source += _labels_so_far(images, unlabelled, rows)
    splits.write(
        paths.split(params.dataset), images, source=source, choices=params.split, folds=folds, unlabelled=unlabelled
    )
    print(f"split: {source}", flush=True)
    return {name: len(part) for name, part in splits.read_parts(params.dataset).items()}


def _labels_so_far(images: SplitImages, unlabelled: SplitImages, rows: Sequence[IndexRow]) -> str:
    """How many images wait for a label, and which classes nothing can learn yet, as the end of a sentence."""
    label_of = {row.sha256: row.label for row in rows}
    classes = {split: {label_of[image] for image in members} for split, members in images.items()}
    waiting = listed([f"{len(members)} of {split}" for split, members in unlabelled.items()])
    source = f"; {waiting} have no label yet"
    if untrained := sorted((classes["val"] | classes["test"]) - classes["train"], key=natural):
        source += f"; no labelled image of train is of {listed(untrained, splits.NAMED)}"
    return source


if __name__ == "__main__":
    run("split", main, announce=lambda params: f"{params.dataset}, protocol {params.split.protocol}")
