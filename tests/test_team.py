"""Features shared through a remote: a colleague trains heads without the images."""

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import requests

from tests import checkout
from tests.checkout import Project
from tests.dag.toy import BASE, FROM_HEAD, FROM_TRAIN, IMAGES, draw_images

SHARED = ("code", "index", "split", "extract", "review")  # the stages whose outs a colleague needs
BUCKET = "features"
pytestmark = pytest.mark.slow


@pytest.fixture
def owner(tmp_path: Path) -> Project:
    """With a finished run on a folder that nobody else has."""
    made = checkout.fresh(tmp_path / "owner")
    draw_images(made.images, IMAGES)
    made.experiment({**BASE, "root": made.images, "extract.engine": "torch"})
    made.commit("first run")
    return made


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an S3 server on this machine, with a bucket."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "made-up")
    with subprocess.Popen([sys.executable, "-m", "moto.server", "-p", str(port)], stderr=subprocess.DEVNULL) as server:
        try:
            address = f"http://127.0.0.1:{port}"
            _wait_for(server, port)
            requests.put(f"{address}/{BUCKET}", timeout=10).raise_for_status()
            yield address
        finally:
            server.terminate()


def _wait_for(server: subprocess.Popen[bytes], port: int) -> None:
    for _ in range(300):
        assert server.poll() is None, "moto's server has ended"
        with socket.socket() as line:
            if not line.connect_ex(("127.0.0.1", port)):
                return
        time.sleep(0.1)
    raise AssertionError("moto's server does not answer")


def share(owner: Project, url: str, **settings: str) -> None:
    """Pushes what the owner has to a new remote."""
    owner.run("dvc", "remote", "add", "-d", "team", url)
    for name, value in settings.items():
        owner.run("dvc", "remote", "modify", "team", name, value)
    owner.commit("remote")
    owner.run("dvc", "push", "--run-cache", *SHARED)


def joined(owner: Project) -> Project:
    """What a colleague has cloned and pulled; nobody has the images any more."""
    shutil.rmtree(owner.images)
    colleague = checkout.clone(owner, owner.home.with_name("colleague"))
    colleague.run("dvc", "pull", *SHARED)
    return colleague


def trains_without_images(colleague: Project) -> None:
    stages, output = colleague.experiment({"lr": 0.02}, "--allow-missing")
    assert stages == {"check", *FROM_TRAIN}, output
    assert "report: 0 pictures, " in output, output
    assert not list((colleague.home / "data/raw").iterdir())
    assert not (colleague.home / "cache/images").exists()
    page = (colleague.home / "reports/report.html").read_text()
    assert "pictures cannot be shown" in page.lower()


def test_a_local_remote(owner: Project) -> None:
    share(owner, str(owner.home.parent / "remote"))
    owner.experiment({"backbone": "resnet18"})
    owner.run("dvc", "push", "--run-cache", *SHARED)
    colleague = joined(owner)
    trains_without_images(colleague)
    stages, output = colleague.experiment({"backbone": "resnet18"}, "--allow-missing", "--pull")
    assert stages == {"check", "review", *FROM_HEAD}, output  # the features are those that the owner has pushed


@pytest.mark.skipif(not (find_spec("dvc_s3") and find_spec("moto")), reason="needs dvc-s3 and moto[server]")
def test_s3(owner: Project, s3: str) -> None:
    share(owner, f"s3://{BUCKET}/dvc", endpointurl=s3)
    trains_without_images(joined(owner))
