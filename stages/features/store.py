"""The row store: features by image and view, kept in immutable files that are only added or dropped.

`cache/store/<fingerprint>/` of the main checkout belongs to one provenance. While features are computed it fills with
small parts; once a whole file is assembled it is hard-linked here as one big part, and the parts it contains go. A row
is looked up by the sha256 of its image and the name of its view.
"""

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from stages import files, paths
from stages.errors import UserError
from stages.features import h5

GATHER_BYTES = 8 << 20  # copied at a time while assembling; three copies are in memory
PER_IMAGE = ("ok", "sha256", "sizes")  # members that have no column per view


class RowStore:
    """Rows of one provenance; each is a view of an image.

    Use it inside `locked()`: two runs of one extraction take turns.
    """

    def __init__(self, provenance: dict[str, Any]) -> None:
        self.provenance = provenance
        self.home = _home(provenance)
        self._files: dict[Path, h5.Features] = {}
        self._where: dict[tuple[str, str], tuple[Path, int, int]] = {}  # image and view -> file, row, column

    @contextmanager
    def locked(self) -> Iterator["RowStore"]:
        """Waits for any other run of the same extraction; the lock of a killed run ends with it."""
        with files.locked(self.home, "another run computes these features: waiting for it"):
            for leftover in self.home.glob(f"*{files.TEMPORARY}"):
                files.discard(leftover)
            for path in sorted(self.home.glob("*.h5")):
                self._open(path)
            yield self

    def has_file(self, sha256: Sequence[str], views: Sequence[str]) -> bool:
        """Whether one file holds exactly these images and views: then nothing is left to assemble."""
        return self._path(sha256, views) in self._files

    def missing(self, sha256: Sequence[str], views: Sequence[str]) -> dict[tuple[str, ...], list[int]]:
        """The positions of the images that lack views, by the views they lack."""
        lacking: dict[tuple[str, ...], list[int]] = {}
        for position, image in enumerate(sha256):
            if lacks := tuple(view for view in views if (image, view) not in self._where):
                lacking.setdefault(lacks, []).append(position)
        return lacking

    def add(self, arrays: dict[str, h5.Array], sha256: Sequence[str], views: Sequence[str]) -> None:
        """Stores a part, whole or not at all: `write`, then `take`."""
        self.take(self.write(arrays, sha256, views))

    def write(self, arrays: dict[str, h5.Array], sha256: Sequence[str], views: Sequence[str]) -> Path:
        """Writes a part, whole or not at all; any process may do it for the one that holds the lock.

        Args:
            arrays: member -> rows, without `sha256`.
            sha256: of the images, one per row.
            views: their names, one per column.

        Returns:
            Its path, for `take`.

        Raises:
            UserError: the disk is full or fails.
        """
        rows = arrays | {"sha256": np.array(list(sha256), dtype="S64")}
        path = self._path(sha256, views)
        members = {name: (array.shape, array.dtype.str[1:]) for name, array in rows.items()}
        h5.write(path, members=members, provenance=self._with(views), pieces=iter([(0, rows)]))
        return path

    def take(self, path: Path) -> None:
        """Adds the rows of a part that was written to those of this store.

        Raises:
            UserError: the part cannot be read back.
        """
        self._open(path)
        if path not in self._files:
            raise UserError(f"{path} is not on the disk as it was written: the disk fails.")

    def assemble(self, sha256: Sequence[str], views: Sequence[str], out: Path) -> None:
        """Writes the rows of the given images and views, in their order, to `out`.

        `out` is then the store's one big part too, and the parts that it contains go. Killed anywhere, the next call
        ends the same.
        """
        files.remove_leftovers(out)
        path = self._path(sha256, views)
        if path not in self._files:
            members = h5.layout(len(sha256), len(views), self._layers(sha256, views))
            h5.write(path, members=members, provenance=self._with(views), pieces=self._gather(sha256, views, members))
        files.link(path, out)
        held = set(sha256), set(views)
        others = {other: _held(file) for other, file in self._files.items() if other != path}
        if any(_within(held, more) for more in others.values()):
            files.discard(path)  # one file of the store holds all of it and more
            return
        for other, less in others.items():
            if _within(less, held):
                files.discard(other)

    def bad(self, sha256: Sequence[str], view: str) -> list[int]:
        """Positions of the images that could not be decoded."""
        cells = [self._where[image, view] for image in sha256]
        return [position for position, (path, row, _) in enumerate(cells) if not self._files[path].ok[row]]

    def _layers(self, sha256: Sequence[str], views: Sequence[str]) -> dict[str, tuple[tuple[int, ...], str]]:
        """Layer -> shape of a view of an image, and dtype; images are padded to the largest of these."""
        sample = next(iter(self._files.values()))
        layers = {name: (rows.shape[2:], rows.dtype.str[1:]) for name, rows in sample.layers.items()}
        if h5.INPUT in layers:
            cells = (self._where[image, views[0]] for image in sha256)
            sizes = [self._files[path].sizes[row] for path, row, _ in cells]
            layers[h5.INPUT] = ((3, *h5.padded(np.array(sizes))), "u1")
        return layers

    def _gather(
        self, sha256: Sequence[str], views: Sequence[str], members: h5.Shapes
    ) -> Iterator[tuple[int, dict[str, h5.Array]]]:
        row_bytes = sum(prod(shape[1:]) * np.dtype(dtype).itemsize for shape, dtype in members.values())
        step = max(1, GATHER_BYTES // row_bytes)
        for first in range(0, len(sha256), step):
            block = sha256[first : first + step]
            columns = [self._column(block, view, members) for view in views]
            images = {name: columns[0][name] for name in members if name in PER_IMAGE}
            yield first, images | {name: np.stack([c[name] for c in columns], 1) for name in members.keys() - images}

    def _column(self, sha256: Sequence[str], view: str, members: h5.Shapes) -> dict[str, h5.Array]:
        """Member -> rows of one view of some images, padded to the shapes of `members`."""
        cells: dict[Path, list[tuple[int, int, int]]] = {}
        for position, image in enumerate(sha256):
            path, row, column = self._where[image, view]
            cells.setdefault(path, []).append((position, row, column))
        out = {
            name: np.zeros((len(sha256), *shape[1 if name in PER_IMAGE else 2 :]), dtype)
            for name, (shape, dtype) in members.items()
        }
        for path, cells_of_file in cells.items():
            positions, rows, columns = (list(numbers) for numbers in zip(*cells_of_file, strict=True))
            for name, member in self._files[path].members.items():
                values = member[rows] if name in PER_IMAGE else member[rows, columns]
                sides = zip(values.shape[1:], out[name].shape[1:], strict=True)
                common: list[Any] = [slice(min(stored, room)) for stored, room in sides]
                out[name][(positions, *common)] = values[(slice(None), *common)]
        return out

    def _open(self, path: Path) -> None:
        try:
            file = check(path)
        except h5.Damaged as error:
            print(f"{error} Dropped: its rows are computed again.", file=sys.stderr)
            files.discard(path)
            return
        self._files[path] = file
        for column, view in enumerate(_views(file)):
            self._where.update({(image, view): (path, row, column) for row, image in enumerate(file.sha256)})

    def _with(self, views: Sequence[str]) -> dict[str, Any]:
        return self.provenance | {"views": list(views)}

    def _path(self, sha256: Sequence[str], views: Sequence[str]) -> Path:
        return self.home / f"{_name(sha256, views)}.h5"


def check(path: Path) -> h5.Features:
    """Reads a part that must be whole and lie where its content belongs.

    Raises:
        Damaged: its bytes, its provenance or its rows do not fit its folder and name.
    """
    try:
        file = h5.read(path)
    except h5.Damaged:
        raise h5.Damaged(f"{path} is damaged.") from None
    views = _views(file)
    if path.stem != _name(file.sha256, views) or file.members["views"].shape[1] != len(views):
        raise h5.Damaged(f"{path} holds other rows than its name says.")
    if path.parent.name != fingerprint(common(file.provenance)):
        raise h5.Damaged(f"{path} holds features of another provenance than its folder.")
    return file


def part_path(file: h5.Features) -> Path:
    """The path that a feature file has in the store when it is a part."""
    return _home(common(file.provenance)) / f"{_name(file.sha256, _views(file))}.h5"


def common(provenance: dict[str, Any]) -> dict[str, Any]:
    """The provenance that the parts of one folder share: everything but the views."""
    return {key: value for key, value in provenance.items() if key != "views"}


def _home(provenance: dict[str, Any]) -> Path:
    return paths.store() / "features" / fingerprint(provenance)


def _name(sha256: Sequence[str], views: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps([*sha256, *views]).encode()).hexdigest()[:16]


Held = tuple[set[str], set[str]]  # images and views


def _held(file: h5.Features) -> Held:
    return set(file.sha256), set(_views(file))


def _within(less: Held, more: Held) -> bool:
    return less[0] <= more[0] and less[1] <= more[1]


def _views(file: h5.Features) -> list[str]:
    names = file.provenance.get("views")
    return [str(name) for name in names] if isinstance(names, list) else []


def fingerprint(provenance: dict[str, Any]) -> str:
    """The name of the folder that holds the rows of a provenance."""
    return hashlib.sha256(json.dumps(provenance, sort_keys=True).encode()).hexdigest()[:16]
