"""Extraction by Ray's workers: the same bytes as in process, whatever ends them."""

import hashlib
import json
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages import extract as stage
from stages import paths
from stages.errors import UserError
from stages.features import extraction, h5
from stages.features.decoders import ImageRef
from stages.features.extraction import LOCAL, Part, Spec, extract
from stages.features.store import RowStore
from tests.features.test_extraction import listed, spec_of

ray = pytest.importorskip("ray")
cluster_utils = pytest.importorskip("ray.cluster_utils")

from stages.features import cluster  # noqa: E402
from tests.faults import workers  # noqa: E402

PART = 32  # images: params.yaml's batch
IMAGES = 6 * PART  # more parts than the two workers of one node hold, so that a third gets some
OUT, PLAIN = Path("cluster.h5"), Path("plain.h5")
# A stage as it runs, watched over, with workers whose decoder crashes or hangs.
WATCHED = """
import json, pickle
from pathlib import Path
from stages.features import cluster, decoders, extraction, watchdog
from stages.images import decode as decoding
from tests.faults import workers
decoding.decode = extraction.decode = decoders.decode = workers.harmful
watchdog.LIMIT = 2.0
watchdog.start()
address, spec, wanted = pickle.loads(Path("given").read_bytes())
cluster.Remote, extraction.PART_VIEWS = workers.Crashing, spec.batch_size
with cluster.connected(address, cpus=1, gpus=0) as many:
    _, bad, _ = extraction.extract(spec, wanted, Path("cluster.h5"), workers=many)
print(json.dumps([[place, extraction.decoding_error(spec, wanted[place])] for place in bad]))
"""


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A cluster of a node that holds two workers."""
    started = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    yield started
    started.shutdown()


@pytest.fixture
def spec(workplace: Path, class_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Spec]:
    """SqueezeNet on small images, in parts of a batch."""
    monkeypatch.setattr(extraction, "PART_VIEWS", PART)
    yield spec_of(class_folder(-(-IMAGES // 3)), batch_size=PART)
    extraction.load_extractor.cache_clear()


def wanted(spec: Spec) -> list[ImageRef]:
    return listed(spec.folder)[:IMAGES]


def in_process(spec: Spec) -> bytes:
    """The file as it is computed in process, in a store of its own."""
    extract(spec, wanted(spec), PLAIN)
    Path("cache").rename("another cache")
    return PLAIN.read_bytes()


def test_workers_compute_the_same_bytes(spec: Spec, nodes: Any) -> None:
    expected = in_process(spec)
    with cluster.connected(nodes.address, cpus=1, gpus=0) as many:
        assert extract(spec, wanted(spec), OUT, workers=many)[:2] == (IMAGES, [])
        assert many.retried == 0
    assert OUT.read_bytes() == expected
    assert not list(paths.store().rglob("*.partial"))


@pytest.mark.slow
def test_what_workers_cannot_do_is_an_error(spec: Spec, nodes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    file = spec.folder / wanted(spec)[0][0]
    whole = file.read_bytes()
    given = wanted(spec)
    with cluster.connected(nodes.address, cpus=1, gpus=0) as many:
        file.write_bytes(b"another")
        with pytest.raises(UserError, match=r"ant/000.jpg has changed since it was indexed") as caught:
            extract(spec, given, OUT, workers=many)
        assert "Traceback" not in str(caught.value)
        file.write_bytes(whole)
    monkeypatch.setattr(cluster, "Remote", workers.Different)
    with (
        cluster.connected(nodes.address, cpus=1, gpus=0) as many,
        pytest.raises(UserError, match=r"workers would compute differently \(device: cuda and cpu\)"),
    ):
        extract(spec, given, OUT, workers=many)
    with (
        cluster.connected(nodes.address, cpus=4, gpus=1) as many,
        pytest.raises(UserError, match=r"no node has 4 CPUs and 1 GPUs .*, found 2 CPUs and 0 GPUs"),
    ):
        extract(spec, given, OUT, workers=many)
    assert not OUT.exists()


@pytest.mark.slow
def test_a_node_that_dies_in_a_part_costs_what_it_was_at(
    spec: Spec, nodes: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = in_process(spec)
    doomed = nodes.add_node(num_cpus=1)
    Path("doomed").write_text(doomed.node_id)
    monkeypatch.setattr(cluster, "Remote", workers.Hanging)

    def kill() -> None:
        while not Path("reached").exists():
            time.sleep(0.05)
        nodes.remove_node(doomed, allow_graceful=False)

    threading.Thread(target=kill, daemon=True).start()
    with cluster.connected(nodes.address, cpus=1, gpus=0) as many:
        assert extract(spec, wanted(spec), OUT, workers=many)[:2] == (IMAGES, [])
        assert 1 <= many.retried <= extraction.PARTS
        assert "lost with a worker and computed again" in capsys.readouterr().out
        while any(node["Alive"] and node["NodeID"] == doomed.node_id for node in ray.nodes()):
            time.sleep(0.1)  # or the next test would find room on it
    assert OUT.read_bytes() == expected


@pytest.mark.slow
def test_a_node_that_joins_gets_a_worker(spec: Spec, nodes: Any) -> None:
    with cluster.connected(nodes.address, cpus=1, gpus=0) as many:
        ready = many.load_extractor(spec)
        parts = list(extraction.parts_of(spec, ready, images=wanted(spec), missing={spec.views: range(IMAGES)}))
        with RowStore(ready.provenance).locked() as store:
            computed = many.compute(spec, parts, store)
            done, joined = [next(computed)], nodes.add_node(num_cpus=1)
            done += computed
            assert {str(part) for part in done} == {str(part) for part in parts}
            assert len(many._workers) == 3
    nodes.remove_node(joined)


@pytest.mark.slow
def test_a_part_that_ends_every_worker_is_named_and_the_others_stay(
    spec: Spec, nodes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fatal, last = wanted(spec)[PART][0], wanted(spec)[2 * PART - 1][0]
    Path("fatal").write_text(fatal)
    monkeypatch.setattr(cluster, "Remote", workers.Killed)
    with (
        cluster.connected(nodes.address, cpus=1, gpus=0) as many,
        pytest.raises(UserError, match=rf"The part of {PART} images from {fatal} to {last} has ended 10 workers\."),
    ):
        extract(spec, wanted(spec), OUT, workers=many)
    assert Path("killed").read_text() == 10 * "."
    assert extract(spec, wanted(spec), OUT)[0] == PART


@pytest.mark.slow
def test_images_that_end_workers_are_bad_and_the_others_do_not_notice(
    spec: Spec, nodes: Any, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_process(spec)
    undisturbed, given = h5.read(PLAIN), wanted(spec)
    for place, size in {5: 20_001, 70: 20_002}.items():
        file = spec.folder / given[place][0]
        file.write_bytes(file.read_bytes().ljust(size, b"\0"))
        given[place] = (given[place][0], hashlib.sha256(file.read_bytes()).hexdigest())
    Path("given").write_bytes(pickle.dumps((nodes.address, spec, given)))
    monkeypatch.setenv("PYTHONPATH", str(repository))
    done = subprocess.run([sys.executable, "-c", WATCHED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [
        [5, "decoding ended with SIGSEGV"],
        [70, "decoding took longer than 2 s"],
    ]
    found, good = h5.read(OUT), [place for place in range(IMAGES) if place not in (5, 70)]
    assert found.ok.tolist() == [place in good for place in range(IMAGES)]
    np.testing.assert_array_equal(found.layers["pooled"][good], undisturbed.layers["pooled"][good])


def test_a_worker_takes_two_parts_but_a_lost_one_alone() -> None:
    part = Part([], ())
    new, lost, other = cluster.Job(part), cluster.Job(part, lost=1), cluster.Job(part, lost=1)
    assert not cluster.Worker(None).takes(new)  # it has not loaded the network
    worker = cluster.Worker(None, where="here")
    assert worker.takes(new) and worker.takes(lost)
    worker.jobs[1] = new
    assert worker.takes(cluster.Job(part)) and not worker.takes(lost)
    worker.jobs[2] = cluster.Job(part)
    assert not worker.takes(cluster.Job(part))
    worker.jobs = {1: other}
    assert not worker.takes(new) and not worker.takes(lost)


def test_a_machine_that_does_not_see_the_store_is_named(spec: Spec) -> None:
    with pytest.raises(UserError, match=r" does not see the store \(/nowhere\): .* under the same path"):
        cluster.Remote().load(spec, Path("/nowhere/marker"))


@pytest.mark.parametrize(
    ("node", "cpus", "gpus", "room"),
    [({"CPU": 8.0}, 2, 0, 4), ({"CPU": 8.0}, 3, 0, 2), ({"CPU": 8.0, "GPU": 2.0}, 1, 1, 2), ({"CPU": 8.0}, 1, 1, 0)],
)
def test_the_workers_that_a_node_holds(node: dict[str, float], cpus: int, gpus: int, room: int) -> None:
    assert cluster._room(node, cpus, gpus) == room


def test_ray_is_asked_for_only_where_it_is_needed(params: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with stage.connect_workers(params().extract) as chosen:
        assert chosen is LOCAL
    monkeypatch.setattr(stage, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"`extract.cluster`: local needs Ray: pip install '.\[ray\]', or take none"):
        stage.connect_workers(params(extract={"cluster": "local"}).extract)
