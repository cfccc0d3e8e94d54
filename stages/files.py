"""The only module that writes features, parts and downloads: completely or not at all.

Every file is written under a temporary name in the destination's folder, fsynced and renamed; then the folder is
fsynced. An error of the disk becomes an `Unwritable`, which says what to do. Tests inject faults here, so nothing else
in the feature store may open a file for writing.
"""

import csv
import errno
import fcntl
import io as streams
import json
import logging
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

from stages.errors import UserError

DELIMITERS = (",", ";", "\t")  # between the cells of a table, which spreadsheets choose by the language
log = logging.getLogger(__name__)
TEMPORARY = ".partial"
LOCK = "lock"
FULL = (errno.ENOSPC, errno.EDQUOT)
LINES = 4096  # of JSON that are written at a time


class Unwritable(UserError):
    """A file could not be written: the disk is full or fails. No incomplete file is left."""


@contextmanager
def atomic_write(path: Path, size: int | None = None) -> Iterator[int]:
    """A file descriptor to write to; `path` appears, complete, when the block ends without an error.

    Args:
        path: the final name; its folder is created.
        size: bytes to reserve first, so that a full disk shows before the work, not in the middle of it.

    Raises:
        Unwritable: the disk is full or fails.
    """
    temporary = temp_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            if size:
                reserve(descriptor, size)
            yield descriptor
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
        sync_folder(path.parent)
        log.debug("wrote %s", path)
    except OSError as error:
        raise _unwritable(path, size, error) from error
    finally:
        discard(temporary)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to fill; when the block ends without an error it takes the place of `path`, otherwise nothing changes.

    A kill between the two renames leaves the old folder under its temporary name alone.

    Raises:
        Unwritable: the disk is full or fails.
    """
    path = path.resolve()
    new, old = (path.with_name(f"{path.name}.{part}{TEMPORARY}") for part in ("new", "old"))
    for leftover in (new, old):  # of a run that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        new.mkdir(parents=True)
        yield new
        if path.exists():
            os.replace(path, old)
        os.replace(new, path)
        sync_folder(path.parent)
    except OSError as error:
        if old.exists() and not path.exists():
            os.replace(old, path)
        raise _unwritable(path, None, error) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)


def temp_path(path: Path) -> Path:
    """An unused temporary name in the folder of `path`."""
    return path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}{TEMPORARY}")


def _unwritable(path: Path, size: int | None, error: OSError) -> Unwritable:
    if error.errno not in FULL:
        return Unwritable(f"{path} cannot be written: {error.strerror or error}.")
    room = f"{size:,} bytes are needed, {free(path):,}" if size else f"{free(path):,} bytes"
    return Unwritable(f"{path} cannot be written, the disk is full: {room} are free. Make room and run again.")


def discard(path: Path) -> None:
    """Removes a file that is no longer needed. If the disk refuses, it stays; a later run removes or overwrites it."""
    with suppress(OSError):
        path.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path, waiting: str | None) -> Iterator[None]:
    """Locks a folder against other processes, and creates it first; the lock of a killed process is released at once.

    Args:
        folder: what to lock.
        waiting: printed before waiting for another process; None does not wait.

    Raises:
        BlockingIOError: another process holds the lock and `waiting` is None.
        Unwritable: the disk is full or fails.
    """
    descriptor = _lock(folder, waiting)
    while not _is_at(descriptor, folder / LOCK):  # the lock file was removed while we waited for it
        os.close(descriptor)
        descriptor = _lock(folder, waiting)
    try:
        yield
    finally:
        with suppress(OSError):
            os.close(descriptor)


def _lock(folder: Path, waiting: str | None) -> int:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise _unwritable(folder / LOCK, None, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if waiting is None:
            os.close(descriptor)
            raise
        print(waiting, file=sys.stderr, flush=True)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether a path still points to the file that was opened."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def free(path: Path) -> int:
    """Free bytes on the disk where `path` is or will be."""
    return shutil.disk_usage(next(folder for folder in path.absolute().parents if folder.is_dir())).free


def remove_leftovers(path: Path) -> None:
    """Removes the temporary files that killed writers of `path` left; no writer of it may be running."""
    for leftover in path.parent.glob(f"*{TEMPORARY}"):
        if leftover.name.rpartition(".")[0].rpartition(".")[0] == path.name:
            discard(leftover)


def reserve(descriptor: int, size: int) -> None:
    """Makes a file `size` bytes long; on Linux its blocks are allocated too, so that a full disk is an OSError here."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:  # macOS
        os.ftruncate(descriptor, size)


def write_at(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """Writes all of `data`; short writes are continued.

    Args:
        descriptor: of the open file.
        data: the bytes.
        offset: of the first byte in the file.
    """
    view = memoryview(data).cast("B")
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a small file, completely or not at all."""
    with atomic_write(path, len(data)) as descriptor:
        write_at(descriptor, data, 0)


def write_text(path: Path, text: str) -> None:
    r"""Writes a text in UTF-8; bytes of file names that are not UTF-8 are written as `\udc80` to `\udcff`."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_json(
    path: Path, value: object, *, indent: int | None = None, sort_keys: bool = False, ensure_ascii: bool = True
) -> None:
    """Writes a value as JSON, with a line break at its end."""
    write_text(path, json.dumps(value, indent=indent, sort_keys=sort_keys, ensure_ascii=ensure_ascii) + "\n")


def write_json_lines(path: Path, rows: Iterable[object]) -> None:
    """Writes one line of JSON per row, a few at a time; bytes of names that are not UTF-8 as `write_text` has them."""
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    with atomic_write(path) as descriptor:
        offset = 0
        while text := "".join(islice(lines, LINES)):
            data = text.encode(errors="backslashreplace")
            write_at(descriptor, data, offset)
            offset += len(data)


def write_csv(
    path: Path, header: Sequence[str], rows: Iterable[Mapping[str, object]], *, digits: int | None = None
) -> None:
    """Writes a CSV table; None becomes an empty cell.

    Args:
        path: the final name.
        header: names of the columns.
        rows: of each, name of a column -> value of its cell.
        digits: significant digits of floats; None writes all of them.
    """
    text = streams.StringIO()
    writer = csv.DictWriter(text, header, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _cell(value, digits) for name, value in row.items()})
    write_text(path, text.getvalue())


def read_table(path: Path, columns: Sequence[str], *, expected: str) -> list[tuple[dict[str, str], str]]:
    """The rows of a CSV table that a person may have saved from a spreadsheet, each with its place for messages.

    Args:
        path: of a table with commas, semicolons or tabs between the cells.
        columns: the names of those that are read; others are left out.
        expected: which table it should be, for messages.

    Raises:
        UserError: the file cannot be read, or lacks a column.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header = file.readline()
            file.seek(0)
            reader = csv.DictReader(file, delimiter=max(DELIMITERS, key=header.count))
            if missing := [name for name in columns if name not in (reader.fieldnames or [])]:
                lacking = f"the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}"
                raise UserError(f"{path} lacks {lacking}: expected {expected}.")
            return [({name: row[name] or "" for name in columns}, f"{path}, line {reader.line_num}") for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read ({error}): expected {expected}.") from None


def _cell(value: object, digits: int | None) -> object:
    return f"{value:.{digits}g}" if digits and isinstance(value, float) else value


def link(source: Path, target: Path) -> None:
    """Makes `target` a hard link to `source`, or a copy where links are not possible; an old `target` is replaced.

    Raises:
        Unwritable: the disk is full or fails.
    """
    temporary = temp_path(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(source, temporary)
    except OSError:
        copy(source, target)
        return
    try:
        os.replace(temporary, target)
        sync_folder(target.parent)
    except OSError as error:
        raise _unwritable(target, None, error) from error
    finally:
        discard(temporary)  # if both are links to the same file, the rename does nothing


def copy(source: Path, target: Path) -> None:
    """Makes `target` a copy of `source`, completely or not at all; an old `target` is replaced, never written into."""
    with source.open("rb") as file, atomic_write(target, source.stat().st_size) as descriptor:
        offset = 0
        while block := file.read(1 << 20):
            write_at(descriptor, block, offset)
            offset += len(block)


@contextmanager
def appending(partial: Path, first: int) -> Iterator[Callable[[bytes], None]]:
    """Yields a function that appends bytes to a file under its temporary name, which is first cut to `first` bytes.

    Raises:
        Unwritable: the disk is full or fails; that function raises it too. The bytes so far stay.
    """
    end = first

    def append(data: bytes) -> None:
        nonlocal end
        try:
            write_at(descriptor, data, end)
        except OSError as error:
            raise _unwritable(partial, None, error) from error
        end += len(data)

    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT, 0o644)
        os.ftruncate(descriptor, first)
    except OSError as error:
        raise _unwritable(partial, None, error) from error
    try:
        yield append
    finally:
        os.close(descriptor)


def commit(partial: Path, path: Path) -> None:
    """Gives a file that is complete its final name.

    Raises:
        Unwritable: the disk is full or fails.
    """
    try:
        descriptor = os.open(partial, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(partial, path)
        sync_folder(path.parent)
    except OSError as error:
        raise _unwritable(path, None, error) from error


def sync_folder(folder: Path) -> None:
    """Makes a rename survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
