"""evaluate: judges the head that validation has chosen; this is the only stage that reads the test split."""

from collections.abc import Iterator
from pathlib import Path

import torch

from stages import paths
from stages.backbones.device import pick_head_device
from stages.datasets import splits
from stages.errors import UserError
from stages.evaluation import classification, detection, multilabel
from stages.evaluation.common import JudgedHead
from stages.heads.registry import HEADS
from stages.params import Params
from stages.stage import run
from stages.training import model
from stages.training.data import load_data


def main(params: Params) -> dict[str, object]:
    """Writes `reports/metrics.json`, plots, and what the head says of every val and test image.

    With folds it is what the heads of the folds say: together they test each image once.
    """
    device = pick_head_device(params.device)
    kept = load(params, paths.HEAD, device)
    if HEADS[kept.described["head"]].finds_objects:
        return detection.evaluate(params, kept.data, head=kept.head, described=kept.described)
    if kept.data.multilabel:
        return multilabel.evaluate(params, kept)
    folds = splits.rotated(splits.read_folds(params.dataset))
    judges = of_folds(params, folds, device) if folds else iter([kept])
    return classification.evaluate(params, kept, judges)


def of_folds(params: Params, folds: list[splits.SplitImages], device: torch.device) -> Iterator[JudgedHead]:
    """Yields the head of each fold, one after the other: the features of all of them may not fit into memory."""
    for number, images_of in enumerate(folds, 1):
        yield load(params, paths.fold(number), device, images_of)


def load(params: Params, folder: Path, device: torch.device, images_of: splits.SplitImages | None = None) -> JudgedHead:
    """A head with the images that it is judged on.

    Args:
        params: of the run.
        folder: of the head.
        device: where it is to compute.
        images_of: the splits of a fold.

    Raises:
        UserError: it was trained on other features.
    """
    data = load_data(params, images_of).to(device)
    head, described = model.load_head(folder)
    if described["features"] != data.provenance or described["classes"] != data.classes:
        raise UserError(f"`{folder}` was trained on other features or classes than params describe: `dvc repro`.")
    return JudgedHead(folder, head.to(device), described, data)


def _what(params: Params) -> str:
    """What is about to be judged."""
    images, folds = splits.read(params.dataset), splits.read_folds(params.dataset)
    if folds:
        return f"{len(folds)} {params.head} heads on {sum(map(len, folds)):,} images, each in its fold"
    return f"{params.head} on {len(images['val']):,} val and {len(images['test']):,} test images"


if __name__ == "__main__":
    run("evaluate", main, announce=_what)
