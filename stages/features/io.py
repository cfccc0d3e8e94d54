"""The one place that writes features, parts and downloads: whole or not at all.

Everything goes to a temporary name in the destination's folder, is fsynced and renamed, and the folder is fsynced.
Faults are injected here in tests, so nothing else in the feature store may open a file for writing.
"""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TEMPORARY = ".partial"


@contextmanager
def whole(path: Path, size: int | None = None) -> Iterator[int]:
    """A file descriptor to write to; `path` appears, complete, when the block ends without an error.

    Args:
        path: the final name; its folder is made.
        size: bytes to reserve first, so that a full disk shows before the work and not in the middle of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}{TEMPORARY}")
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        try:
            if size:
                reserve(descriptor, size)
            yield descriptor
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def reserve(descriptor: int, size: int) -> None:
    """Makes a file `size` bytes long; on Linux with its blocks, so that a full disk is an OSError here."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:  # macOS
        os.ftruncate(descriptor, size)


def write_at(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """All of `data` at `offset`; short writes are continued."""
    view = memoryview(data).cast("B")
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def write_bytes(path: Path, data: bytes) -> None:
    """A small file, whole or not at all."""
    with whole(path, len(data)) as descriptor:
        write_at(descriptor, data, 0)


def link(source: Path, target: Path) -> None:
    """`target` as a hard link to `source`, replacing what was there; a copy where links cannot be made."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}{TEMPORARY}")
    try:
        os.link(source, temporary)
    except OSError:
        copy(source, target)
        return
    os.replace(temporary, target)
    temporary.unlink(missing_ok=True)  # between two links to one file a rename does nothing
    sync_folder(target.parent)


def copy(source: Path, target: Path) -> None:
    """`target` as a copy of `source`, whole or not at all; what was there is replaced, never written into."""
    with source.open("rb") as file, whole(target) as descriptor:
        offset = 0
        while block := file.read(1 << 20):
            write_at(descriptor, block, offset)
            offset += len(block)


def sync_folder(folder: Path) -> None:
    """Makes a rename survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
