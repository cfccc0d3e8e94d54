"""64 linear heads at once against one, alternating: seconds, their ratio, and what the choice gains on validation.

CPU seconds (of all threads) stand beside those of the clock: other processes blur the second more than the first.
Run it from the top folder of a checkout: python -m tests.bench.sweep [--made-up] [--rounds 5] [--epochs 60]
"""

import argparse
import json
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import stages  # noqa: F401  # isort: skip  (before torch: it keeps OpenMP's threads from spinning)
import torch

from stages.backbones.device import pick_device
from stages.params import Params, load
from stages.sweep import DECAYS, FACTORS
from stages.sweeping import many_heads
from stages.training import data, loop
from stages.training.data import HeadData, SplitData
from stages.training.model import TrainResult

OUT = Path("cache/timings/bench-sweep.json")
TRAIN, VAL, INPUTS, CLASSES = 4570, 2286, 1280, 102  # made up: EfficientNet-Lite0's features of half of Caltech-101
SPREAD = 6.0  # of made-up images around their class: ridge tells 0.9 of them apart at 6, all at 5, 0.4 at 9
COLUMNS = {"one": "one head, s", "all": "64 heads, s", "ratio": "ratio"}
COLUMNS |= {f"cpu_{name}": f"CPU: {text}" for name, text in COLUMNS.items()} | {"work": "epochs of all / of one"}


def main() -> None:
    """Prints a table, with and without early stopping, and writes the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="pairs of measurements; medians are shown")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--made-up", action="store_true", help="features made up, instead of what `dvc repro` left")
    given = parser.parse_args()
    params = load().model_copy(update={"head": "linear", "epochs": given.epochs})
    found = made_up() if given.made_up else data.load_data(params)
    print("  ".join(["early stopping", *COLUMNS.values()]))
    results = {}
    for name, patience in (("none", given.epochs), ("as in params", params.early_stopping_patience)):
        chosen = params.model_copy(update={"early_stopping_patience": patience})
        results[name] = row = measure(chosen, found, given.rounds)
        cells = [f"{row[key]:.2f}".rjust(len(text)) for key, text in COLUMNS.items()]
        print("  ".join([name.ljust(len("early stopping")), *cells]), flush=True)
    print(f"default {row['default']:.4f}, best of the grid {row['best']:.4f} ({params.monitor} on validation)")
    print(f"default in the grid: val_loss differs by {row['difference']:.1e} at most")
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps({"threads": torch.get_num_threads(), "results": results}, indent=1) + "\n")


def made_up() -> HeadData:
    """Vectors around a centre for each class, which overlap about as much as real ones."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(CLASSES, INPUTS, generator=generator)

    def split(count: int) -> SplitData:
        y = torch.randint(CLASSES, (count,), generator=generator)
        x = centres[y] + SPREAD * torch.randn(count, INPUTS, generator=generator)
        return SplitData(x[:, None], y, list(range(count)))

    provenance = {"cut": "pooled", "backbone": "made up", "image_size": 224}
    return HeadData([str(number) for number in range(CLASSES)], {"train": split(TRAIN), "val": split(VAL)}, provenance)


def measure(params: Params, found: HeadData, rounds: int) -> dict[str, Any]:
    """Medians over the rounds, the ratios taken round by round."""
    settings = [
        params.model_copy(update={"lr": factor * params.lr, "weight_decay": decay})
        for factor, decay in product(FACTORS, DECAYS)
    ]
    device, times = pick_device(params.device), list[tuple[float, float, float, float]]()
    for _ in range(rounds):
        one, *alone = timed(lambda: loop.fit("linear", found, params=params, device=device))
        heads, *together = timed(lambda: dict(many_heads.fit("linear", found, settings=settings, device=device)))
        times.append((alone[0], together[0], alone[1], together[1]))
    better = min if params.monitor == "val_loss" else max
    same = heads[settings.index(params)]
    assert same is not None
    whole = [head for head in heads.values() if head]
    pairs = zip(one.history, same.history, strict=False)
    return {
        "one": median(row[0] for row in times),
        "all": median(row[1] for row in times),
        "ratio": median(row[1] / row[0] for row in times),
        "cpu_one": median(row[2] for row in times),
        "cpu_all": median(row[3] for row in times),
        "cpu_ratio": median(row[3] / row[2] for row in times),
        "rounds": times,
        "work": sum(len(head.history) for head in whole) / len(one.history),
        "difference": max(abs(epoch.val_loss - other.val_loss) for epoch, other in pairs),
        "default": best(one, params.monitor),
        "best": better(best(head, params.monitor) for head in whole),
    }


def timed(function: Callable[[], Any]) -> tuple[Any, float, float]:
    """What a function gives, its seconds by the clock and those of all its threads."""
    clock, cpu = time.perf_counter(), time.process_time()
    return function(), time.perf_counter() - clock, time.process_time() - cpu


def best(head: TrainResult, monitor: str) -> float:
    """What the monitor saw in the epoch that was kept."""
    return float(getattr(head.history[head.best_epoch - 1], monitor))


if __name__ == "__main__":
    main()
