"""Unpacking archives that are not trusted: regular files only, nothing outside the destination, all or nothing.

A chain of links escaped `tarfile`'s own `filter="data"` on Python 3.11.7, so members are copied one by one.
"""

import shutil
import tarfile
import uuid
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from tqdm import tqdm

from stages.errors import UserError

MAX_BYTES = 1 << 40  # of all members together
MAX_RATIO = 200  # unpacked to packed bytes; image archives are near 1
SLACK = 64 << 20  # bytes to which an archive may unpack whatever its ratio
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MEMBER = 512  # bytes that a member counts in addition to its content: empty files fill a disk too
BLOCK = 1 << 20
UNPACKING = ".unpacking"
Member = tuple[str, Callable[[], IO[bytes] | None]]


def is_archive(name: str) -> bool:
    """Whether `unpack` can read a file, by its name."""
    return name.lower().endswith(ARCHIVES)


def unpack(archive: Path, destination: Path) -> None:
    """Unpacks the regular files of a zip or tar archive into `destination`; archives inside it are unpacked as well.

    `destination` appears complete, by a rename, or not at all.

    Raises:
        UserError: the archive is damaged, holds a link, a device, a bad name, two equal names, or too much.
    """
    temporary = destination.with_name(f"{destination.name}.{uuid.uuid4().hex[:8]}{UNPACKING}")
    temporary.mkdir(parents=True)
    try:
        budget = min(MAX_BYTES, max(SLACK, MAX_RATIO * archive.stat().st_size))
        left = _unpack_into(archive, temporary, budget)
        for nested in [path for path in sorted(temporary.rglob("*")) if path.is_file() and is_archive(path.name)]:
            left = _unpack_into(nested, nested.parent, left)
            nested.unlink()
        if destination.exists():  # another experiment was faster
            return
        temporary.rename(destination)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _unpack_into(archive: Path, folder: Path, budget: int) -> int:
    """Unpacks one archive; returns what is left of the budget, the bytes to which all archives together may unpack."""
    seen: set[str] = set()
    try:
        for name, opened in tqdm(_members(archive), archive.name, unit=" files", leave=False, delay=2):
            target = folder / _safe(name, archive)
            if name.casefold() in seen or target.exists():
                raise UserError(f"{archive.name}: two members are called {name!r} (or differ in case alone).")
            seen.add(name.casefold())
            target.parent.mkdir(parents=True, exist_ok=True)
            source = opened()
            if source is None:
                raise UserError(f"{archive.name}: {name!r} cannot be read.")
            with source, target.open("xb") as file:
                budget -= MEMBER
                while budget >= 0 and (block := source.read(BLOCK)):
                    budget -= len(block)
                    file.write(block)
            if budget < 0:
                raise UserError(f"{archive.name} unpacks to more than {MAX_RATIO} times its size: refused.")
    except UserError:
        raise
    except Exception as error:  # the readers raise a dozen kinds on damaged archives: zlib.error, struct.error, …
        raise UserError(f"{archive.name} cannot be unpacked: {error or type(error).__name__}") from None
    return budget


def _members(archive: Path) -> Iterator[Member]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            for entry in packed.infolist():
                kind = (entry.external_attr >> 16) & 0o170000
                if kind not in (0, 0o100000, 0o040000):
                    raise UserError(f"{archive.name}: {entry.filename!r} is a link or a device: refused.")
                if not entry.is_dir():
                    yield entry.filename, lambda entry=entry: packed.open(entry)  # type: ignore[misc]
        return
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isreg() and not member.issparse():
                yield member.name, lambda member=member: tar.extractfile(member)  # type: ignore[misc]
            elif not member.isdir():
                raise UserError(f"{archive.name}: {member.name!r} is a link or a device: refused.")
        _check_end(tar, archive)


def _check_end(tar: tarfile.TarFile, archive: Path) -> None:
    """Checks that a tar ends as tars do; `tarfile` says nothing of one that is cut off between two members.

    Raises:
        UserError: it ends without a block of zeros, or another tar follows.
    """
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    length = 0
    while block := tar.fileobj.read(BLOCK):
        if block.strip(b"\0"):
            raise UserError(f"{archive.name}: data follows after its end; two archives in one file cannot be read.")
        length += len(block)
    if length < tarfile.BLOCKSIZE:
        raise UserError(f"{archive.name} is cut off: its end is missing. Fetch it again.")


def _safe(name: str, archive: Path) -> str:
    if (safe := safe_name(name)) is None:
        raise UserError(f"{archive.name}: the member {name!r} would leave the folder or has a bad name: refused.")
    return safe


def safe_name(name: str) -> str | None:
    """A member's name as a path below the folder; None if it would leave the folder or is a bad name."""
    parts = name.removeprefix("./").split("/")
    bad = name.startswith("/") or "\\" in name or ":" in parts[0] or any(part in ("", ".", "..") for part in parts)
    return None if bad or any(ord(character) < 32 for character in name) else "/".join(parts)
