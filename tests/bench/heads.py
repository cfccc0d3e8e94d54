"""`head: auto` against every head that is named by hand, on the features of the last run.

Run it from the top folder of a checkout after `dvc repro`: python -m tests.bench.heads. It trains each head on vectors
with each `normalize`, then lets auto choose, and prints the rows of the table in docs/heads.md: the best by validation
that a person could have named, and what auto took. The test split is only told, nothing is chosen by it.
"""

import argparse
import time
from typing import NamedTuple

import stages  # noqa: F401  # isort: skip  (before torch: it keeps OpenMP's threads from spinning)

import torch

from stages import train
from stages.backbones.device import pick_device
from stages.errors import UserError
from stages.params import Params, load, with_overrides
from stages.training import candidates
from stages.training.data import HeadData, load_data
from stages.training.history import Candidate
from stages.training.model import TrainResult
from stages.training.tasks import ClassificationTask

HEADS = ("ridge", "lda", "logistic", "knn", "linear", "mlp")
NORMALIZATIONS = ("none", "standardize", "l2", "sqrt")


class Row(NamedTuple):
    """A head with its accuracy on val, and on test where it has trained on train alone and on val too."""

    name: str
    val: float
    test: float
    refitted: float


def main() -> None:
    """Prints one line per head as it is trained, then the line of the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.heads", description=__doc__)
    parser.add_argument("--heads", nargs="+", default=HEADS, help="those to name by hand")
    chosen = parser.parse_args().heads
    params = with_overrides(load(), {"head": "auto", "normalize": "standardize", "lr": 0.001})
    data, device = load_data(params), pick_device(params.device)
    named = []
    for head in chosen:
        for normalize in NORMALIZATIONS:
            try:
                named_params = with_overrides(params, {"head": head, "normalize": normalize})
                named.append(score(train.fit(data, named_params, device), data, named_params, device))
            except UserError as error:
                print(f"{head} {normalize}: {error}", flush=True)
                continue
            print(f"{named[-1].name}: val {named[-1].val:.1%}, test {named[-1].test:.1%}", flush=True)
    started = time.process_time()
    competition = candidates.compete(data, params, device)
    seconds = time.process_time() - started
    auto = score(competition.result, data, competition.winner, device)
    best = max(named, key=lambda row: row.val)
    images = ", ".join(f"{len(split.y):,}" for split in data.splits.values())
    data_cell = f"{params.dataset}: {images} images, {len(data.classes)} classes"
    shares = [f"{share:.1%}" for share in (best.test, auto.test, auto.refitted)]
    cells = [data_cell, best.name, f"{best.val:.1%}", auto.name, f"{auto.val:.1%}", *shares, f"{seconds:.0f}"]
    print(f"| {' | '.join(cells)} |")


def score(result: TrainResult, data: HeadData, params: Params, device: torch.device) -> Row:
    """The scores of a head, and after a refit where `refit: auto` does one."""
    resolved = with_overrides(params, {"refit": "trainval" if train.refits(params, data, False) else "none"})
    again = train.refit(result, data, resolved, device)
    task = ClassificationTask(params, None)
    test, refitted = (task.evaluate(head.module, data.splits["test"]).accuracy or 0.0 for head in (result, again))
    epoch = result.history[result.best_epoch - 1]
    return Row(Candidate(params.head, params.normalize).name, epoch.val_accuracy or 0.0, test, refitted)


if __name__ == "__main__":
    main()
