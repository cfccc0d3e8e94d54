"""The row store: features by the sha256 of their image, kept in immutable files that are only added or dropped.

`cache/store/<fingerprint>/` of the main checkout belongs to one provenance. While features are computed it fills with
small parts; once a whole file is assembled it is hard-linked here as one big part, and the parts it contains go.
"""

import fcntl
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from stages import paths
from stages.features import h5, io

GATHER_ROWS = 1024  # rows copied at a time while assembling


class RowStore:
    """Rows of one provenance. Use it inside `locked()`: two runs of one extraction take turns."""

    def __init__(self, provenance: dict[str, Any]) -> None:
        self.provenance = provenance
        self.home = paths.store() / "features" / fingerprint(provenance)
        self._files: dict[Path, h5.Features] = {}
        self._where: dict[str, tuple[Path, int]] = {}

    @contextmanager
    def locked(self) -> Iterator["RowStore"]:
        """Waits for any other run of the same extraction; the lock of a killed run is gone with it."""
        self.home.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.home / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print("another run computes these features: waiting for it", file=sys.stderr)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            for leftover in self.home.glob(f"*{io.TEMPORARY}"):
                leftover.unlink()
            for path in sorted(self.home.glob("*.h5")):
                self._open(path)
            yield self
        finally:
            os.close(descriptor)

    def missing(self, sha256: Sequence[str]) -> list[int]:
        """Positions of the images whose rows are not here."""
        return [place for place, image in enumerate(sha256) if image not in self._where]

    def add(self, arrays: dict[str, h5.Array], sha256: Sequence[str]) -> None:
        """Keeps a part, whole or not at all.

        Args:
            arrays: member -> rows, without `sha256`.
            sha256: of the images, a row each.
        """
        rows = arrays | {"sha256": np.array(list(sha256), dtype="S64")}
        path = self.home / f"{_key(sha256)}.h5"
        members = {name: (array.shape, array.dtype.str[1:]) for name, array in rows.items()}
        h5.write(path, members=members, provenance=self.provenance, pieces=iter([(0, rows)]))
        self._open(path)

    def assemble(self, sha256: Sequence[str], out: Path) -> None:
        """Writes the rows of the given images, in their order, to `out`; `out` is then the store's one big part too."""
        path = self.home / f"{_key(sha256)}.h5"
        if path in self._files:
            io.link(path, out)
            return
        sample = next(iter(self._files.values()))
        members = {name: ((len(sha256), *rows.shape[1:]), rows.dtype.str[1:]) for name, rows in sample.members.items()}
        h5.write(out, members=members, provenance=self.provenance, pieces=self._gather(sha256, list(members)))
        contained = set(sha256)
        if any(contained <= set(file.sha256) for file in self._files.values()):
            return  # one file of the store holds all of it and more
        io.link(out, path)
        for old, file in self._files.items():
            if contained >= set(file.sha256):
                old.unlink()

    def bad(self, sha256: Sequence[str]) -> list[int]:
        """Positions of the images that could not be decoded."""
        found = [(place, *self._where[image]) for place, image in enumerate(sha256)]
        return [place for place, path, row in found if not self._files[path].ok[row]]

    def _gather(self, sha256: Sequence[str], names: list[str]) -> Iterator[tuple[int, dict[str, h5.Array]]]:
        for first in range(0, len(sha256), GATHER_ROWS):
            wanted: dict[Path, list[tuple[int, int]]] = {}
            block = sha256[first : first + GATHER_ROWS]
            for place, image in enumerate(block):
                path, row = self._where[image]
                wanted.setdefault(path, []).append((place, row))
            yield first, {name: self._rows(name, wanted, len(block)) for name in names}

    def _rows(self, name: str, wanted: dict[Path, list[tuple[int, int]]], count: int) -> h5.Array:
        sample = self._files[next(iter(wanted))].members[name]
        out = np.zeros((count, *sample.shape[1:]), sample.dtype)
        for path, pairs in wanted.items():
            out[[place for place, _ in pairs]] = self._files[path].members[name][[row for _, row in pairs]]
        return out

    def _open(self, path: Path) -> None:
        try:
            file = h5.read(path)
        except h5.Damaged:
            file = None
        if file is None or file.provenance != self.provenance:
            print(f"{path} is damaged: dropped, its rows are computed again", file=sys.stderr)
            path.unlink()
            return
        self._files[path] = file
        self._where.update({image: (path, row) for row, image in enumerate(file.sha256)})


def fingerprint(provenance: dict[str, Any]) -> str:
    """The name of the folder that holds the rows of a provenance."""
    return hashlib.sha256(json.dumps(provenance, sort_keys=True).encode()).hexdigest()[:16]


def _key(sha256: Sequence[str]) -> str:
    return hashlib.sha256("".join(sha256).encode()).hexdigest()[:16]
