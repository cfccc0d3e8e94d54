"""A grid head on the stride-16 map of BCCD against a plain float32 loop: seconds, CPU seconds, and map_50 of the test.

Both train the layers, the loss, the rates and the epochs of the recipe `bccd-grid` on the images of train and val, and
no epoch is chosen. The plain loop is PyTorch as it comes: float32, nn.Conv2d, nn.Dropout, targets made for each batch.
They alternate; other processes blur seconds of the clock more than those of the CPU (of all threads).
Run it from the top folder of a checkout after `dvc exp run $(python -m stages.recipe bccd-grid)`, or with the images:
python -m tests.bench.grid [--images /path/to/bccd.zip] [--epochs 60] [--rounds 1]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import stages  # noqa: F401  # isort: skip  (before torch: it keeps OpenMP's threads from spinning)
import torch
import yaml
from torch import nn

from stages import recipe
from stages.backbones.device import pick_device
from stages.heads import grid
from stages.heads.registry import HEADS
from stages.params import Params, load
from stages.training import data, loop, model, tasks
from stages.training.data import HeadData, SplitData
from stages.training.model import HeadModel

OUT = Path("cache/timings/bench-grid.json")
STAGES = ("download", "index", "split", "extract")
COLUMNS = {"seconds": "seconds", "cpu": "CPU seconds", "map_50": "map_50"}


def main() -> None:
    """Prints a table and writes the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--images", type=Path, help="the archive of BCCD: features are then made in a folder of its own"
    )
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=1, help="pairs of trainings; medians are shown")
    given = parser.parse_args()
    out = OUT.resolve()
    with tempfile.TemporaryDirectory() as folder:
        if given.images:
            extract(Path(folder), given.images.resolve())
            os.chdir(folder)
        params = load().model_copy(update={"epochs": given.epochs, "early_stopping_patience": given.epochs})
        found = whole_train(data.load_data(params))
        runs: dict[str, list[dict[str, float]]] = {"plain float32": [], "coldcut": []}
        for _ in range(given.rounds):
            for name, train in (("plain float32", plain), ("coldcut", ours)):
                runs[name].append(measure(train, found, params))
                print(name, runs[name][-1], flush=True)
    results = {name: {key: median(row[key] for row in rows) for key in COLUMNS} for name, rows in runs.items()}
    print("  ".join(["".ljust(13), *COLUMNS.values()]))
    for name, row in results.items():
        print("  ".join([name.ljust(13), *(f"{row[key]:.3f}".rjust(len(text)) for key, text in COLUMNS.items())]))
    loop, own = results["plain float32"], results["coldcut"]
    ratios = {key: loop[key] / own[key] for key in ("seconds", "cpu")}
    print(
        f"The plain loop takes {ratios['seconds']:.1f} times the seconds, {ratios['cpu']:.1f} times the CPU seconds; "
        f"map_50 differs by {own['map_50'] - loop['map_50']:+.3f}"
    )
    about = {"threads": torch.get_num_threads(), "images": len(found.splits["train"].y), "epochs": given.epochs}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(about | {"results": results, "ratios": ratios, "rounds": runs}, indent=1) + "\n")


def extract(folder: Path, images: Path) -> None:
    """Runs the stages of the recipe up to the features."""
    tree = yaml.safe_load(Path("params.yaml").read_text())
    knobs = recipe.knobs("bccd-grid")
    for knob, value in (knobs | {"datasets.bccd.source.images.url": str(images)}).items():
        *above, last = knob.split(".")
        block = tree
        for name in above:
            block = block[name]
        block[last] = value
    (folder / "params.yaml").write_text(yaml.safe_dump(tree))
    (folder / "data/none").mkdir(parents=True)
    where = {"PYTHONPATH": str(Path.cwd()), "DVC_ROOT": str(folder)}
    for stage in STAGES:
        subprocess.run([sys.executable, "-m", f"stages.{stage}"], cwd=folder, env=os.environ | where, check=True)


def whole_train(found: HeadData) -> HeadData:
    """Train and val as one part: what a refit trains on."""
    both = found.splits["train"].join(found.splits["val"])
    return replace(found, splits=found.splits | {"train": both}, identity="bench")


def measure(train: Callable[[HeadData, Params], nn.Module], found: HeadData, params: Params) -> dict[str, float]:
    """Seconds of a training, and what its head finds in test."""
    clock, cpu = time.perf_counter(), time.process_time()
    module = train(found, params)
    spent = {"seconds": time.perf_counter() - clock, "cpu": time.process_time() - cpu}
    task = task_of(module, found, params)
    test = found.splits["test"]
    return spent | {"map_50": task.map_50(test, task.detect(module, test, iou=params.decide.nms_iou))}


def ours(found: HeadData, params: Params) -> nn.Module:
    """The trainer, as in a refit."""
    return loop.fit(
        "grid", found, params=params.model_copy(update={"monitor": "val_loss"}), device=pick_device("cpu"), last=True
    ).module


class Plain(nn.Module):
    """The layers of `grid` in PyTorch's own modules, on standardised features."""

    def __init__(self, whole: HeadModel, params: Params, classes: int) -> None:
        super().__init__()
        self.shape, self.standardize, hidden = whole.shape, whole.standardize, params.hidden
        self.layers = nn.Sequential(
            *(nn.Conv2d(whole.shape[0], hidden, 1, bias=False), nn.GroupNorm(32, hidden), nn.ReLU()),
            nn.Dropout(params.dropout),
            *(nn.Conv2d(hidden, hidden, 3, padding=1, bias=False), nn.GroupNorm(32, hidden), nn.ReLU()),
            nn.Dropout(params.dropout),
            nn.Conv2d(hidden, 5 + classes, 1),
        )
        self.layers[-1].weight.data.copy_(whole.head.get_parameter("predict.layer.weight").data)
        self.layers[-1].bias.data.copy_(whole.head.get_parameter("predict.layer.bias").data)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layers(self.standardize(x)).permute(0, 2, 3, 1)
        return found


def plain(found: HeadData, params: Params) -> nn.Module:
    """A loop as one writes it first."""
    torch.manual_seed(params.seed)
    train, val = found.splits["train"], found.splits["val"]
    whole, knobs = loop.start("grid", found, train=train, params=params, device=pick_device("cpu"))
    options = HEADS["grid"].read(knobs)
    module = Plain(whole, params, len(found.classes))
    optimizer = torch.optim.AdamW(module.layers.parameters(), params.lr, weight_decay=params.weight_decay)
    batches = -(-len(train.y) // params.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, params.epochs * batches)
    for _ in range(params.epochs):
        module.train()
        for images in torch.randperm(len(train.y)).split(params.batch_size):  # type: ignore[no-untyped-call]
            loss = grid.loss(module(train.batch(images)), targets(train, images, module.shape, options), options)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        module.eval()
        with torch.inference_mode():
            places = torch.arange(len(val.y))
            float(grid.loss(module(val.batch(places)), targets(val, places, module.shape, options), options))
    return module.eval()


def targets(split: SplitData, images: torch.Tensor, shape: Any, options: Any) -> torch.Tensor:
    """What the head should give for some images."""
    maps = split.affines(images)
    assert maps is not None and split.ground_truth is not None
    each = [split.ground_truth.in_view(image, affine) for image, affine in zip(images.tolist(), maps, strict=True)]
    return torch.stack([grid.targets(boxes, labels, options, shape=shape) for boxes, labels in each])


def task_of(module: Any, found: HeadData, params: Params) -> tasks.DetectionTask:
    """What reads the outputs of either head."""
    options = HEADS["grid"].read(model.stored_knobs("grid", params=params, data=found, device=pick_device("cpu")))
    return tasks.DetectionTask("grid", module, options, classes=len(found.classes), params=params)


if __name__ == "__main__":
    main()
