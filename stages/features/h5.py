"""The feature file: one self-describing HDF5 file that carries its own checksum and is written whole.

Members: `/features/<layer>` (N, views, …), `/sha256` (N,) of the images, `/ok` (N,) 1 or 0, `/views` (N, views, 2, 3)
float32: the affine map from pixels of the image to pixels of the view; attribute `provenance`: sorted JSON. Images
themselves, `/features/input` (N, 1, 3, H, W) uint8, are padded with zeros at the right and the bottom: `/sizes` (N, 2)
int32 has their heights and widths, the largest of which are H and W, and is in no other file. Everything is contiguous
and uncompressed: `np.memmap` reads a random row in 4 µs, h5py in 20.

The first 512 bytes are HDF5's user block, which other readers pass over. It holds the sha256 of all that follows, so
that a file is checked before HDF5 opens it. HDF5 itself never writes to the disk here: it lays the file out into a
recorder, and the rows go in beside it (a live file grown through h5py is unreadable after a kill, and a full disk ends
in a segmentation fault).
"""

import hashlib
import io as streams
import json
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from stages import files
from stages.errors import REPAIR, UserError

USER_BLOCK = 512
MAGIC = b"coldcut features, sha256 of all bytes after the first 512: "
BLOCK = 1 << 22
MANY = 1 << 14  # checksums that are compared at a time
HEAP = b"GCOL\1\0\0\0"  # HDF5's global heap begins so
MOST_BESIDE = 1 << 24  # bytes between two members
LAYER = "features/"
INPUT = "input"  # the layer of images
DTYPES = {
    "sha256": ("S64",),
    "ok": ("u1",),
    "views": ("f4",),
    "sizes": ("i4",),
    LAYER + INPUT: ("u1",),
}  # of all members but the layers that a network computes; fmt: skip
Array = npt.NDArray[Any]
Shapes = Mapping[str, tuple[tuple[int, ...], str]]  # member -> (shape, dtype)


class Damaged(UserError):
    """A feature file with a wrong checksum or wrong members."""


@dataclass(frozen=True)
class Features:
    """A checked feature file.

    Attributes:
        members: name -> rows, memory-mapped.
        provenance: what the rows are a function of.
    """

    members: dict[str, Array]
    provenance: dict[str, Any]

    @cached_property
    def layers(self) -> dict[str, Array]:
        """Name -> (N, views, …), as stored."""
        return {name.removeprefix(LAYER): rows for name, rows in self.members.items() if name.startswith(LAYER)}

    @cached_property
    def sha256(self) -> list[str]:
        """(N,) of the images."""
        return [value.decode(errors="replace") for value in self.members["sha256"].tolist()]

    def is_of(self, sha256: Sequence[str]) -> bool:
        """Whether the rows are of the images with these checksums, in this order."""
        names = self.members["sha256"]
        return len(names) == len(sha256) and all(
            [value.decode(errors="replace") for value in names[first : first + MANY].tolist()]
            == list(sha256[first : first + MANY])
            for first in range(0, len(names), MANY)
        )

    @cached_property
    def ok(self) -> Array:
        """(N,) bool; the rows of images that cannot be decoded are zero and False."""
        return np.asarray(self.members["ok"]).astype(bool)

    @property
    def sizes(self) -> Array:
        """(N, 2) int32: height and width of each image of the layer `input`."""
        return self.members["sizes"]


def layout(rows: int, views: int, layers: Shapes) -> dict[str, tuple[tuple[int, ...], str]]:
    """The members of a file; `layers` gives the shape of one view of one image and the dtype."""
    members = {f"{LAYER}{name}": ((rows, views, *shape), dtype) for name, (shape, dtype) in layers.items()}
    others = {"sha256": ((rows,), "S64"), "ok": ((rows,), "u1"), "views": ((rows, views, 2, 3), "f4")}
    sizes = {"sizes": ((rows, 2), "i4")} if INPUT in layers else {}
    return members | others | sizes


def padded(sizes: Array) -> tuple[int, int]:
    """Height and width that hold images of all of these sizes (N, 2)."""
    height, width = sizes.reshape(-1, 2).max(0, initial=1).tolist()
    return height, width


def write(
    path: Path, *, members: Shapes, provenance: Mapping[str, Any], pieces: Iterator[tuple[int, dict[str, Array]]]
) -> None:
    """Writes a feature file, whole or not at all.

    Args:
        path: its final name.
        members: as `layout` returns them.
        provenance: anything JSON; sorted, so that equal input gives equal bytes.
        pieces: (first row, member -> rows): together they must fill every member.

    Raises:
        OSError: the disk is full or fails; nothing is left behind.
    """
    skeleton, offsets, size = _skeleton(members, json.dumps(provenance, sort_keys=True))
    with files.atomic_write(path, size) as descriptor:
        for offset, data in skeleton:
            files.write_at(descriptor, data, offset)
        filled = dict.fromkeys(members, 0)
        for first, arrays in pieces:
            for name, array in arrays.items():
                shape, dtype = members[name]
                if array.shape[1:] != shape[1:] or array.dtype != np.dtype(dtype):
                    raise ValueError(f"{name}: rows of {array.dtype} {array.shape[1:]}, expected {dtype} {shape[1:]}")
                stride = int(np.prod(shape[1:], dtype=np.int64)) * np.dtype(dtype).itemsize
                files.write_at(
                    descriptor, np.ascontiguousarray(array).reshape(-1).view("u1").data, offsets[name] + first * stride
                )
                filled[name] += len(array)
        if any(count != members[name][0][0] for name, count in filled.items()):
            raise ValueError(f"rows are missing: {filled}")
        files.write_at(descriptor, (MAGIC + _digest(descriptor).encode() + b"\n").ljust(USER_BLOCK), 0)


def read(path: Path) -> Features:
    """Opens a feature file whose checksum holds, and checks its members.

    Raises:
        Damaged: the file is not there, not whole, or not one of ours.
        UserError: the disk fails; the file may be good.
    """
    if not verify(path):
        raise Damaged(f"{path} is missing or damaged: {REPAIR}.")
    try:
        with h5py.File(path, "r") as file:
            members = {name: _member(file, name, path) for name in _names(file)}
            provenance = _provenance(file, _beside(path, members))
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise Damaged(f"{path} is not a feature file of coldcut: {error}") from None
    _check_shapes(members, path)
    return Features(members, provenance)


def provenance(path: Path) -> dict[str, Any] | None:
    """What a feature file says of itself; None where it is not whole: HDF5 can loop for ever on a damaged file."""
    try:
        return read(path).provenance
    except UserError:
        return None


def verify(path: Path) -> bool:
    """Whether the file is there and its checksum holds.

    Raises:
        UserError: the disk fails.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            return _head(descriptor) == (MAGIC + _digest(descriptor).encode() + b"\n").ljust(USER_BLOCK)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        return False
    except OSError as error:  # not damage: what is dropped for it would be lost
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from None


def _head(descriptor: int) -> bytes:
    """The user block; short reads are continued."""
    head = b""
    while block := os.pread(descriptor, USER_BLOCK - len(head), len(head)):
        head += block
    return head


def _digest(descriptor: int) -> str:
    """The sha256 of all bytes after the user block."""
    total, offset = hashlib.sha256(), USER_BLOCK
    while block := os.pread(descriptor, BLOCK, offset):
        total.update(block)
        offset += len(block)
    return total.hexdigest()


def _skeleton(members: Shapes, provenance: str) -> tuple[list[tuple[int, bytes]], dict[str, int], int]:
    """HDF5's own bytes of an empty file, where each member's rows begin, and the size of the whole."""
    recorder = _Recorder()
    offsets = {}
    with h5py.File(recorder, "w", userblock_size=USER_BLOCK) as file:
        file.attrs["provenance"] = provenance
        for name, (shape, dtype) in sorted(members.items()):  # equal members, equal bytes
            early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            early.set_layout(h5py.h5d.CONTIGUOUS)
            early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            group, _, leaf = name.rpartition("/")
            parent = file.require_group(group) if group else file
            dataset = parent.create_dataset(leaf, shape=shape, dtype=dtype, dcpl=early, fill_time="never")
            offsets[name] = dataset.id.get_offset()
    return recorder.writes, offsets, recorder.size


def _names(file: h5py.File) -> list[str]:
    """The datasets: at the top or in the group `features`, reached by hard links, nothing else beside them."""
    names: list[str] = []
    for name, item in _links(file):
        below = [(f"{LAYER}{leaf}", layer) for leaf, layer in _links(item)] if f"{name}/" == LAYER else [(name, item)]
        if others := [other for other, dataset in below if not isinstance(dataset, h5py.Dataset)]:
            raise ValueError(f"{others[0]!r} is not a dataset")
        names += [dataset for dataset, _ in below]
    return names


def _links(group: h5py.Group) -> Iterator[tuple[str, Any]]:
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"{name!r} is a link to elsewhere")
        yield name, group[name]


def _provenance(file: h5py.File, beside: bytes) -> dict[str, Any]:
    """The attribute's text, taken from HDF5's global heap without HDF5, which loops for ever on a damaged one.

    The heap is a header, then one object (index, references, size, bytes), then free space, whose index is 0. Source:
    HDF5 File Format Specification 3.0, III.E.
    """
    if list(file.attrs) != ["provenance"]:
        raise ValueError(f"its attributes are {', '.join(file.attrs) or 'none'}")
    kind = h5py.h5a.open(file.id, b"provenance").get_type()
    if not isinstance(kind, h5py.h5t.TypeStringID) or not kind.is_variable_str() or beside.count(HEAP) != 1:
        raise ValueError("its attribute is not as coldcut writes it")
    heap = beside[beside.index(HEAP) :]
    room, number, _, size = struct.unpack_from("<QHH4xQ", heap, len(HEAP))
    end = 32 + size + -size % 8
    if number != 1 or end > min(room, len(heap)) or any(heap[end : min(end + 2, room)]):
        raise ValueError("its attribute is damaged")
    stored = json.loads(heap[32 : 32 + size].rstrip(b"\0"))
    if not isinstance(stored, dict):
        raise ValueError("its provenance is not a JSON object")
    return stored


def _beside(path: Path, members: Mapping[str, Array]) -> bytes:
    """The bytes of a file that are not rows: HDF5's own, some kB."""
    rows = sorted((rows.offset, rows.offset + rows.nbytes) for rows in members.values() if isinstance(rows, np.memmap))
    own, end = b"", USER_BLOCK
    with path.open("rb") as stream:
        for first, last in [*rows, (path.stat().st_size,) * 2]:
            stream.seek(end)
            own += stream.read(min(MOST_BESIDE, max(0, first - end)))
            end = max(end, last)
    return own


def _check_shapes(members: Mapping[str, Array], path: Path) -> None:
    """Exactly the members of `layout`, of one number of images and one of views."""
    layers = {name.removeprefix(LAYER) for name in members if name.startswith(LAYER)}
    expected = layout(0, 0, dict.fromkeys(layers, ((), "")))
    if not layers or members.keys() != expected.keys():
        raise Damaged(f"{path} is not a feature file of coldcut: it holds {', '.join(sorted(members))}.")
    rows, views = (*members["views"].shape, 0, 0)[:2]
    expected_shapes = layout(rows, views, {name: (members[LAYER + name].shape[2:], "") for name in layers})
    if wrong := [name for name, (shape, _) in expected_shapes.items() if members[name].shape != shape]:
        shapes = ", ".join(f"{name} {members[name].shape}" for name in ("views", *wrong))
        raise Damaged(f"{path} is not a feature file of coldcut: shapes disagree, {shapes}.")


def _member(file: h5py.File, name: str, path: Path) -> Array:
    """A contiguous dataset as a memory map; an empty one as an empty array."""
    dataset = file[name]
    allowed = DTYPES.get(name, ("f2", "f4"))
    if dataset.dtype.str[1:] not in allowed:  # never an object: touching one would follow pointers out of the file
        raise Damaged(f"{path}: {name} is of {dataset.dtype}, expected {' or '.join(allowed)}.")
    if 0 in dataset.shape:
        return np.zeros(dataset.shape, dataset.dtype)
    offset = dataset.id.get_offset()
    if offset is None or dataset.external or dataset.is_virtual:
        raise Damaged(f"{path}: {name} is not stored as coldcut stores it: refused.")
    return np.memmap(path, dtype=dataset.dtype, mode="r", offset=offset, shape=dataset.shape)


class _Recorder(streams.RawIOBase):
    """A file that keeps what is written to it as (offset, bytes), however large it says it is."""

    def __init__(self) -> None:
        self.writes: list[tuple[int, bytes]] = []
        self.position = self.size = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.size}[whence]
        return self.position

    def tell(self) -> int:
        return self.position

    def truncate(self, size: int | None = None) -> int:
        self.size = self.position if size is None else size
        return self.size

    def write(self, data: Any) -> int:
        content = bytes(data)
        self.writes.append((self.position, content))
        self.position += len(content)
        self.size = max(self.size, self.position)
        return len(content)
