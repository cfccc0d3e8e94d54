"""safetensors files written piece by piece: whole or not at all, without a second copy of the arrays in memory.

https://github.com/huggingface/safetensors#format
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stages import files

DTYPES = {"f4": "F32", "u1": "U8", "i8": "I64"}  # as the format calls them
Array = npt.NDArray[Any]
Shapes = Mapping[str, tuple[tuple[int, ...], str]]  # name -> (shape, dtype)


def write(path: Path, shapes: Shapes, pieces: Iterable[tuple[str, Array]]) -> None:
    """Writes a file, with the same bytes as `safetensors.numpy.save` where all arrays are of one dtype.

    Args:
        path: its final name.
        shapes: of all arrays.
        pieces: name -> rows (n, …) of the array, those of one array in their order.

    Raises:
        Unwritable: the disk is full or fails.
        ValueError: rows are missing, or of another dtype.
    """
    described, places, end = dict[str, dict[str, Any]](), dict[str, int](), 0
    for name, (shape, dtype) in sorted(shapes.items(), key=lambda item: (-np.dtype(item[1][1]).itemsize, item[0])):
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        described[name] = {"dtype": DTYPES[dtype], "shape": shape, "data_offsets": [end, end + size]}
        places[name], end = end, end + size
    text = json.dumps(described, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    head = len(text).to_bytes(8, "little") + text
    with files.atomic_write(path, len(head) + end) as descriptor:
        files.write_at(descriptor, head, 0)
        for name, rows in pieces:
            if rows.dtype != np.dtype(shapes[name][1]):
                raise ValueError(f"{name}: rows of {rows.dtype}, expected {shapes[name][1]}")
            if rows.size:
                files.write_at(descriptor, np.ascontiguousarray(rows).data, len(head) + places[name])
            places[name] += rows.nbytes
        if any(places[name] != values["data_offsets"][1] for name, values in described.items()):
            raise ValueError(f"rows are missing, or there are too many: {places}")


def mapped(path: Path, name: str) -> Array:
    """An array of a file, memory-mapped; whether the file is whole is not checked.

    Raises:
        OSError: it cannot be read.
        KeyError, ValueError: it has no such array.
    """
    with path.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        described = json.loads(stream.read(size))[name]
        dtype = next(ours for ours, theirs in DTYPES.items() if theirs == described["dtype"])
        return np.memmap(stream, dtype, "r", 8 + size + described["data_offsets"][0], tuple(described["shape"]))
