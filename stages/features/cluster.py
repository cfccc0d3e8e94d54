"""Extraction on many machines: Ray's workers compute parts and write them into the store, on a file system they share.

Workers are Ray actors, so that each loads the network once and keeps its GPU. Nothing but the names of images and the
paths of parts travels. This process holds the store's lock, hands out parts and counts what is lost with a worker: a
lost part is tried elsewhere, and alone, so that it is known what ends workers. One that has ended two is decoded here,
where crashes are watched over (`watchdog`).
"""

import os
import platform
import socket
import sys
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from tqdm import tqdm

from stages import files, paths
from stages.errors import UserError
from stages.features import extraction, watchdog
from stages.features.extraction import PARTS, Extractor, Part, Spec
from stages.features.store import RowStore

MOST_LOST = 10  # workers, to one part
SUSPECT = 2  # workers lost to a part: one of its images may be at fault
LOOK = 5.0  # seconds between looks at the nodes
CHECKOUT = Path(__file__).parents[2]


class Remote:
    """What runs in a worker, two parts at a time."""

    def load(self, spec: Spec, marker: Path) -> tuple[Extractor, str]:
        """Loads the network; how it computes (without the engine, which does not travel), and the machine's name.

        Raises:
            UserError: this machine does not see the files of the driver, or cannot have the network.
        """
        if not marker.exists():
            raise UserError(
                f"{platform.node()} does not see the store ({marker.parent}): checkout, environment and images must "
                "lie on a file system that all nodes have under the same path."
            )
        watchdog.end_when_stuck()
        return replace(extraction.load_extractor(spec), engine=None), platform.node()

    def compute(self, spec: Spec, part: Part) -> Path:
        """Computes a part and writes it into the store; where it lies there."""
        rows = extraction.compute_part(spec, part.images, part.views)
        return RowStore(extraction.load_extractor(spec).provenance).write(rows, part.sha256, part.views)


@dataclass(eq=False)
class Job:
    """A part to compute; None: the network to load.

    Attributes:
        lost: how many workers ended while they were at it.
    """

    part: Part | None
    lost: int = 0


@dataclass(eq=False)
class Worker:
    """A worker as this process knows it.

    Attributes:
        actor: Ray's handle.
        jobs: what it is at, by Ray's references.
        where: the name of its machine, known once the network is loaded.
    """

    actor: Any
    jobs: dict[Any, Job] = field(default_factory=dict)
    where: str = ""

    def takes(self, job: Job) -> bool:
        """Whether it may have another job: a second part, but one that was lost only alone."""
        free = PARTS - len(self.jobs)
        alone = any(one.lost for one in (job, *self.jobs.values()))
        return bool(self.where) and free >= (PARTS if alone else 1)


@contextmanager
def connected(address: str, *, cpus: int, gpus: int) -> Iterator["Cluster"]:
    """The workers of a Ray cluster; they end with the block.

    Args:
        address: `local` starts a cluster on this machine, `auto` takes the one it belongs to; or host:port.
        cpus: cores that a worker takes.
        gpus: GPUs that it takes.

    Raises:
        UserError: there is no such cluster.
    """
    marker = files.temp_path(paths.store() / "cluster")
    files.write_bytes(marker, b"")
    try:
        _connect(address)
        yield Cluster(marker, cpus, gpus)
    finally:
        ray.shutdown()
        files.discard(marker)


def _connect(address: str) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
    host, _, port = address.rpartition(":")
    try:
        if host:  # Ray would try for five minutes
            socket.create_connection((host, int(port)), timeout=LOOK).close()
        ray.init(address, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
    except (OSError, RuntimeError, ValueError, RayError) as error:
        raise UserError(
            f"`extract.cluster`: {address} cannot be used ({str(error).strip().splitlines()[0]}). `ray start` starts a "
            "cluster, and this machine must be one of its nodes; `local` needs none."
        ) from error


class Cluster:
    """As many workers as the nodes have room for; when a node joins, its workers do.

    Attributes:
        retried: how often a part was lost and handed out again.
    """

    def __init__(self, marker: Path, cpus: int, gpus: int) -> None:
        self.retried = 0
        self._marker, self._cpus, self._gpus = marker, cpus, gpus
        self._workers: list[Worker] = []
        self._loading = Job(None)
        environment = {
            "PYTHONPATH": str(CHECKOUT),
            "DVC_ROOT": str(paths.main_checkout()),
            "OMP_NUM_THREADS": str(cpus),
            "PYTHON_CPU_COUNT": str(cpus),
        }
        self._remote = ray.remote(
            num_cpus=cpus, num_gpus=gpus, max_concurrency=PARTS, runtime_env={"env_vars": environment}
        )(Remote)

    def load_extractor(self, spec: Spec) -> Extractor:
        """How the workers compute, as the first of them tells.

        Raises:
            UserError: no node has room for a worker; the worker does not see the store, or cannot have the network.
        """
        for worker in self._workers:
            ray.kill(worker.actor)
        self._workers = []
        print("waiting for the first of Ray's workers", flush=True)
        while True:
            self._hire(spec, 1)
            for _, found in self._finished(spec, deque()):
                machine: Extractor = found
                return machine

    def compute(self, spec: Spec, parts: Iterable[Part], store: RowStore) -> Generator[Part, None, None]:
        """Computes parts, at most two a worker at a time; each that comes out is in the store.

        Raises:
            UserError: workers would compute differently, a part cannot be computed, or it ends every worker.
        """
        waiting = deque(Job(part) for part in parts)
        while busy := len(waiting) + sum(
            job.part is not None for worker in self._workers for job in worker.jobs.values()
        ):
            self._hire(spec, busy)
            self._hand_out(spec, waiting)
            for job, found in self._finished(spec, waiting):
                if job.part:
                    store.take(found)
                    yield job.part
                elif found.provenance != store.provenance:
                    raise UserError(_differences(found.provenance, store.provenance))
        if self.retried:
            print(f"{self.retried} part(s) were lost with their workers and computed again", flush=True)

    def _hire(self, spec: Spec, most: int) -> None:
        """Starts workers where nodes have room, and lets them load the network."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        room = sum(_room(node, self._cpus, self._gpus) for node in nodes)
        if not room:
            found = ", ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
            raise UserError(
                f"`extract.cluster`: no node has {self._cpus} CPUs and {self._gpus} GPUs for a worker "
                f"(`extract.cluster_cpus`, `extract.cluster_gpus`), found {found or 'no node'}. What is finished stays."
            )
        for _ in range(len(self._workers), min(room, most)):
            actor = self._remote.remote()
            self._workers.append(Worker(actor, {actor.load.remote(spec, self._marker): self._loading}))

    def _hand_out(self, spec: Spec, waiting: deque[Job]) -> None:
        for worker in self._workers:
            while waiting and worker.takes(waiting[0]):
                job = waiting.popleft()
                worker.jobs[worker.actor.compute.remote(spec, job.part)] = job

    def _finished(self, spec: Spec, waiting: deque[Job]) -> Iterator[tuple[Job, Any]]:
        """Waits a while for a job to end, and gives it with what came out.

        Lost parts wait again: once before all others, then behind them, as they may cost every worker that takes them.
        """
        at = {call: worker for worker in self._workers for call in worker.jobs}
        for call in ray.wait(list(at), timeout=LOOK)[0]:
            worker = at[call]
            job = worker.jobs.pop(call)
            try:
                found = ray.get(call)
            except RayTaskError as error:
                raise error.cause if isinstance(error.cause, UserError) else error from None
            except RayError as error:
                for lost in self._lost(spec, worker, [job, *worker.jobs.values()], error):
                    (waiting.appendleft if lost.lost < SUSPECT else waiting.append)(lost)
                continue
            if job is self._loading:
                self._loading.lost = 0
                found, worker.where = found
            yield job, found

    def _lost(self, spec: Spec, worker: Worker, jobs: list[Job], error: RayError) -> list[Job]:
        """Gives a worker up; the parts that it was at."""
        self._workers.remove(worker)
        ray.kill(worker.actor)  # it may only be out of reach
        parts = [job for job in jobs if job.part]
        self.retried += len(parts)
        where = f" on {worker.where}" if worker.where else ""
        tqdm.write(f"A worker{where} ended, {len(parts)} part(s) with it: they are computed again.", sys.stderr)
        for job in jobs:
            job.lost += 1
            if job.lost == MOST_LOST:
                raise UserError(f"{_described(job)} has ended {MOST_LOST} workers. {_reason(error)}")
            if job.lost == SUSPECT and job.part:
                for image in job.part.images:
                    extraction.decoded(spec, image)
        return parts


def _room(node: Mapping[str, float], cpus: int, gpus: int) -> int:
    """How many workers a node with these resources holds."""
    rooms = [node.get("CPU", 0) // cpus, *([node.get("GPU", 0) // gpus] if gpus else [])]
    return int(min(rooms))


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    keys = sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))
    listed = "; ".join(f"{key}: {found.get(key)} and {wanted.get(key)}" for key in keys)
    return (
        f"`extract.cluster`: workers would compute differently ({listed}). Their machines must be of one kind and have "
        "the same environment; where `auto` finds different things, name one (`device`, `extract.engine`, "
        "`extract.precision`)."
    )


def _described(job: Job) -> str:
    if not job.part:
        return "Loading the network"
    images = [path for path, _ in job.part.images]
    return f"The part of {len(images)} images from {images[0]} to {images[-1]}"


def _reason(error: RayError) -> str:
    return f"The last said: {str(error).strip().splitlines()[-1].strip()}. What is finished stays."
