"""Decoding that cannot take a run down: the work goes on in a child process, and an image that ends it is left out.

Decoders are C code that reads whatever lies in a folder: one may crash, or take for ever. The process that was started
stays behind without torch and watches which images its child decodes. One that takes too long is at fault. After a
crash each of those that were being decoded is tried alone. What is at fault is remembered in the store as a bad image,
and a new child goes on from the finished parts. A worker on another machine has nobody who watches: it ends when an
image takes too long, and who gave it the work finds out which.
"""

import itertools
import json
import mmap
import os
import queue
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple, NoReturn

from stages import command, files, paths
from stages.errors import UserError
from stages.images.header import BadImage

LIMIT = 30.0  # seconds for one image; 50 million pixels take 2
POLL = 0.2  # seconds
THREADS = 256  # that may decode at once
ENDED_BY_SOMEONE = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SLOT = struct.Struct("@Q64s4096s")  # the number of the decode (0: none), sha256, path


class Image(NamedTuple):
    """An image that is being decoded."""

    path: Path
    sha256: str


class Notes:
    """What each thread decodes now, in memory that a process shares with its children."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, THREADS * SLOT.size)
        self._free: queue.LifoQueue[int] = queue.LifoQueue()
        self._numbers = itertools.count(1)
        for slot in reversed(range(THREADS)):
            self._free.put(slot * SLOT.size)

    @contextmanager
    def noted(self, image: Image) -> Iterator[None]:
        """Says that this thread decodes an image until the block ends."""
        at = self._free.get()
        SLOT.pack_into(self._memory, at, next(self._numbers), image.sha256.encode(), os.fsencode(image.path))
        try:
            yield
        finally:
            self._memory[at : at + 8] = bytes(8)
            self._free.put(at)

    def now(self) -> dict[int, Image]:
        """The images that are being decoded, by the number of the decode."""
        return {
            number: Image(Path(os.fsdecode(path.rstrip(b"\0"))), sha256.decode())
            for number, sha256, path in SLOT.iter_unpack(self._memory)
            if number
        }

    def clear(self) -> None:
        """Forgets what a child that ended was at."""
        for at in range(0, THREADS * SLOT.size, SLOT.size):
            self._memory[at : at + 8] = bytes(8)


class Patience:
    """How often each decode was seen, every `POLL` seconds: not the clock, which goes on while all is stopped."""

    def __init__(self) -> None:
        self._looks = dict[int, int]()

    def overdue(self, at_work: dict[int, Image]) -> list[Image]:
        """The images that take too long, of those that are being decoded now."""
        self._looks = {number: self._looks.get(number, 0) + 1 for number in at_work}
        return [image for number, image in at_work.items() if self._looks[number] * POLL > LIMIT]


class Ended(NamedTuple):
    """How a child ended.

    Attributes:
        code: its exit code; minus the number of the signal that ended it.
        overdue: the images that took too long, for which it was ended.
        in_work: the images that were being decoded.
    """

    code: int
    overdue: list[Image]
    in_work: list[Image]


_notes: Notes | None = None  # None: nobody watches
_at_fault: dict[str, str] = {}  # sha256 -> reason


@contextmanager
def decoding(path: Path, sha256: str) -> Iterator[None]:
    """Goes round the decoding of an image, so that whoever watches knows of it.

    Raises:
        BadImage: the image has ended a process before.
    """
    if sha256 in _at_fault:
        raise BadImage(_at_fault[sha256])
    with _notes.noted(Image(path, sha256)) if _notes else nullcontext():
        yield


def start() -> None:
    """Returns in a child process, and again in another one when an image has ended the last.

    The caller never returns: it ends as its last child ends, and a child ends with it, however that comes.
    """
    global _notes
    _notes = Notes()
    _at_fault.update(_remembered())
    try:
        while child := _forked():
            ended = _watched(child, _notes)
            if not ended.overdue and (ended.code >= 0 or -ended.code in ENDED_BY_SOMEONE):
                if ended.code == -signal.SIGINT:
                    raise KeyboardInterrupt
                sys.exit(ended.code if ended.code >= 0 else 128 - ended.code)
            _remember(_blamed(ended, _notes))
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        command.stop("extract", "the parts that are finished are kept")


def end_when_stuck() -> None:
    """Lets this process, which nobody watches, end when a decode takes too long; images that are known are left out."""
    global _notes
    _at_fault.update(_remembered())
    if not _notes:
        _notes = Notes()
        threading.Thread(target=_end_if_stuck, args=(_notes,), daemon=True).start()


def _end_if_stuck(notes: Notes) -> None:
    patience = Patience()
    while not patience.overdue(notes.now()):
        time.sleep(POLL)
    os._exit(1)


class Child(NamedTuple):
    """A process, and the line to it, which hangs up when it ends."""

    process: int
    line: int


def _forked() -> Child | None:
    """A child, which has no more than this process (so no torch) and ends with it; None in the child itself."""
    ours, its = (end.detach() for end in socket.socketpair())
    if process := os.fork():
        os.close(its)
        return Child(process, ours)
    os.close(ours)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # quietly: what it writes is whole or not at all
    threading.Thread(target=_end_with, args=(its,), daemon=True).start()
    return None


def _end_with(line: int) -> None:
    """Waits until the process at the other end is gone."""
    os.read(line, 1)
    os._exit(1)


def _watched(child: Child, notes: Notes) -> Ended:
    """Waits for a child, and ends it when a decode takes longer than `LIMIT`."""
    patience, overdue = Patience(), list[Image]()
    try:
        while not overdue and not select.select([child.line], [], [], POLL)[0]:
            overdue = patience.overdue(notes.now())
    except KeyboardInterrupt:
        os.kill(child.process, signal.SIGKILL)
        raise
    if overdue:
        os.kill(child.process, signal.SIGKILL)
    _, status = os.waitpid(child.process, 0)
    os.close(child.line)
    in_work = list(notes.now().values())
    notes.clear()
    return Ended(os.waitstatus_to_exitcode(status), overdue, in_work)


def _blamed(ended: Ended, notes: Notes) -> dict[str, str]:
    """The images for which a child ended: sha256 -> reason.

    Raises:
        UserError: it was none of them.
    """
    print(file=sys.stderr)  # after the progress bar
    if ended.overdue:
        found = dict.fromkeys(ended.overdue, _too_long())
    else:
        found = {image: reason for image in ended.in_work if (reason := _fatal(image, notes))}
    for image, reason in found.items():
        print(f"{image.path}: {reason}. It is left out; what is finished stays.", file=sys.stderr, flush=True)
    if not found:
        raise UserError(
            f"extraction was ended by {signal.Signals(-ended.code).name} and no image is at fault: out of memory? A "
            "smaller `extract.batch_size` takes less. What is finished stays: `dvc repro` goes on from there."
        )
    return {image.sha256: reason for image, reason in found.items()}


def _fatal(image: Image, notes: Notes) -> str | None:
    """How a process ends that decodes this image and no other; None where nothing happens to it."""
    child = _forked() or _decode_alone(image, notes)
    ended = _watched(child, notes)
    if ended.overdue:
        return _too_long()
    return f"decoding ended with {signal.Signals(-ended.code).name}" if ended.code < 0 else None


def _too_long() -> str:
    return f"decoding took longer than {LIMIT:g} s"


def _decode_alone(image: Image, notes: Notes) -> NoReturn:
    from stages.images.decode import decode  # imports torch, which the process that watches does without

    with suppress(BadImage, OSError), notes.noted(image):
        decode(image.path.read_bytes())
    os._exit(0)


def _remembered() -> dict[str, str]:
    """The images that ended a process with these decoders: sha256 -> reason."""
    try:
        found = json.loads(_list().read_text())
        return dict(found["images"]) if found["decoders"] == _decoders() else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _remember(images: dict[str, str]) -> None:
    """Keeps images that are at fault, for the children and the runs to come."""
    _at_fault.update(images)
    kept = {"decoders": _decoders(), "images": _remembered() | images}
    files.write_json(_list(), kept, indent=1)


def _list() -> Path:
    return paths.store() / "undecodable.json"


def _decoders() -> dict[str, str]:
    return {name: version(name) for name in ("pillow", "torchvision")}
