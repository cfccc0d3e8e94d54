"""Every I/O operation of a small extraction fails in turn, in every way: nothing is lost, nothing is wrong.

As SQLite tests itself: the run is repeated with the fault at operation 0, 1, 2, … until it reaches none. After each:
no half file under a final name, no wrong row, and a run without faults ends with the very bytes of a clean run.
"""

import errno
import hashlib
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
from stages.features import extraction, h5, views
from stages.features.extraction import Machine, Spec, extract
from stages.features.pipeline import Preprocessing
from stages.params import Augment
from tests.conftest import encode, picture

OPERATIONS = ("open", "posix_fallocate", "pwrite", "pread", "fsync", "replace", "link", "unlink", "close")
FAULTS = ("kill before", "kill after", "torn", "ENOSPC", "EIO", "short")
OUT = Path("cache/features/toy/toy.h5")
IMAGES, PART = 9, 4  # parts of 4, 4 and 1
FINISHED, KILLED, REFUSED, WRONG = 0, 1, 2, 3
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
            return real(*arguments, **named) if self.count - 1 != self.at else self.fail(name, real, *arguments, **named)

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


def features(pixels: Any) -> list[np.ndarray[Any, Any]]:
    """A network in little: sums of the pixels."""
    return [pixels.float().mean((2, 3)).numpy().repeat(3, 1)]


def ready(spec: Spec) -> Machine:
    how = Preprocessing(16, 16, "bilinear", (0, 0, 0), (1, 1, 1))
    return Machine(features, how, {"pooled": ((9,), "f4")}, {"backbone": "toy"})  # type: ignore[arg-type]


@pytest.fixture
def wanted(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Images in `photos`, and an extraction of three parts."""
    monkeypatch.setattr(extraction, "machine", ready)
    monkeypatch.setattr(extraction, "PART_VIEWS", PART)
    (workplace / "photos").mkdir()
    found = []
    for number in range(IMAGES):
        data = encode(picture(number, (24, 20)), "JPEG")
        (workplace / "photos" / f"{number}.jpg").write_bytes(data)
        found.append((f"{number}.jpg", hashlib.sha256(data).hexdigest()))
    return found


def spec() -> Spec:
    return Spec(
        Path("photos").resolve(), "toy", "random", "pooled", 16, "crop", "float32", "float32", PART, "cpu",
        tuple(views.names(1, Augment(crop=0.4, flip=True, rotate=0.0, lighting=0.2), 0)),
        Augment(crop=0.4, flip=True, rotate=0.0, lighting=0.2),
    )  # fmt: skip


def forked(work: Callable[[], int]) -> int:
    """The exit code of some work in a process of its own; a process that a signal ended counts as WRONG."""
    child = os.fork()
    if not child:
        code = WRONG
        try:
            with open(os.devnull, "w") as null:
                os.dup2(null.fileno(), 1)
                os.dup2(null.fileno(), 2)
            code = work()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def faulty_run(wanted: Sequence[tuple[str, str]], faulty: Faulty) -> int:
    with pytest.MonkeyPatch.context() as patch:
        for name in OPERATIONS:
            patch.setattr(os, name, faulty.wrap(name))
        try:
            extract(spec(), wanted, OUT)
        except UserError as error:
            return REFUSED if str(error).strip() else WRONG
    return FINISHED


def count_operations(wanted: Sequence[tuple[str, str]]) -> list[str]:
    faulty = Faulty(None, "")
    assert faulty_run(wanted, faulty) == FINISHED
    return faulty.names


def violations(truth: Rows, reference: bytes, code: int, wanted: Sequence[tuple[str, str]]) -> list[str]:
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
    computed, _ = extract(spec(), wanted, OUT)
    if computed != IMAGES - len(kept):
        found.append(f"{computed} images computed again, {len(kept)} of {IMAGES} were there")
    if OUT.read_bytes() != reference:
        found.append("the next run did not end byte-identical")
    left = [path for path in Path("cache").rglob("*") if path.suffix == ".partial"]
    if left or len(list((paths.store() / "features").glob("*/*.h5"))) != 1:
        found.append(f"left behind: {left}, or more than one big part")
    return found


@pytest.mark.parametrize(
    "stride", [pytest.param(1, marks=pytest.mark.slow), pytest.param(9, id="every ninth")]
)
def test_every_operation_fails_in_every_way(wanted: list[tuple[str, str]], stride: int) -> None:
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
    print(f"{len(names)} operations ({dict(Counter(names))}), {len(cases)} cases: {dict(ended)}; {len(broken)} violations")
    assert not broken
    assert len(cases) >= 400 // stride
    assert ended["killed"] and ended["refused"] and ended["finished"]


def test_a_killed_process_counts_as_wrong() -> None:
    assert forked(lambda: os.kill(os.getpid(), signal.SIGKILL) or 0) == -signal.SIGKILL
