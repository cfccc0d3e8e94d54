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
from stages.errors import UserError, counted
from stages.features import extraction, watchdog
from stages.features.extraction import PARTS, Extractor, Part, Spec
from stages.features.store import RowStore

MOST_LOST = 10  # workers that one part may end
SUSPECT = 2  # workers that a part has ended: one of its images may be at fault
LOOK = 5.0  # seconds between looks at the nodes
CHECKOUT = Path(__file__).parents[2]


class Remote:
    """What runs in a worker, two parts at a time."""

    def load(self, spec: Spec, marker: Path) -> tuple[Extractor, str]:
        """Loads the network; returns how it computes (without the engine, which cannot travel) and the machine's name.

        Raises:
            UserError: this machine does not see the files of the driver, or cannot load the network.
        """
        if not marker.exists():
            raise UserError(
                f"{platform.node()} does not see the store ({marker.parent}): checkout, environment and images must "
                "be on a file system that all nodes see under the same path."
            )
        watchdog.end_when_stuck()
        return replace(extraction.load_extractor(spec), engine=None), platform.node()

    def compute(self, spec: Spec, part: Part) -> Path:
        """Computes a part and writes it into the store; returns its path."""
        rows = extraction.compute_part(spec, part.images, part.views)
        return RowStore(extraction.load_extractor(spec).provenance).write(rows, part.sha256, part.views)


@dataclass(eq=False)
class Job:
    """A part to compute; None: the network to load.

    Attributes:
        lost: how many workers ended while they computed it.
    """

    part: Part | None
    lost: int = 0


@dataclass(eq=False)
class Worker:
    """A worker as this process knows it.

    Attributes:
        actor: Ray's handle.
        jobs: what it computes now, by Ray's references.
        where: the name of its machine, known once the network is loaded.
    """

    actor: Any
    jobs: dict[Any, Job] = field(default_factory=dict)
    where: str = ""

    def takes(self, job: Job) -> bool:
        """Whether it may have another job: a second part, but a lost part only alone."""
        free = PARTS - len(self.jobs)
        alone = any(other.lost for other in (job, *self.jobs.values()))
        return bool(self.where) and free >= (PARTS if alone else 1)


@contextmanager
def connected(address: str, *, cpus: int, gpus: int) -> Iterator["Cluster"]:
    """The workers of a Ray cluster; they end with the block.

    Args:
        address: `local` starts a cluster on this machine, `auto` takes the one it belongs to; or host:port.
        cpus: cores per worker.
        gpus: GPUs per worker.

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
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage statistics are sent
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
        """How the workers compute, as reported by the first of them.

        Raises:
            UserError: no node has room for a worker; the worker does not see the store, or cannot load the network.
        """
        for worker in self._workers:
            ray.kill(worker.actor)
        self._workers = []
        print("waiting for the first of Ray's workers", flush=True)
        while True:
            self._hire(spec, 1)
            for _, result in self._finished(spec, deque()):
                extractor: Extractor = result
                return extractor

    def compute(self, spec: Spec, parts: Iterable[Part], store: RowStore) -> Generator[Part, None, None]:
        """Computes parts, at most two per worker at a time; each that comes out is in the store.

        Raises:
            UserError: workers would compute differently, a part cannot be computed, or it ends every worker.
        """
        waiting = deque(Job(part) for part in parts)
        while busy := len(waiting) + sum(
            job.part is not None for worker in self._workers for job in worker.jobs.values()
        ):
            self._hire(spec, busy)
            self._hand_out(spec, waiting)
            for job, result in self._finished(spec, waiting):
                if job.part:
                    store.take(result)
                    yield job.part
                elif result.provenance != store.provenance:
                    raise UserError(_differences(result.provenance, store.provenance))
        if self.retried:
            print(f"{counted(self.retried, 'parts were')} lost with a worker and computed again", flush=True)

    def _hire(self, spec: Spec, most: int) -> None:
        """Starts workers where nodes have room, and has them load the network."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        room = sum(_room(node, self._cpus, self._gpus) for node in nodes)
        if not room:
            offers = ", ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
            raise UserError(
                f"`extract.cluster`: no node has {self._cpus} CPUs and {self._gpus} GPUs for a worker "
                f"(`extract.cluster_cpus`, `extract.cluster_gpus`), found {offers or 'none'}. Finished parts are kept."
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
        """Waits a while for jobs to end, and yields each with its result.

        Lost parts wait again: the first time before all others, then behind them, as they may end every worker.
        """
        worker_of = {call: worker for worker in self._workers for call in worker.jobs}
        for call in ray.wait(list(worker_of), timeout=LOOK)[0]:
            worker = worker_of[call]
            job = worker.jobs.pop(call)
            try:
                result = ray.get(call)
            except RayTaskError as error:
                raise error.cause if isinstance(error.cause, UserError) else error from None
            except RayError as error:
                for lost in self._lost(spec, worker, jobs=[job, *worker.jobs.values()], error=error):
                    (waiting.appendleft if lost.lost < SUSPECT else waiting.append)(lost)
                continue
            if job is self._loading:
                self._loading.lost = 0
                result, worker.where = result
            yield job, result

    def _lost(self, spec: Spec, worker: Worker, *, jobs: list[Job], error: RayError) -> list[Job]:
        """Gives a worker up; returns the parts that it was computing."""
        self._workers.remove(worker)
        ray.kill(worker.actor)  # it may only be out of reach
        parts = [job for job in jobs if job.part]
        self.retried += len(parts)
        where = f" on {worker.where}" if worker.where else ""
        tqdm.write(f"A worker{where} ended with {counted(len(parts), 'parts')}, to be computed again.", sys.stderr)
        for job in jobs:
            job.lost += 1
            if job.lost == MOST_LOST:
                raise UserError(f"{_described(job)} has ended {MOST_LOST} workers. {_reason(error)}")
            if job.lost == SUSPECT and job.part:
                for image in job.part.images:
                    extraction.try_decode(spec, image)
        return parts


def _room(node: Mapping[str, float], cpus: int, gpus: int) -> int:
    """How many workers fit on a node with these resources."""
    fitting = [node.get("CPU", 0) // cpus, *([node.get("GPU", 0) // gpus] if gpus else [])]
    return int(min(fitting))


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    keys = sorted(key for key in theirs.keys() | ours.keys() if theirs.get(key) != ours.get(key))
    listed = "; ".join(f"{key}: {theirs.get(key)} and {ours.get(key)}" for key in keys)
    return (
        f"`extract.cluster`: workers would compute differently ({listed}). Their machines must be of one kind and have "
        "the same environment; where `auto` means different things on them, name one (`device`, `extract.engine`, "
        "`extract.precision`)."
    )


def _described(job: Job) -> str:
    if not job.part:
        return "Loading the network"
    images = [path for path, _ in job.part.images]
    return f"The part of {len(images)} images from {images[0]} to {images[-1]}"


def _reason(error: RayError) -> str:
    return f"The last said: {str(error).strip().splitlines()[-1].strip()}. Finished parts are kept."
