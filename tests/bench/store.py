"""The row store: bytes a row, and how fast parts become one file, against copying the same bytes; alternating.

Nothing but rows is made up, in a temporary folder of --folder: python -m tests.bench.store [--rounds 3] [--folder DIR]
"""

import argparse
import contextlib
import hashlib
import json
import tempfile
import time
from collections.abc import Callable
from math import prod
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from stages import files
from stages.features import h5
from stages.features.store import RowStore

OUT = Path("cache/timings/bench-store.json").resolve()
PART = 512  # rows
CASES = {"vectors": (40_000, (1280,)), "maps": (2_000, (512, 7, 7)), "small vectors": (100_000, (64,))}
HEADER = (
    "",
    "rows",
    "MB",
    "bytes a row",
    "beside the features",
    "add, MB/s",
    "assemble, MB/s",
    "read, MB/s",
    "copy, MB/s",
)


def main() -> None:
    """Prints a table and writes the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="medians of them are shown")
    parser.add_argument("--folder", help="on the disk in question; else where temporary files go")
    given = parser.parse_args()
    print(line(HEADER), line(["---"] * len(HEADER)), sep="\n", flush=True)
    found = {}
    for name, (rows, shape) in CASES.items():
        rounds = []
        for _ in range(given.rounds):
            with tempfile.TemporaryDirectory(dir=given.folder) as folder, contextlib.chdir(folder):
                rounds.append(measure(rows, shape))
        row = found[name] = {key: median(one[key] for one in rounds) for key in rounds[0]}
        speeds = [f"{row['bytes'] / row[key] / 1e6:,.0f}" for key in ("add", "assemble", "read", "copy")]
        extra = row["bytes"] / rows - 2 * prod(shape)
        cells = [f"{rows:,}", f"{row['bytes'] / 1e6:.0f}", f"{row['bytes'] / rows:,.1f}", f"{extra:.1f}", *speeds]
        print(line([name, *cells]), flush=True)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(found, indent=1) + "\n")


def measure(rows: int, shape: tuple[int, ...]) -> dict[str, float]:
    """Seconds of each step for float16 features (rows, 1, *shape), and the bytes of the file."""
    sha256 = [hashlib.sha256(str(row).encode()).hexdigest() for row in range(rows)]
    values = np.random.default_rng(0).standard_normal((PART, 1, *shape), dtype=np.float32).astype(np.float16)
    out = Path("features.h5")

    def add(store: RowStore) -> None:
        for first in range(0, rows, PART):
            names = sha256[first : first + PART]
            count = len(names)
            affine = np.zeros((count, 1, 2, 3), np.float32)
            store.add({"features/x": values[:count], "ok": np.ones(count, np.uint8), "views": affine}, names, ["all"])

    with RowStore({"backbone": "made up"}).locked() as store:
        added = timed(lambda: add(store))
        assembled = timed(lambda: store.assemble(sha256, ["all"], out))
    return {
        "add": added,
        "assemble": assembled,
        "read": timed(lambda: h5.read(out)),
        "copy": timed(lambda: files.copy(out, Path("copy.h5"))),
        "bytes": out.stat().st_size,
    }


def timed(function: Callable[[], Any]) -> float:
    """Seconds by the clock."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def line(cells: list[str] | tuple[str, ...]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
