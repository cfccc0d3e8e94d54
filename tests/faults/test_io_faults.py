"""Every I/O operation of a small extraction fails in turn, in every way: nothing is lost, nothing is wrong.

As SQLite tests itself: the run is repeated with the fault at operation 0, 1, 2, … until it reaches none. After each:
no half file under a final name, no wrong row, and a run without faults ends with the very bytes of a clean run.
"""

import errno
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages import paths
from stages.errors import UserError
from stages.features import extraction, h5
from stages.features.decoders import ImageRef
from stages.features.extraction import extract
from tests.faults import toy
from tests.faults.toy import FINISHED, KILLED, OUT, REFUSED, WRONG, forked

OPERATIONS = ("open", "posix_fallocate", "pwrite", "pread", "fsync", "replace", "link", "unlink", "close")
FAULTS = ("kill before", "kill after", "torn", "ENOSPC", "EIO", "short")
IMAGES, PART = 9, 4  # parts of 4, 4 and 1
Rows = dict[str, h5.Array]


class Faulty:
    """An operation of `os` that fails at the nth call of all that are wrapped."""

    def __init__(self, at: int | None, kind: str) -> None:
        self.at, self.kind, self.count = at, kind, 0
        self.names: list[str] = []

    def wrap(self, name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*arguments: Any, **named: Any) -> Any:
            self.names.append(name)
            self.count += 1
            return (
                real(*arguments, **named) if self.count - 1 != self.at else self.fail(name, real, *arguments, **named)
            )

        return call

    def fail(self, name: str, real: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        if self.kind == "kill before":
            os._exit(KILLED)
        if self.kind in ("ENOSPC", "EIO"):
            code = getattr(errno, self.kind)
            if name == "close":
                real(*arguments)
            raise OSError(code, os.strerror(code))
        if name in ("pwrite", "pread") and self.kind in ("torn", "short"):
            descriptor, what, offset = arguments
            half = what[: max(1, len(what) // 2)] if name == "pwrite" else max(1, what // 2)
            done = real(descriptor, half, offset)
        else:
            done = real(*arguments, **named)
        if self.kind in ("kill after", "torn"):
            os._exit(KILLED)
        return done


@pytest.fixture
def wanted(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> list[ImageRef]:
    """Images in `photos`, and an extraction of three parts."""
    monkeypatch.setattr(extraction, "load_extractor", toy.load_extractor(3))
    monkeypatch.setattr(extraction, "PART_VIEWS", PART)
    return toy.photos(workplace / "photos", IMAGES)


def run(wanted: Sequence[ImageRef]) -> int:
    """How many images were computed."""
    computed, _, _ = extract(toy.spec(Path("photos").resolve(), PART), wanted, OUT)
    return computed


def faulty_run(wanted: Sequence[ImageRef], faulty: Faulty) -> int:
    with pytest.MonkeyPatch.context() as patch:
        for name in OPERATIONS:
            patch.setattr(os, name, faulty.wrap(name))
        try:
            run(wanted)
        except UserError as error:
            return REFUSED if str(error).strip() else WRONG
    return FINISHED


def count_operations(wanted: Sequence[ImageRef]) -> list[str]:
    faulty = Faulty(None, "")
    assert faulty_run(wanted, faulty) == FINISHED
    return faulty.names


def violations(truth: Rows, reference: bytes, code: int, wanted: Sequence[ImageRef]) -> list[str]:
    """What a faulty run has broken; ends with a run without faults."""
    found = []
    if code not in (FINISHED, KILLED, REFUSED):
        found.append(f"it ended with {code}")
    if code == FINISHED and (not OUT.exists() or OUT.read_bytes() != reference):
        found.append("it said that it had finished, and the file is another")
    kept: set[str] = set()
    for path in [*(paths.store() / "features").glob("*/*.h5"), *([OUT] if OUT.exists() else [])]:
        try:
            file = h5.read(path)
        except UserError:
            found.append(f"{path} is not whole under its final name")
            continue
        kept |= set(file.sha256)
        rows = {image: file.layers["pooled"][row] for row, image in enumerate(file.sha256)}
        if any(not np.array_equal(values, truth[image]) for image, values in rows.items()):
            found.append(f"{path} has wrong rows")
    computed = run(wanted)
    if computed != IMAGES - len(kept):
        found.append(f"{computed} images computed again, {len(kept)} of {IMAGES} were there")
    if OUT.read_bytes() != reference:
        found.append("the next run did not end byte-identical")
    left = [path for path in Path("cache").rglob("*") if path.suffix == ".partial"]
    if left or len(list((paths.store() / "features").glob("*/*.h5"))) != 1:
        found.append(f"left behind: {left}, or more than one big part")
    return found


@pytest.mark.parametrize("stride", [pytest.param(1, marks=pytest.mark.slow), pytest.param(9, id="every ninth")])
def test_every_operation_fails_in_every_way(wanted: list[ImageRef], stride: int) -> None:
    names = count_operations(wanted)
    reference = OUT.read_bytes()
    file = h5.read(OUT)
    truth = {image: np.array(file.layers["pooled"][row]) for row, image in enumerate(file.sha256)}
    ended: Counter[str] = Counter()
    broken = {}
    cases = [(at, kind) for at in range(len(names)) for kind in FAULTS][::stride]
    for at, kind in cases:
        shutil.rmtree("cache")
        code = forked(lambda at=at, kind=kind: faulty_run(wanted, Faulty(at, kind)))  # type: ignore[misc]
        ended[{FINISHED: "finished", KILLED: "killed", REFUSED: "refused"}.get(code, f"code {code}")] += 1
        if found := violations(truth, reference, code, wanted):
            broken[f"{kind} at operation {at} ({names[at]})"] = found
    print(
        f"{len(names)} operations ({dict(Counter(names))}), {len(cases)} cases: {dict(ended)}; {len(broken)} violations"
    )
    assert not broken
    assert len(cases) >= 400 // stride
    assert ended["killed"] and ended["refused"] and ended["finished"]


def test_a_killed_process_counts_as_wrong() -> None:
    def die() -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return FINISHED

    assert forked(die) == -signal.SIGKILL
