"""evaluate: validation has chosen the head; the test split is read here, once."""

from dataclasses import replace

from stages import paths
from stages.backbones.device import pick_device
from stages.datasets import splits
from stages.errors import UserError
from stages.evaluation import classification, detection
from stages.heads.registry import HEADS
from stages.params import Params
from stages.stage import run
from stages.training import model
from stages.training.data import load_data


def main(params: Params) -> dict[str, object]:
    """Writes `reports/metrics.json`, plots, and what the head says of every val and test image."""
    data, device = load_data(params), pick_device(params.device)
    head, described = model.load_head(paths.HEAD)
    if described["features"] != data.provenance or described["classes"] != data.classes:
        raise UserError("`cache/head` was trained on other features or classes than params describe: `dvc repro`.")
    data = replace(data, splits={name: split.to(device) for name, split in data.splits.items()})
    evaluate = detection.evaluate if HEADS[described["head"]].finds_objects else classification.evaluate
    return evaluate(params, data, head=head.to(device), described=described)


def _what(params: Params) -> str:
    """What is about to be judged."""
    images = splits.read(params.dataset)
    return f"{params.head} on {len(images['val']):,} val and {len(images['test']):,} test images"


if __name__ == "__main__":
    run("evaluate", main, announce=_what)
