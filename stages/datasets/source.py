"""The folder with the images of a dataset, and the bytes of an image, checked against the index."""

import hashlib
import json
from pathlib import Path, PurePosixPath
from typing import Any

from stages import files, paths
from stages.datasets import shards
from stages.datasets.base import SOURCES, has_source
from stages.datasets.unpack import unpack
from stages.errors import REPAIR, UserError


def folder(dataset: str, options: Any, root: str) -> Path:
    """The folder from which the paths in a dataset's index start.

    Archives and shards are unpacked on first use into `cache/images/<dataset>/<content>/` of the main checkout.

    Args:
        dataset: its name.
        options: its block below `datasets` in params.yaml.
        root: the flat parameter, for a dataset without archives.

    Raises:
        UserError: the archives are missing, or a shard is damaged.
    """
    if not has_source(options):
        home = Path(root).expanduser()
        return shards.folder(dataset, home, options.shard_suffixes) if options.shard_suffixes else home
    try:
        archives = json.loads((paths.raw(dataset) / SOURCES).read_text())["archives"]
    except (OSError, ValueError, KeyError):
        raise UserError(f"{paths.raw(dataset)} is missing or incomplete: {REPAIR} fetches it.") from None
    content = hashlib.sha256(json.dumps(archives, sort_keys=True).encode()).hexdigest()[:16]
    home = paths.unpacked(dataset) / content
    if not all((home / name).exists() for name in archives):
        with files.locked(paths.unpacked(dataset), "another run unpacks these images: waiting for it"):
            for name in archives:
                if not (home / name).exists():
                    print(f"unpacking {name}", flush=True)
                    unpack(paths.raw(dataset) / name, home / name)
    return home / next(iter(archives)) if len(archives) == 1 else home


def read(folder: Path, path: str, sha256: str) -> bytes:
    """The bytes of an image, which must still be those that were indexed.

    Args:
        folder: as `folder` returns it.
        path: of the image below it, from the index.
        sha256: of the image, from the index.

    Raises:
        UserError: the file is missing or has changed since then.
    """
    try:
        data = (folder / path).read_bytes()
    except OSError as error:
        raise UserError(f"{folder / path} cannot be read ({error.strerror}): {_advice(folder, path)}") from None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise UserError(f"{folder / path} has changed since it was indexed: {_advice(folder, path)}")
    return data


def _advice(folder: Path, path: str) -> str:
    """What to do about an image that is missing or has changed since it was indexed."""
    if folder.is_relative_to(paths.main_checkout() / "cache" / "images"):
        return f"remove {folder} and run `dvc repro`, which unpacks it again."
    if any((folder / above).is_symlink() for above in PurePosixPath(path).parents if above.name):
        return "it lies in a linked folder, which DVC does not watch: run `dvc repro -f -s index`, then `dvc repro`."
    return "run `dvc repro`, which indexes a changed folder again."
