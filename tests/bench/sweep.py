"""64 linear heads at once against one, alternating: seconds, their ratio, and what the choice gains on validation.

Run it in a checkout after `dvc repro`, from the top folder: python -m tests.bench.sweep [--rounds 5] [--epochs 60]
"""

import argparse
import json
import time
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch

from stages.backbones.device import pick_device
from stages.heads import linear
from stages.params import Params, load
from stages.sweep import DECAYS, FACTORS
from stages.training import data, sweep
from stages.training.data import Data
from stages.training.fitted import Fitted

OUT = Path("cache/timings/bench-sweep.json")


def main() -> None:
    """Prints a table, with and without early stopping, and writes the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="pairs of measurements; medians are shown")
    parser.add_argument("--epochs", type=int, default=60)
    given = parser.parse_args()
    params = load().model_copy(update={"head": "linear", "epochs": given.epochs})
    found = data.load(params)
    print(f"{'early stopping':16}{'one head, s':>13}{'64 heads, s':>13}{'ratio':>8}{'epochs of all / of one':>24}")
    results = {}
    for name, patience in (("none", given.epochs), ("as in params", params.early_stopping_patience)):
        chosen = params.model_copy(update={"early_stopping_patience": patience})
        results[name] = row = measure(chosen, found, given.rounds)
        print(f"{name:16}{row['one']:>13.2f}{row['all']:>13.2f}{row['ratio']:>8.2f}{row['work']:>24.1f}", flush=True)
    print(f"default {row['default']:.4f}, best of the grid {row['best']:.4f} ({params.monitor} on validation)")
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps({"threads": torch.get_num_threads(), "results": results}, indent=1) + "\n")


def measure(params: Params, found: Data, rounds: int) -> dict[str, Any]:
    """Medians over the rounds, the ratio taken round by round."""
    settings = [
        params.model_copy(update={"lr": factor * params.lr, "weight_decay": decay})
        for factor, decay in product(FACTORS, DECAYS)
    ]
    device, times = pick_device(params.device), list[tuple[float, float]]()
    for _ in range(rounds):
        started = time.perf_counter()
        one = linear.fit(found, params, device)
        between = time.perf_counter()
        heads = [head for _, head in sweep.fit(linear.build, found, settings, device) if head]
        times.append((between - started, time.perf_counter() - between))
    better = min if params.monitor == "val_loss" else max
    return {
        "one": median(alone for alone, _ in times),
        "all": median(together for _, together in times),
        "ratio": median(together / alone for alone, together in times),
        "rounds": times,
        "work": sum(len(head.history) for head in heads) / len(one.history),
        "default": best(one, params.monitor),
        "best": better(best(head, params.monitor) for head in heads),
    }


def best(head: Fitted, monitor: str) -> float:
    """What the monitor saw in the epoch that was kept."""
    return float(getattr(head.history[head.best_epoch - 1], monitor))


if __name__ == "__main__":
    main()
