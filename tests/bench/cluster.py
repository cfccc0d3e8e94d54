"""Extraction by one of Ray's workers against two, and in this process, alternating; a worker takes one core.

Run it from the top folder of a checkout, with the extra `ray`:
python -m tests.bench.cluster [--images FOLDER] [--backbone resnet18] [--count 1024] [--rounds 3]

The nodes are simulated on this machine. The speed is that of the second half of the images, when all workers are at
work; the last column tells the seconds until the first part is done. What comes out must be the same bytes.
"""

import argparse
import hashlib
import io
import json
import os
import shutil
import tempfile
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from statistics import median
from typing import Any

os.environ["OMP_NUM_THREADS"] = os.environ["PYTHON_CPU_COUNT"] = "1"  # of this process: as many as a worker has

from ray.cluster_utils import Cluster as Nodes

from stages import paths
from stages.features import cluster, extraction
from stages.features.decoders import ImageRef
from stages.features.extraction import Part, Spec, Workers
from stages.features.store import RowStore
from stages.images import views
from tests.bench.extract import AUGMENT, BATCH, listed, machine_in_words, made_up

OUT = paths.TIMINGS / "bench-cluster.json"
WAYS = ("in this process", "one worker", "two workers")
PART = 64  # images: more parts than a run of this length would have


def main() -> None:
    """Prints a table and writes the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="a folder with JPEGs, at any depth; else some are made up")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--engine", default="auto", help="torch or openvino")
    parser.add_argument("--count", type=int, default=1024, help="images")
    parser.add_argument("--rounds", type=int, default=3, help="medians are shown")
    given = parser.parse_args()
    out, extraction.PART_VIEWS = OUT.absolute(), PART
    with tempfile.TemporaryDirectory() as folder:
        images = given.images or made_up(Path(folder) / "images", given.count)
        wanted = listed(images.absolute(), given.count)
        os.environ["DVC_ROOT"] = folder  # the store
        spec = Spec(
            images.absolute(), given.backbone, "random", "pooled", "auto", "crop", "float32", "float16", BATCH, "cpu",
            (views.EVALUATION,), AUGMENT, given.engine,
        )  # fmt: skip
        rounds = [{way: measure(spec, wanted, way) for way in WAYS} for _ in range(given.rounds)]
    assert len({one[way]["sha256"] for one in rounds for way in WAYS}) == 1, "the bytes differ"
    speeds = {way: median(one[way]["images/s"] for one in rounds) for way in WAYS}
    ratios = [one["two workers"]["images/s"] / one["one worker"]["images/s"] for one in rounds]
    print(f"{machine_in_words()}; {len(wanted)} images, {given.rounds} rounds\n")
    print("| | images/s | seconds to start |\n|---|---|---|")
    for way in WAYS:
        print(f"| {way} | {speeds[way]:.1f} | {median(one[way]['start'] for one in rounds):.1f} |")
    print(f"\ntwo workers over one, round by round: {', '.join(f'{ratio:.2f}' for ratio in ratios)}")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(
        json.dumps({"machine": machine_in_words(), "images": len(wanted), "rounds": rounds}, indent=1) + "\n"
    )


def measure(spec: Spec, wanted: Sequence[ImageRef], way: str) -> dict[str, Any]:
    """Images a second in the second half of an extraction, and the seconds until its first part."""
    shutil.rmtree(paths.store(), ignore_errors=True)
    started = time.perf_counter()
    with who(WAYS.index(way)) as workers, redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        clocked = Clocked(workers)
        extraction.extract(spec, wanted, paths.main_checkout() / "features.h5", workers=clocked)
    times = clocked.times
    half, last = times[len(times) // 2 - 1], times[-1]
    content = hashlib.sha256((paths.main_checkout() / "features.h5").read_bytes()).hexdigest()
    return {"images/s": (last[1] - half[1]) / (last[0] - half[0]), "start": times[0][0] - started, "sha256": content}


@contextmanager
def who(nodes: int) -> Iterator[Workers]:
    """This process, or the workers of so many nodes with a core each."""
    if not nodes:
        extraction.load_extractor.cache_clear()
        yield extraction.LOCAL
        return
    started = Nodes(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        for _ in range(nodes - 1):
            started.add_node(num_cpus=1)
        with cluster.connected(started.address, cpus=1, gpus=0) as workers:
            yield workers
    finally:
        started.shutdown()


class Clocked:
    """Workers, and when they had done how many images."""

    def __init__(self, workers: Workers) -> None:
        self.load_extractor, self._compute = workers.load_extractor, workers.compute
        self.times = list[tuple[float, int]]()

    def compute(self, spec: Spec, parts: Iterable[Part], store: RowStore) -> Generator[Part, None, None]:
        done = 0
        for part in self._compute(spec, parts, store):
            done += len(part.images)
            self.times.append((time.perf_counter(), done))
            yield part


if __name__ == "__main__":
    main()
