"""Peak memory of an extraction at 1,000 and 10,000 tiny images (100,000 with --full), each in a process of its own.

Run it from the top folder of a checkout: python -m tests.bench.memory [--full] [--engine torch]

Shown: the most that the process held, and of it what was its own and what were pages of files, which the system takes
back when it needs them: libraries, and the feature files while these are checked and assembled.
"""

import argparse
import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from stages import paths

OUT = paths.TIMINGS / "bench-memory.json"
COUNTS, MOST = (1_000, 10_000), 100_000
SIDE = 32
RUN = """
import json, sys, threading
from pathlib import Path
import stages
from stages.features import extraction, views
from stages.images.options import Augment

def held(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024

most, done = {"RssAnon": 0, "RssFile": 0}, threading.Event()

def watch():
    while not done.wait(0.05):
        most.update({name: max(before, held(name)) for name, before in most.items()})

folder, listed, engine = sys.argv[1:]
wanted = [tuple(line.split()) for line in Path(listed).read_text().splitlines()]
spec = extraction.Spec(
    Path(folder), "squeezenet1_1", "random", "pooled", 64, "crop", "float32", "float16", 32, "cpu",
    (views.EVALUATION,), Augment(crop=0.4, flip=True, rotate=0.0, lighting=0.2), engine,
)
watching = threading.Thread(target=watch)
watching.start()
extraction.extract(spec, wanted, Path("features.h5"))
done.set()
watching.join()
print("RESULT", json.dumps({"peak": held("VmHWM"), "own": most["RssAnon"], "files": most["RssFile"]}))
"""


def main() -> None:
    """Prints a table and writes the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help=f"{MOST:,} images as well")
    parser.add_argument("--engine", default="auto", help="as extract.engine")
    parser.add_argument("--json", type=Path, default=OUT)
    given = parser.parse_args()
    counts, found = (*COUNTS, *([MOST] if given.full else [])), {}
    with tempfile.TemporaryDirectory() as folder:
        listed = draw(Path(folder) / "images", counts[-1])
        print("| images | peak, MiB | its own | pages of files |\n|---|---|---|---|")
        for count in counts:
            found[count] = row = measure(Path(folder), listed[:count], given.engine)
            print(f"| {count:,} | {row['peak']:.0f} | {row['own']:.0f} | {row['files']:.0f} |", flush=True)
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps(found, indent=1) + "\n")


def draw(folder: Path, count: int) -> list[str]:
    """Distinct small JPEGs; path and sha256 of each in a line."""
    lines = []
    for number in range(count):
        path = folder / f"{number // 1000}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = io.BytesIO()
        pixels = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(stream, "JPEG")
        path.write_bytes(stream.getvalue())
        lines.append(f"{path.relative_to(folder)} {hashlib.sha256(stream.getvalue()).hexdigest()}")
    return lines


def measure(folder: Path, listed: list[str], engine: str) -> dict[str, float]:
    """The most that an extraction held, in MiB."""
    (folder / "listed").write_text("\n".join(listed))
    with tempfile.TemporaryDirectory(dir=folder) as checkout:
        done = subprocess.run(
            [sys.executable, "-c", RUN, str(folder / "images"), str(folder / "listed"), engine],
            cwd=checkout, env=os.environ | {"PYTHONPATH": str(Path.cwd()), "DVC_ROOT": checkout},
            stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
    result: dict[str, float] = json.loads(done.stdout.rpartition("RESULT ")[2])
    return result


if __name__ == "__main__":
    main()
