"""evaluate: validation has chosen the head; the test split is read here, once."""

from dataclasses import replace

from stages import paths
from stages.backbones.device import pick_device
from stages.datasets import splits
from stages.errors import UserError
from stages.evaluation import classification, detection
from stages.heads import DETECTION
from stages.params import Params
from stages.stage import run
from stages.training import data, model


def main(params: Params) -> dict[str, object]:
    """Writes `reports/metrics.json`, plots, and what the head says of every val and test image."""
    found, device = data.load(params), pick_device(params.device)
    head, described = model.restore(paths.HEAD)
    if described["features"] != found.provenance or described["classes"] != found.classes:
        raise UserError("`cache/head` was trained on other features or classes than params describe: `dvc repro`.")
    found = replace(found, splits={name: split.to(device) for name, split in found.splits.items()})
    evaluate = detection.evaluate if described["head"] in DETECTION else classification.evaluate
    return evaluate(params, found, head.to(device), described)


def _what(params: Params) -> str:
    """What is about to be judged."""
    images = splits.read(params.dataset)
    return f"{params.head} on {len(images['val']):,} val and {len(images['test']):,} test images"


if __name__ == "__main__":
    run("evaluate", main, _what)
