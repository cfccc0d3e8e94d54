"""Images whose decoding crashes or hangs: they are bad ones, all others come out as if nothing had been."""

import ctypes
import faulthandler
import hashlib
import io
import json
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image as Picture

from stages.features import decoders, extraction, h5, watchdog
from stages.features.decoders import ImageRef
from stages.images import decode as decoding
from tests.faults import toy

PART, IMAGES = 4, 24
Harm = dict[int, str]  # position of an image -> what its decoding does
decode = decoding.decode
CLEAN = multiprocessing.get_context("forkserver")  # without the threads that other tests have started in this process
CLEAN.set_forkserver_preload([__name__])


class Run:
    """An extraction of the photos, watched over, in a process of its own."""

    def __init__(self, wanted: list[ImageRef], harm: Harm, limit: float = 600.0) -> None:
        for stream in ("out", "err"):
            Path(stream).unlink(missing_ok=True)
        work = CLEAN.Process(target=_work, args=(Path.cwd(), wanted, harm, limit))
        work.start()
        self.process = work

    def end(self) -> tuple[int | None, str, str]:
        """Exit code, what was printed, and on stderr."""
        self.process.join(60)
        return self.process.exitcode, Path("out").read_text(), Path("err").read_text()

    def child(self) -> psutil.Process:
        """The process that works, once it has begun to decode."""
        while not Path("out").exists() or "decode" not in Path("out").read_text():
            time.sleep(0.01)
        return psutil.Process(self.process.pid).children()[0]


def _work(folder: Path, wanted: list[ImageRef], harm: Harm, limit: float) -> None:
    os.setsid()
    os.chdir(folder)
    faulthandler.disable()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would ignore it
    os.dup2(os.open("out", os.O_CREAT | os.O_WRONLY), 1)
    os.dup2(os.open("err", os.O_CREAT | os.O_WRONLY), 2)
    sys.stdout, sys.stderr = open(1, "w"), open(2, "w")  # noqa: SIM115
    sizes = {Path("photos", wanted[place][0]).stat().st_size: what for place, what in harm.items()}
    watches = os.getpid()

    def harmful(data: bytes) -> Any:
        assert os.getpid() != watches
        print("decode", flush=True)
        what = sizes.get(len(data))
        if what == "crash":
            ctypes.string_at(0)
        elif what == "hang":
            time.sleep(600)
        elif what == "pause":
            time.sleep(0.3)
        elif what == "crash once" and not Path("crashed").exists():
            Path("crashed").touch()
            os.abort()
        return decode(data)

    decoding.decode = extraction.decode = decoders.decode = harmful  # type: ignore[attr-defined]
    watchdog.LIMIT, watchdog.POLL = limit, 0.05
    extraction.load_extractor, extraction.PART_VIEWS = toy.load_extractor(3), PART  # type: ignore[assignment]
    try:
        watchdog.start()
    except SystemExit as ended:  # torch, which this process was forked with, does not always survive a regular end
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr, flush=True)
        os._exit(ended.code if isinstance(ended.code, int) else 1)
    spec = toy.spec(Path("photos").resolve(), PART)
    computed, bad, _ = extraction.extract(spec, wanted, toy.OUT)
    print(json.dumps([computed, [[place, extraction.decoding_error(spec, wanted[place])] for place in bad]]))


def alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def result(out: str) -> Any:
    return json.loads(out.splitlines()[-1])


@pytest.fixture
def wanted(workplace: Path) -> list[ImageRef]:
    """Photos that differ in the number of their bytes, by which the tests tell them apart."""
    found = toy.photos(workplace / "photos", IMAGES)
    for place, (name, _) in enumerate(found):
        data = (workplace / "photos" / name).read_bytes()
        (workplace / "photos" / name).write_bytes(data + b"\0" * (10_000 + place - len(data)))
    return [(name, hashlib.sha256((workplace / "photos" / name).read_bytes()).hexdigest()) for name, _ in found]


def test_images_that_crash_or_hang_are_bad_and_the_others_do_not_notice(wanted: list[ImageRef]) -> None:
    code, out, _ = Run(wanted, {}).end()
    assert code == 0 and result(out) == [IMAGES, []]
    undisturbed = h5.read(toy.OUT)
    Path("cache").rename("before")
    harm = {5: "crash", 6: "crash", 9: "hang"}
    code, out, err = Run(wanted, harm, limit=1.0).end()
    assert code == 0, err
    reasons = [
        [5, "decoding ended with SIGSEGV"],
        [6, "decoding ended with SIGSEGV"],
        [9, "decoding took longer than 1 s"],
    ]
    assert result(out)[1] == reasons
    assert all(f"photos/{place}.jpg: {reason}. It is left out" in err for place, reason in reasons)
    found, good = h5.read(toy.OUT), [place for place in range(IMAGES) if place not in harm]
    assert found.ok.tolist() == [place in good for place in range(IMAGES)]
    for member, rows in undisturbed.members.items():
        if member != "sha256":
            np.testing.assert_array_equal(found.members[member][good], rows[good])
            assert not found.members[member][list(harm)].any()

    code, out, err = Run(wanted, harm, limit=1.0).end()  # the rows are there, nothing is tried again
    assert code == 0 and result(out) == [0, reasons] and "decode" not in out.splitlines() and err == ""


def test_a_small_jpeg_that_takes_minutes_is_bad(wanted: list[ImageRef]) -> None:
    stream = io.BytesIO()
    Picture.new("L", (7000, 7000), 77).save(stream, "JPEG", progressive=True, quality=90)
    data = stream.getvalue()
    data = data[:-2] + data[data.rindex(b"\xff\xda") : -2] * 3000 + data[-2:]  # the last scan again and again, 75 bytes
    Path("photos/bomb.jpg").write_bytes(data)
    wanted.insert(6, ("bomb.jpg", hashlib.sha256(data).hexdigest()))
    code, out, err = Run(wanted, {}, limit=2.0).end()
    assert code == 0, err
    assert result(out)[1] == [[6, "decoding took longer than 2 s"]]


def test_a_crash_that_is_no_image_s_fault_is_an_error_and_what_was_done_stays(wanted: list[ImageRef]) -> None:
    code, _, err = Run(wanted, {23: "crash once"}).end()
    assert code == 1
    assert err.splitlines()[-1].startswith("error: extraction was ended by SIGABRT and no image is at fault")
    assert "Traceback" not in err
    code, out, _ = Run(wanted, {23: "crash once"}).end()
    assert code == 0 and 0 < result(out)[0] < IMAGES and result(out)[1] == []


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_child_ends_with_who_watches_it(wanted: list[ImageRef], how: int) -> None:
    running = Run(wanted, {5: "hang"})
    child = running.child()
    os.kill(running.process.pid, how)
    started = time.monotonic()
    while alive(child):
        assert time.monotonic() - started < 1
        time.sleep(0.01)
    code, _, err = running.end()
    assert code == (128 + how if how == signal.SIGINT else -how)
    words = [line for line in err.splitlines() if line and "images/s" not in line]
    assert len(words) == (how == signal.SIGINT)
    assert all("that were missing are computed and kept, and `dvc repro` goes on from there" in line for line in words)
    code, out, _ = Run(wanted, {}).end()  # the lock is free
    assert code == 0 and result(out)[0] <= IMAGES


def test_a_stopped_run_goes_on(wanted: list[ImageRef]) -> None:
    running = Run(wanted, {0: "pause"}, limit=0.5)
    child = running.child()
    for process in (running.process.pid, child.pid):
        os.kill(process, signal.SIGSTOP)
    time.sleep(1)
    for process in (running.process.pid, child.pid):
        os.kill(process, signal.SIGCONT)
    code, out, _ = running.end()
    assert code == 0 and result(out)[1] == []
