"""One file over HTTP: it resumes, retries, takes no more than the server declared, and appears whole or not at all.

What has come lies in `<name>.partial` with the server's validator (a strong ETag, or the date) beside it, and a later
attempt, or a later run, asks for the rest under the condition that the file is still the same (RFC 9110, If-Range).
"""

import hashlib
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from stages import files

ATTEMPTS = 5  # in a row that bring nothing new
PAUSE = 0.5  # seconds before the next attempt, doubled with every one that brings nothing
TIMEOUT = 60  # seconds without a byte
MAX_BYTES = 1 << 40  # where the server does not say how much comes
BLOCK = 1 << 18
AGAIN = (408, 425, 429, 500, 502, 503, 504)


class Refused(Exception):
    """The file cannot be had; the message is the reason."""


class Mismatch(Refused):
    """The file came, and is another than expected."""


class _Cut(Exception):
    """An attempt ended early; another may bring the rest."""


def download(url: str, target: Path, expected: str | None) -> None:
    """The file behind `url` as `target`; what came is kept for a later call where the network failed.

    Args:
        url: http:// or https://.
        target: the final name.
        expected: its checksum, `sha256:…` or `md5:…`; None takes what comes.

    Raises:
        Refused: the server has no such file, sends more than it said, or the network failed again and again.
        Mismatch: the checksum is another, also when all was fetched anew.
        Unwritable: the disk is full or fails.
    """
    partial, validator = (target.with_name(target.name + suffix + files.TEMPORARY) for suffix in ("", ".validator"))
    algorithm = (expected or "sha256").partition(":")[0]
    resumed = _fetch(url, partial, validator)
    if expected and digest(partial, algorithm) != expected and resumed:
        files.discard(partial)  # what lay there before may have been damaged
        _fetch(url, partial, validator)
    found = digest(partial, algorithm)
    files.discard(validator)
    if expected and found != expected:
        files.discard(partial)
        raise Mismatch(f"it has {found}, expected {expected}")
    files.commit(partial, target)


def _fetch(url: str, partial: Path, validator: Path) -> bool:
    """Brings all of the file, in as many attempts as it takes; whether it built on what had come before."""
    failures, resumed = 0, False
    while True:
        before = _size(partial)
        try:
            resumed |= _attempt(url, partial, validator)
            return resumed
        except _Cut as error:
            failures = 0 if _size(partial) > before else failures + 1
            if failures == ATTEMPTS:
                raise Refused(str(error)) from None
            time.sleep(PAUSE * 2**failures)


def _attempt(url: str, partial: Path, validator: Path) -> bool:
    """One request, to the end of the file; whether the server agreed to send only what was missing."""
    import requests

    there, known = _size(partial), _read(validator)
    headers = {"Accept-Encoding": "identity"}
    if there and known:
        headers |= {"Range": f"bytes={there}-", "If-Range": known}
    try:
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            if response.status_code == 416:  # nothing is missing, or the file is shorter now
                files.discard(partial)
                raise _Cut("the server has no such range")
            if response.status_code in AGAIN:
                raise _Cut(f"{response.status_code} {response.reason}")
            response.raise_for_status()
            resumed = response.status_code == 206 and _starts_at(response.headers, there)
            if response.status_code == 206 and not resumed:
                files.discard(partial)
                raise _Cut("the server sent another range than asked for")
            first = there if resumed else 0
            files.write_bytes(validator, _validator(response.headers).encode())
            _receive(response, partial, first)
            return resumed
    except requests.HTTPError as error:
        raise Refused(str(error)) from None
    except requests.RequestException as error:
        raise _Cut(str(error)) from None


def _receive(response: Any, partial: Path, first: int) -> None:
    declared = response.headers.get("Content-Length", "")
    length = first + int(declared) if declared.isdecimal() else None
    end = first
    with files.appending(partial, first) as append, _progress(partial.name, first, length) as progress:
        for block in response.iter_content(BLOCK):
            if end + len(block) > (MAX_BYTES if length is None else length):
                files.discard(partial)
                raise Refused(f"the server sends more than {MAX_BYTES if length is None else length:,} bytes")
            append(block)
            end += len(block)
            progress.update(len(block))
    if length is not None and end < length:
        raise _Cut(f"the connection ended after {end:,} of {length:,} bytes")


def _progress(name: str, first: int, length: int | None) -> Any:
    return tqdm(desc=name.removesuffix(files.TEMPORARY), initial=first, total=length, unit="B", unit_scale=True)


def _starts_at(headers: Any, first: int) -> bool:
    return str(headers.get("Content-Range", "")).startswith(f"bytes {first}-")


def _validator(headers: Any) -> str:
    """What tells whether the file is still the same; empty where the server gives nothing that can be relied on."""
    tag = str(headers.get("ETag", ""))
    return tag if tag and not tag.startswith("W/") else str(headers.get("Last-Modified", ""))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def digest(path: Path, algorithm: str = "sha256") -> str:
    """The checksum of a file as params.yaml writes it, `sha256:…`."""
    with path.open("rb") as file:
        return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"
