"""Steps of the head `multiscale`, freed memory kept or given back: CPU seconds, those in the system, peak memory.

The maps are those of EfficientNet-Lite0 at 448 pixels, of made-up numbers. Each way runs in a process of its own, since
what is set stays; they alternate. Run it from the top folder of a checkout:
python -m tests.bench.freed [--steps 20] [--rounds 3]
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from statistics import median

import stages  # noqa: F401  # isort: skip  (before torch: it asks for huge pages)
import torch

from stages import memory
from stages.heads import multiscale
from tests.boxes.drawing import boxes_at_random
from tests.boxes.options import options_of

OUT = Path("cache/timings/bench-freed.json")
SHAPES, CLASSES, OBJECTS, IMAGES = [(40, 56, 56), (112, 28, 28), (320, 14, 14)], 3, 14, 16
WAYS = {"given back": {"THP_MEM_ALLOC_ENABLE": "0"}, "kept, in huge pages": {}}
COLUMNS = {"cpu": "CPU seconds", "system": "in the system", "gigabytes": "peak GB"}


def main() -> None:
    """Prints a table and writes the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3, help="medians are shown")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way:
        print(json.dumps(train(given.steps, keep=given.way != "given back")))
        return
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(given.rounds):
        for way, settings in WAYS.items():
            command = [sys.executable, "-m", "tests.bench.freed", "--way", way, "--steps", str(given.steps)]
            done = subprocess.run(command, env=os.environ | settings, stdout=subprocess.PIPE, check=True)
            runs[way].append(json.loads(done.stdout))
            print(way, runs[way][-1], flush=True)
    results = {way: {key: median(row[key] for row in rows) for key in COLUMNS} for way, rows in runs.items()}
    print("  ".join(["".ljust(20), *COLUMNS.values()]))
    for way, row in results.items():
        print("  ".join([way.ljust(20), *(f"{row[key]:.2f}".rjust(len(text)) for key, text in COLUMNS.items())]))
    ratio = results["kept, in huge pages"]["cpu"] / results["given back"]["cpu"]
    print(f"Kept, the steps take {ratio:.2f} of the CPU seconds")
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps({"results": results, "ratio": ratio, "rounds": runs}, indent=1) + "\n")


def train(steps: int, *, keep: bool) -> dict[str, float]:
    """Seconds of the CPU for some steps after the first one, and the process's peak memory."""
    if keep:
        memory.keep_freed()
    torch.manual_seed(0)
    options = options_of("multiscale", hidden=128)
    head = multiscale.build(SHAPES, CLASSES, options)
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.003)
    maps = [torch.randn(IMAGES, *shape) for shape in SHAPES]
    scenes = [boxes_at_random(OBJECTS, torch.Generator().manual_seed(i)) for i in range(IMAGES)]
    labels = torch.arange(OBJECTS) % CLASSES
    targets = [
        torch.stack(levels)
        for levels in zip(*(multiscale.targets(boxes, labels, options, shape=SHAPES) for boxes in scenes), strict=True)
    ]
    for step in range(steps + 1):
        optimizer.zero_grad()
        multiscale.loss(head(maps), targets, options).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step == 0:
            before = resource.getrusage(resource.RUSAGE_SELF)
    after = resource.getrusage(resource.RUSAGE_SELF)
    system = after.ru_stime - before.ru_stime
    return {
        "cpu": after.ru_utime - before.ru_utime + system,
        "system": system,
        "gigabytes": after.ru_maxrss * 1024 / 1e9,
    }


if __name__ == "__main__":
    main()
