"""Downloads one file over HTTP: resumes, retries, accepts no more bytes than the server declared, and is atomic.

The bytes so far are in `<name>.partial`, with the server's validator (a strong ETag, or the date) beside it. A later
attempt, or a later run, asks for the rest on the condition that the file is still the same (RFC 9110, If-Range).
"""

import hashlib
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from stages import files

ATTEMPTS = 5  # in a row without a new byte
PAUSE = 0.5  # seconds before the next attempt, doubled after every attempt without a new byte
TIMEOUT = 60  # seconds without a byte
MAX_BYTES = 1 << 40  # of a file whose size the server does not declare
BLOCK = 1 << 18
RETRIED = (408, 425, 429, 500, 502, 503, 504)  # HTTP status codes after which another attempt may succeed


class Refused(Exception):
    """The file cannot be downloaded; the message is the reason."""


class Mismatch(Refused):
    """The file was downloaded, and its checksum is not the expected one."""


class _Cut(Exception):
    """An attempt ended early; another one may fetch the rest."""


def download(url: str, target: Path, expected: str | None) -> None:
    """Downloads a URL to `target`; if the network fails, the bytes so far are kept for a later call.

    Args:
        url: http:// or https://.
        target: the final name.
        expected: the checksum, `sha256:…` or `md5:…`; None accepts any content.

    Raises:
        Refused: the server does not have the file, sends more than it declared, or the network failed repeatedly.
        Mismatch: the checksum does not match, even after a complete new download.
        Unwritable: the disk is full or fails.
    """
    partial, validator = (target.with_name(target.name + suffix + files.TEMPORARY) for suffix in ("", ".validator"))
    algorithm = (expected or "sha256").partition(":")[0]
    resumed = _fetch(url, partial, validator)
    if expected and digest(partial, algorithm) != expected and resumed:
        files.discard(partial)  # the bytes of an earlier call may have been damaged
        _fetch(url, partial, validator)
    checksum = digest(partial, algorithm)
    files.discard(validator)
    if expected and checksum != expected:
        files.discard(partial)
        raise Mismatch(f"it has {checksum}, expected {expected}")
    files.commit(partial, target)


def _fetch(url: str, partial: Path, validator: Path) -> bool:
    """Downloads the whole file in as many attempts as it takes; returns whether it went on from earlier bytes."""
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
    """One request for the rest of the file; returns whether the server sent only the missing bytes."""
    import requests

    size, previous_validator = _size(partial), _read(validator)
    headers = {"Accept-Encoding": "identity"}
    if size and previous_validator:
        headers |= {"Range": f"bytes={size}-", "If-Range": previous_validator}
    try:
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            if response.status_code == 416:  # nothing is missing, or the file is shorter now
                files.discard(partial)
                raise _Cut("the server has no such range")
            if response.status_code in RETRIED:
                raise _Cut(f"{response.status_code} {response.reason}")
            response.raise_for_status()
            resumed = response.status_code == 206 and _starts_at(response.headers, size)
            if response.status_code == 206 and not resumed:
                files.discard(partial)
                raise _Cut("the server sent another range than requested")
            first = size if resumed else 0
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
    """A value that changes when the file does: a strong ETag or a date; empty if the server sends neither."""
    tag = str(headers.get("ETag", ""))
    return tag if tag and not tag.startswith("W/") else str(headers.get("Last-Modified", ""))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def digest(path: Path, algorithm: str = "sha256") -> str:
    """The checksum of a file as in params.yaml, `sha256:…`."""
    with path.open("rb") as file:
        return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"
