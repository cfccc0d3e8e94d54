"""safetensors files that are written piece by piece."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from stages import files, tensors


def pieces(arrays: dict[str, np.ndarray], size: int = 3) -> Iterator[tuple[str, np.ndarray]]:
    for name, array in arrays.items():
        for first in range(0, len(array), size):
            yield name, array[first : first + size]


def shapes(arrays: dict[str, np.ndarray]) -> dict[str, tuple[tuple[int, ...], str]]:
    return {name: (array.shape, array.dtype.str[1:]) for name, array in arrays.items()}


def test_the_bytes_are_those_of_the_library(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    arrays = {"val": generator.random((7, 5), np.float32), "test": generator.random((10, 5), np.float32)}
    arrays["none"] = np.zeros((0, 5), np.float32)
    tensors.write(tmp_path / "a", shapes(arrays), pieces(arrays))
    assert (tmp_path / "a").read_bytes() == save(arrays)


def test_arrays_of_several_types_come_back_and_can_be_mapped(tmp_path: Path) -> None:
    arrays = {"u": np.arange(21, dtype="u1").reshape(7, 3), "f": np.ones((2, 2), "f4"), "i": np.array([-1, 5])}
    turned = arrays | {"f": np.ones((2, 4), "f4")[:, ::2]}  # not contiguous
    tensors.write(tmp_path / "a", shapes(arrays), pieces(turned))
    loaded = load_file(tmp_path / "a")
    for name, array in arrays.items():
        mapped = tensors.mapped(tmp_path / "a", name)
        assert isinstance(mapped, np.memmap) and mapped.dtype == array.dtype == loaded[name].dtype
        assert (mapped == array).all() and (loaded[name] == array).all()


@pytest.mark.parametrize("rows", [np.zeros((2, 3), "f4"), np.zeros((4, 3), "f4"), np.zeros((3, 3))])
def test_rows_that_do_not_fit_are_refused_and_nothing_is_left(tmp_path: Path, rows: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"a: rows of float64|rows are missing, or there are too many"):
        tensors.write(tmp_path / "a", {"a": ((3, 3), "f4")}, pieces({"a": rows}))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: bytes, offset: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_at", full)
    with pytest.raises(files.Unwritable, match="the disk is full"):
        tensors.write(tmp_path / "a", {"a": ((1,), "f4")}, iter([("a", np.zeros(1, "f4"))]))
    assert not list(tmp_path.iterdir())
