"""`lr: auto` against the default of the head, on the features of the last run: the range test, then training with both.

Run it from the top folder of a checkout after `dvc repro`: python -m tests.bench.learning_rate [--heads linear mlp]
"""

import argparse

import stages  # noqa: F401  # isort: skip  (before torch: it keeps OpenMP's threads from spinning)

from stages.backbones.device import pick_device
from stages.heads.registry import HEADS
from stages.params import load, with_overrides
from stages.training import loop, range_test
from stages.training.data import load_data


def main() -> None:
    """Prints one line per head: both rates and both scores on validation."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.learning_rate", description=__doc__)
    parser.add_argument("--heads", nargs="+", help="those to try; without it the head of params.yaml")
    params = load()
    device = pick_device(params.device)
    for head in parser.parse_args().heads or [params.head]:
        default = HEADS[head].default_lr
        chosen = with_overrides(params, {"head": head, "lr": default})
        data = load_data(chosen)
        points = range_test.range_test(head, data, params=chosen, device=device)
        suggestion = range_test.suggestion(points, chosen.lr_sweep.steps)
        scores = []
        for lr in (default, suggestion.lr or default):
            result = loop.fit(head, data, params=with_overrides(chosen, {"lr": lr}), device=device)
            best = result.history[result.best_epoch - 1]
            scores.append(best.val_accuracy if best.val_accuracy is not None else best.val_map_50)
        print(f"{head}: default {default:g} {scores[0]}, auto {suggestion.lr or suggestion.reason} {scores[1]} on val")


if __name__ == "__main__":
    main()
