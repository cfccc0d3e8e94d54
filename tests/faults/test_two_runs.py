"""Two runs of one extraction at once: one waits, nothing is computed or unpacked twice, both end the same."""

import json
import os
import signal
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from stages import paths
from stages.blocks import Block, Source
from stages.datasets import source
from stages.features import extraction, h5
from stages.features.decoders import ImageRef
from tests.faults import toy

PART, IMAGES = 4, 9


@pytest.fixture
def wanted(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> list[ImageRef]:
    """An extraction of three parts, each of which takes a while and leaves a line in `computed`."""
    compute = extraction.compute_part

    def slow(spec: Any, part: Any, names: Any, *decoders: Any) -> Any:
        with Path("computed").open("a") as log:
            log.write(f"{os.getpid()} {len(part)}\n")
        time.sleep(0.2)
        return compute(spec, part, names, *decoders)

    monkeypatch.setattr(extraction, "load_extractor", toy.load_extractor(3))
    monkeypatch.setattr(extraction, "PART_VIEWS", PART)
    monkeypatch.setattr(extraction, "compute_part", slow)
    return toy.photos(workplace / "photos", IMAGES)


def run(wanted: list[ImageRef], out: Path = toy.OUT) -> int:
    extraction.extract(toy.spec(Path("photos").resolve(), PART), wanted, out)
    return toy.FINISHED


def computed(but: int = 0) -> list[int]:
    """The images of every part that any process has begun, but for one process."""
    lines = [line.split() for line in Path("computed").read_text().splitlines()]
    return [int(images) for process, images in lines if int(process) != but]


def kept() -> int:
    """The images whose rows are in the store."""
    return sum(len(h5.read(path).sha256) for path in (paths.store() / "features").glob("*/*.h5"))


@pytest.mark.parametrize("out", [toy.OUT, Path("elsewhere/toy.h5")], ids=["the same out", "in another experiment"])
def test_two_runs_at_once_compute_each_part_once(wanted: list[ImageRef], out: Path) -> None:
    codes: list[int] = []
    runs = [
        threading.Thread(target=lambda o=o: codes.append(toy.forked(lambda: run(wanted, o)))) for o in (toy.OUT, out)
    ]  # type: ignore[misc]
    for one in runs:
        one.start()
    for one in runs:
        one.join()
    assert codes == [toy.FINISHED, toy.FINISHED]
    assert sorted(computed()) == [1, 4, 4]
    assert toy.OUT.read_bytes() == out.read_bytes()
    Path("cache").rename("before")
    run(wanted)
    assert toy.OUT.read_bytes() == Path("before", *toy.OUT.parts[1:]).read_bytes()


def test_who_waits_for_a_run_that_is_killed_goes_on_from_its_parts(wanted: list[ImageRef]) -> None:
    first = os.fork()
    if not first:
        try:
            run(wanted)
        finally:
            os._exit(0)
    while not kept():
        time.sleep(0.01)
    codes: list[int] = []
    second = threading.Thread(target=lambda: codes.append(toy.forked(lambda: run(wanted))))
    second.start()
    os.kill(first, signal.SIGKILL)
    os.waitpid(first, 0)
    before = kept()
    second.join()
    assert codes == [toy.FINISHED]
    assert before in (4, 8, IMAGES)  # all of them where the machine is busy and the kill comes late
    assert sum(computed(but=first)) == IMAGES - before


class FromArchives(Block):
    """The options of a dataset that comes from archives."""

    source: Source


def test_two_runs_at_once_unpack_once(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unpack, raw = source.unpack, paths.raw("toy")
    raw.mkdir(parents=True)
    for name in ("a.zip", "b.zip"):
        with zipfile.ZipFile(raw / name, "w") as archive:
            archive.writestr("photo.jpg", name)
    (raw / source.SOURCES).write_text(json.dumps({"archives": {"a.zip": "1", "b.zip": "2"}}))

    def slow(archive: Path, destination: Path) -> None:
        with Path("unpacked").open("a") as log:
            log.write(f"{archive.name}\n")
        time.sleep(0.2)
        unpack(archive, destination)

    def run() -> int:
        folder = source.folder("toy", FromArchives(source=Source(url="a.zip")), "data/none")
        whole = all((folder / name / "photo.jpg").read_text() == name for name in ("a.zip", "b.zip"))
        return toy.FINISHED if whole else 1

    monkeypatch.setattr(source, "unpack", slow)
    codes: list[int] = []
    runs = [threading.Thread(target=lambda: codes.append(toy.forked(run))) for _ in range(2)]
    for one in runs:
        one.start()
    for one in runs:
        one.join()
    assert codes == [toy.FINISHED, toy.FINISHED]
    assert sorted(Path("unpacked").read_text().split()) == ["a.zip", "b.zip"]
