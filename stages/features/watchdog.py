"""Decoding that cannot end a run: the work is done in a child process, and an image that ends it is left out.

Decoders are C code that reads whatever is in a folder: one may crash, or take for ever. The process that was started
does not import torch; it watches which images its child decodes. An image that takes too long is at fault. After a
crash each image that was being decoded is tried alone. Images at fault are remembered in the store as bad images, and a
new child goes on from the finished parts. A worker on another machine is not watched: it ends when an image takes too
long, and the process that gave it the work finds out which image it was.
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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple, NoReturn

from stages import command, files, paths
from stages.errors import UserError
from stages.images.header import BadImage
from stages.processes import SharedMemory

LIMIT = 30.0  # seconds for one image; 50 million pixels take 2
POLL = 0.2  # seconds
THREADS = 256  # that may decode at once
ENDED_BY_SOMEONE = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SLOT = struct.Struct("@QQ64s4096s")  # the number of the decode (0: none), of the process, sha256, path
PROGRESS = struct.Struct("@QQ")  # views that are computed, of how many


class ImageInWork(NamedTuple):
    """An image that is being decoded.

    Attributes:
        path: where it lies.
        sha256: of its file.
        process: the number of the process that decodes it.
    """

    path: Path
    sha256: str
    process: int


class Notes:
    """What each thread decodes now, and how far the work is, in memory that a process shares with its children.

    Args:
        shared: the memory of another process's notes; None makes one.
        slots: those that the threads of this process use.
    """

    def __init__(self, shared: SharedMemory | None = None, slots: Sequence[int] = range(THREADS)) -> None:
        self.shared = shared or _shared_memory(THREADS * SLOT.size)
        self._memory = self.shared.buffer if self.shared else mmap.mmap(-1, THREADS * SLOT.size)
        self._progress = mmap.mmap(-1, PROGRESS.size)
        self._free: queue.LifoQueue[int] = queue.LifoQueue()
        self._numbers = itertools.count(1)
        for slot in reversed(slots):
            self._free.put(slot)

    @contextmanager
    def noted(self, path: Path, sha256: str) -> Iterator[None]:
        """Notes that this thread decodes an image, until the block ends."""
        slot = self._free.get()
        at, number = slot * SLOT.size, next(self._numbers) * THREADS + slot  # which no other process has
        SLOT.pack_into(self._memory, at, number, os.getpid(), sha256.encode(), os.fsencode(path))
        try:
            yield
        finally:
            self._memory[at : at + 8] = bytes(8)
            self._free.put(slot)

    def now(self) -> dict[int, ImageInWork]:
        """The images that are being decoded, by the number of the decode."""
        return {
            number: ImageInWork(Path(os.fsdecode(path.rstrip(b"\0"))), sha256.decode(), process)
            for number, process, sha256, path in SLOT.iter_unpack(self._memory)
            if number
        }

    @property
    def progress(self) -> tuple[int, int]:
        """How many views are computed and stored, and how many there were to compute."""
        done, total = PROGRESS.unpack(self._progress[:])
        return done, total

    @progress.setter
    def progress(self, done_and_total: tuple[int, int]) -> None:
        self._progress[:] = PROGRESS.pack(*done_and_total)

    def clear(self) -> None:
        """Forgets what a child that ended was decoding."""
        for at in range(0, THREADS * SLOT.size, SLOT.size):
            self._memory[at : at + 8] = bytes(8)


class Patience:
    """How often each decode was seen, every `POLL` seconds: not the clock, which goes on while all is stopped."""

    def __init__(self) -> None:
        self._looks = dict[int, int]()

    def overdue(self, at_work: dict[int, ImageInWork]) -> list[ImageInWork]:
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
    overdue: list[ImageInWork]
    in_work: list[ImageInWork]


_notes: Notes | None = None  # None: nobody watches
_at_fault: dict[str, str] = {}  # sha256 -> reason


@contextmanager
def decoding(path: Path, sha256: str) -> Iterator[None]:
    """Notes that an image is being decoded, for the process that watches.

    Raises:
        BadImage: the image has ended a process before.
    """
    if sha256 in _at_fault:
        raise BadImage(_at_fault[sha256])
    with _notes.noted(path, sha256) if _notes else nullcontext():
        yield


def report_progress(done: int, total: int) -> None:
    """Tells the process that watches how many views of how many are computed and stored."""
    if _notes:
        _notes.progress = (done, total)


def start() -> None:
    """Returns in a child process, and again in another one when an image has ended the last.

    The caller never returns: it ends with the exit code of its last child, and a child ends when the caller does.
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
        command.stop("extract", _stored(_notes))


def _stored(notes: Notes) -> str:
    """What stays after Ctrl-C."""
    done, total = notes.progress
    return f"{done:,} of the {total:,} that were missing are computed and kept" if total else "the row store is kept"


class Shared(NamedTuple):
    """What a process that decodes for this one needs to be watched as well."""

    notes: SharedMemory
    at_fault: dict[str, str]


def shared() -> Shared | None:
    """What to give to `join` in a process that decodes for this one; None where nobody watches."""
    return Shared(_notes.shared, _at_fault) if _notes and _notes.shared else None


def join(shared: Shared, number: int) -> None:
    """Lets the process that watches over the one that started this one watch over this one too.

    Args:
        shared: as the other process has it.
        number: of this process, counted from 0.
    """
    global _notes
    _at_fault.update(shared.at_fault)
    _notes = Notes(shared.notes, [THREADS - 1 - number])


def end_after_a_crash() -> NoReturn:
    """Ends this process because one that decodes for it has ended: who watches finds the image at fault.

    Raises:
        UserError: nobody watches.
    """
    if _notes:
        os.kill(os.getpid(), signal.SIGKILL)
    raise UserError("A process that decodes images has ended: out of memory? Finished parts are kept; run again.")


def end_when_stuck() -> None:
    """Lets this process, which is not watched, end when a decode takes too long; images known to do so are left out."""
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
    """A process, and a socket to it, which closes when it ends."""

    process: int
    line: int


def _forked() -> Child | None:
    """A child, which starts without torch, as this process, and ends with it; None in the child itself."""
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
    patience, overdue = Patience(), list[ImageInWork]()
    try:
        while not overdue and not select.select([child.line], [], [], POLL)[0]:
            overdue = patience.overdue(notes.now())
    except KeyboardInterrupt:
        os.kill(child.process, signal.SIGKILL)
        raise
    if overdue:
        for process in {child.process, *(image.process for image in overdue)}:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(child.process, 0)
    os.close(child.line)
    in_work = list(notes.now().values())
    notes.clear()
    return Ended(os.waitstatus_to_exitcode(status), overdue, in_work)


def _blamed(ended: Ended, notes: Notes) -> dict[str, str]:
    """The images that ended a child: sha256 -> reason.

    Raises:
        UserError: no image did.
    """
    print(file=sys.stderr)  # after the progress bar
    if ended.overdue:
        at_fault = dict.fromkeys(ended.overdue, _too_long())
    else:
        at_fault = {image: reason for image in ended.in_work if (reason := _fatal(image, notes))}
    for image, reason in at_fault.items():
        print(f"{image.path}: {reason}. It is left out; finished parts are kept.", file=sys.stderr, flush=True)
    if not at_fault:
        raise UserError(
            f"extraction was ended by {signal.Signals(-ended.code).name} and no image is at fault: out of memory? A "
            "smaller `extract.batch_size` needs less. Finished parts are kept: `dvc repro` goes on from there."
        )
    return {image.sha256: reason for image, reason in at_fault.items()}


def _fatal(image: ImageInWork, notes: Notes) -> str | None:
    """How a process that decodes only this image ends; None where it ends well."""
    child = _forked() or _decode_alone(image, notes)
    ended = _watched(child, notes)
    if ended.overdue:
        return _too_long()
    return f"decoding ended with {signal.Signals(-ended.code).name}" if ended.code < 0 else None


def _shared_memory(size: int) -> SharedMemory | None:
    """None where the system has no such memory."""
    with suppress(OSError):
        return SharedMemory(size)
    return None


def _too_long() -> str:
    return f"decoding took longer than {LIMIT:g} s"


def _decode_alone(image: ImageInWork, notes: Notes) -> NoReturn:
    from stages.images.decode import decode  # imports torch, which the process that watches does not need

    with suppress(BadImage, OSError), notes.noted(image.path, image.sha256):
        decode(image.path.read_bytes())
    os._exit(0)


def _remembered() -> dict[str, str]:
    """The images that ended a process with the installed decoders: sha256 -> reason."""
    try:
        stored = json.loads(_list().read_text(encoding="utf-8"))
        return dict(stored["images"]) if stored["decoders"] == _decoders() else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _remember(images: dict[str, str]) -> None:
    """Stores images that are at fault, for later children and runs."""
    _at_fault.update(images)
    contents = {"decoders": _decoders(), "images": _remembered() | images}
    files.write_json(_list(), contents, indent=1)


def _list() -> Path:
    return paths.store() / "undecodable.json"


def _decoders() -> dict[str, str]:
    return {name: version(name) for name in ("pillow", "torchvision")}
