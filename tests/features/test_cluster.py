"""Extraction by Ray's workers: the same bytes as in process, whatever ends them."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stages import paths
from stages.features import extraction
from stages.features.extraction import Image, Spec, extract
from tests.features.test_extraction import listed, spec_of

cluster_utils = pytest.importorskip("ray.cluster_utils")

from stages.features import cluster  # noqa: E402
from tests.faults import workers  # noqa: E402

PART = 32  # images: params.yaml's batch
IMAGES = 4 * PART
OUT, PLAIN = Path("cluster.h5"), Path("plain.h5")


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A cluster of a node that holds one worker."""
    started = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield started
    started.shutdown()


@pytest.fixture
def spec(workplace: Path, class_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Spec]:
    """SqueezeNet on small images, in parts of a batch."""
    monkeypatch.setattr(extraction, "PART_VIEWS", PART)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    yield spec_of(class_folder(-(-IMAGES // 3)), batch_size=PART)
    extraction.machine.cache_clear()


def wanted(spec: Spec) -> list[Image]:
    return listed(spec.folder)[:IMAGES]


def plain(spec: Spec) -> bytes:
    """The file as it is computed in process, in a store of its own."""
    extract(spec, wanted(spec), PLAIN)
    Path("cache").rename("cache of its own")
    return PLAIN.read_bytes()


def test_a_node_that_dies_in_a_part_costs_what_it_was_at(
    spec: Spec, nodes: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = plain(spec)
    doomed = nodes.add_node(num_cpus=1)
    Path("doomed").write_text(doomed.node_id)
    monkeypatch.setattr(cluster, "Remote", workers.Hanging)

    def kill() -> None:
        while not Path("reached").exists():
            time.sleep(0.05)
        nodes.remove_node(doomed, allow_graceful=False)

    threading.Thread(target=kill, daemon=True).start()
    with cluster.connected(nodes.address, cpus=1, gpus=0) as many:
        assert extract(spec, wanted(spec), OUT, many) == (IMAGES, [])
        assert many.retried > 0
        assert f"{many.retried} parts were lost with their workers and computed again" in capsys.readouterr().out
        assert extract(spec, wanted(spec), OUT, many)[0] == 0  # all rows are in the store
    assert OUT.read_bytes() == expected
    assert not list(paths.store().rglob("*.partial"))
