"""Shards: large files that contain many images. They are unpacked one after the other, when they are first needed.

`cache/images/<dataset>/<folder>/` of the main checkout then mirrors the shards below `root`, with one folder per shard
that has its name. If a shard changes, it is unpacked again; if it is gone, its folder is removed. The folders need as
much disk space as the shards. Everything that reads images (extraction, the page, `label`, `review`) sees files only.
"""

import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from stages import files, paths
from stages.datasets import tree
from stages.datasets.layout import splits_of
from stages.datasets.unpack import unpack
from stages.datasets.unpack_parquet import unpack_parquet
from stages.errors import UserError, listed

STATE = ".shards/shards.json"  # in a hidden folder, which no reader of datasets enters
UNPACKED = ".unpacked"  # a shard before it has its name
NUMBER = re.compile(r"[-_.]?\d+(-of-\d+)?(-[0-9a-f]{6,})?$")  # 00003, -00003-of-00016, -00003-of-00016-a1b2c3d4e5f6


def folder(dataset: str, root: Path, suffixes: Sequence[str]) -> Path:
    """Returns the folder with the images of all shards, after unpacking those that are new or have changed.

    Args:
        dataset: the name of the dataset.
        root: the folder with the shards, at any depth.
        suffixes: how the names of shards end.

    Raises:
        UserError: there is no shard, or one is damaged; the shards before it stay unpacked.
    """
    if not root.is_dir():
        raise UserError(f"`root`: there is no folder {root}; dataset {dataset} reads shards from it.")
    shards = {path: _stamp(root / path) for path in tree.read(root).files if path.lower().endswith(tuple(suffixes))}
    if not shards:
        raise UserError(
            f"`root`: there are no shards of dataset {dataset} in {root}: expected {' or '.join(suffixes)}."
        )
    names = {path: _without(path, suffixes) for path in shards}
    taken = Counter(names.values())
    if same := sorted(path for path in shards if taken[names[path]] > 1)[:2]:
        raise UserError(f"`root`: the shards {listed(same)} have the same name: rename one of them.")
    for path, name in names.items():
        if above := next((str(folder) for folder in PurePosixPath(name).parents if str(folder) in taken), None):
            raise UserError(f"`root`: shard {path} is in a folder with the name of shard {above}: rename one.")
    home = paths.unpacked(dataset) / hashlib.sha256(os.path.realpath(root).encode()).hexdigest()[:16]
    if _state(home) != shards:
        with files.locked(paths.unpacked(dataset), "another run unpacks these shards: waiting for it"):
            _mirror(home, root, shards, names)
    return home


def _mirror(home: Path, root: Path, shards: dict[str, list[int]], names: dict[str, str]) -> None:
    """Unpacks what is new or has changed, and removes what is gone; what is done so far stays done."""
    state = _state(home)
    for path in sorted(state.keys() - shards.keys()):
        del state[path]
        _write_state(home, state)
    for path, stamp in shards.items():
        if state.get(path) == stamp:
            continue
        print(f"unpacking {path}", flush=True)
        state.pop(path, None)
        _write_state(home, state)  # before the folder goes: a killed run must not leave an old stamp
        unpacker: Callable[[Path, Path], None] = unpack_parquet if path.lower().endswith(".parquet") else unpack
        for old in (home / names[path], home / UNPACKED):
            shutil.rmtree(old, ignore_errors=True)
        unpacker(root / path, home / UNPACKED)
        (home / names[path]).parent.mkdir(parents=True, exist_ok=True)
        (home / UNPACKED).rename(home / names[path])
        state[path] = stamp
        _write_state(home, state)
    _remove_others(home, set(names.values()))


def _remove_others(home: Path, names: set[str], below: str = "") -> None:
    """Removes folders that belong to no shard."""
    for entry in list((home / below).iterdir()):
        name = f"{below}{entry.name}"
        if entry.is_dir() and not name.startswith(".") and name not in names:
            if any(shard.startswith(f"{name}/") for shard in names):
                _remove_others(home, names, f"{name}/")
            else:
                shutil.rmtree(entry, ignore_errors=True)


def shard_names(home: Path) -> list[str]:
    """The folders of the shards below the folder that `folder` returned, in order."""
    return sorted((_without(path, (".tar", ".tar.gz", ".tgz", ".parquet")) for path in _state(home)), key=_parts)


def splits(names: Sequence[str]) -> dict[str, str | None]:
    """The split of each shard by its name: `train-00000-of-00002`, `data/validation-00000`, `test/0000`.

    None for all of them where the names do not tell of train and another split.
    """
    lists = {name: _list(name) for name in names}
    known = splits_of(set(lists.values()))
    return {name: known.get(lists[name]) for name in names}


def _list(name: str) -> str:
    """A shard's name without its number; if nothing is left of it, the folder that it lies in."""
    above, _, last = name.rpartition("/")
    return "/".join(filter(None, (above, NUMBER.sub("", last))))


def _without(path: str, suffixes: Sequence[str]) -> str:
    suffix = next(suffix for suffix in sorted(suffixes, key=len, reverse=True) if path.lower().endswith(suffix))
    return path[: -len(suffix)]


def _parts(name: str) -> list[str]:
    return name.split("/")


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _state(home: Path) -> dict[str, list[int]]:
    """Shard -> its size and the time of its last change when it was unpacked."""
    try:
        state: dict[str, Any] = json.loads((home / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return state


def _write_state(home: Path, state: dict[str, list[int]]) -> None:
    files.write_json(home / STATE, state, indent=1)
