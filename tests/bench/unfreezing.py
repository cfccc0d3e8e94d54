"""From scratch, fine-tuned whole, unfrozen in part, and frozen: a table of accuracy and time on the built-in logos.

Run it in a checkout after `make repro`, from the top folder: python -m tests.bench.unfreezing [--image-size 128]

Each row is a `dvc exp run` of a recipe with a few knobs turned, all settings chosen on validation. The values of the
last one stay in the workspace: `git checkout params.yaml dvc.lock reports` takes them back.
"""

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any

from stages import paths, recipe

OUT = paths.TIMINGS / "bench-unfreezing.json"
ROWS: dict[str, tuple[str, list[str]]] = {  # what -> recipe and further knobs; rows of one cut stand together
    "frozen, linear": ("logos-default", ["head=linear"]),
    "frozen, mlp": ("logos-default", ["head=mlp"]),
    "frozen, ridge": ("logos-default", ["head=ridge"]),
    "frozen, knn": ("logos-default", ["head=knn"]),
    "last block unfrozen": ("logos-unfreeze", ["cut=blocks.5", "phases=[]", "epochs=10", "lr_backbone=0.001"]),
    "last two blocks, in phases": ("logos-unfreeze", []),
    "fine-tuned whole": ("logos-finetune", []),
    "LeNet-5 from scratch": ("logos-lenet5", ["epochs=12"]),
}
HEADER = ("", "cut", "trains", "top-1", "val top-1", "extract, s", "train, s")


def main() -> None:
    """Prints the table, a row as soon as it is there, and writes the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image-size", type=int, default=128, help="pixels a side, for every row")
    size = parser.parse_args().image_size
    print(line(HEADER), line(["---"] * len(HEADER)), sep="\n", flush=True)
    found: dict[str, Any] = {}
    extracted: dict[str, float] = {}
    for what, (name, knobs) in ROWS.items():
        found[what] = row = measure([*recipe.arguments(name), *turned([*knobs, f"image_size={size}"])])
        extracted |= {row["cut"]: row["extract"]} if row["extract"] is not None else {}
        row["extract"] = extracted.get(row["cut"])
        cells = [row["cut"], f"{row['parameters_trainable']:,}", f"{row['top1']:.1%}", f"{row['val_top1']:.1%}"]
        print(line([what, *cells, seconds(row["extract"]), seconds(row["train"])]), flush=True)
    OUT.write_text(json.dumps({"image_size": size, "rows": found}, indent=1) + "\n")


def turned(knobs: list[str]) -> list[str]:
    """Knobs as `-S` arguments; every head trains on train alone, without a range test, as the rates are chosen."""
    return [part for knob in [*knobs, "refit=none", "lr_sweep.steps=0"] for part in ("-S", knob)]


def measure(arguments: list[str]) -> dict[str, Any]:
    """The metrics of a run and the seconds of its stages; None for a stage that did not have to run."""
    times = {stage: paths.TIMINGS / f"{stage}.json" for stage in ("extract", "train")}
    for file in times.values():
        file.unlink(missing_ok=True)
    subprocess.run(["dvc", "exp", "run", "--quiet", *arguments], check=True, stdout=subprocess.DEVNULL)
    metrics: dict[str, Any] = json.loads((paths.EVALUATION).read_text())
    return metrics | {stage: read(file) for stage, file in times.items()}


def read(file: Path) -> float | None:
    """The seconds that a stage took."""
    return float(json.loads(file.read_text())["seconds"]) if file.exists() else None


def seconds(value: float | None) -> str:
    """Whole seconds, or a dash for what was there already."""
    return "–" if value is None else f"{value:.0f}" if value >= 1 else f"{value:.1f}"


def line(cells: list[str] | tuple[str, ...]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
