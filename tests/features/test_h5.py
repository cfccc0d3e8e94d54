"""The feature file: what goes in comes out, any damage shows, and only files as coldcut writes them are read."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.features import h5

ROWS = 7
PROVENANCE = {"weights": "random", "backbone": "toy", "nested": {"b": 2, "a": [1, None]}}


def arrays(rows: int = ROWS, seed: int = 0) -> dict[str, h5.Array]:
    random = np.random.default_rng(seed)
    return {
        "features/pooled": random.normal(size=(rows, 1, 5)).astype("f2"),
        "sha256": np.array([hashlib.sha256(b"%d" % row).hexdigest() for row in range(rows)], dtype="S64"),
        "ok": np.array([row % 3 != 1 for row in range(rows)], dtype="u1"),
        "views": random.normal(size=(rows, 1, 2, 3)).astype("f4"),
    }


def members(rows: int = ROWS) -> dict[str, tuple[tuple[int, ...], str]]:
    return h5.layout(rows, 1, {"pooled": ((5,), "f2")})


def pieces(whole: dict[str, h5.Array], step: int) -> Iterator[tuple[int, dict[str, h5.Array]]]:
    for first in range(0, len(whole["ok"]), step):
        yield first, {name: rows[first : first + step] for name, rows in whole.items()}


def written(path: Path, *, step: int = 3, rows: int = ROWS, provenance: dict[str, Any] | None = None) -> Path:
    h5.write(
        path,
        members=members(rows),
        provenance=PROVENANCE if provenance is None else provenance,
        pieces=pieces(arrays(rows), step),
    )
    return path


def sealed(path: Path) -> Path:
    """Gives a file with an empty user block a checksum that holds."""
    data = path.read_bytes()
    digest = hashlib.sha256(data[h5.USER_BLOCK :]).hexdigest().encode()
    path.write_bytes((h5.MAGIC + digest + b"\n").ljust(h5.USER_BLOCK) + data[h5.USER_BLOCK :])
    assert h5.verify(path)
    return path


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    found = h5.read(written(tmp_path / "f.h5"))
    for name, rows in arrays().items():
        np.testing.assert_array_equal(found.members[name], rows)
        assert found.members[name].dtype == rows.dtype
    assert found.provenance == PROVENANCE
    assert list(found.layers) == ["pooled"]
    np.testing.assert_array_equal(found.layers["pooled"], arrays()["features/pooled"])
    assert found.sha256 == [hashlib.sha256(b"%d" % row).hexdigest() for row in range(ROWS)]
    assert found.ok.tolist() == [True, False, True, True, False, True, True]
    assert all(isinstance(rows, np.memmap) and not rows.flags.writeable for rows in found.members.values())


def test_a_file_without_rows(tmp_path: Path) -> None:
    found = h5.read(written(tmp_path / "f.h5", rows=0))
    assert {name: rows.shape for name, rows in found.members.items()} == {
        "features/pooled": (0, 1, 5),
        "ok": (0,),
        "sha256": (0,),
        "views": (0, 1, 2, 3),
    }


@settings(max_examples=25)
@given(rows=st.integers(1, 40), step=st.integers(1, 41))
def test_the_bytes_do_not_depend_on_the_pieces(rows: int, step: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("pieces")
    assert written(folder / "a", rows=rows, step=step).read_bytes() == written(folder / "b", rows=rows).read_bytes()


def test_provenance_is_sorted_so_that_its_order_is_nothing(tmp_path: Path) -> None:
    turned = dict(reversed(PROVENANCE.items()))
    assert list(turned) != list(PROVENANCE)
    one, other = written(tmp_path / "a"), written(tmp_path / "b", provenance=turned)
    assert one.read_bytes() == other.read_bytes()
    with h5py.File(one) as file:
        assert file.attrs["provenance"] == json.dumps(PROVENANCE, sort_keys=True)


@pytest.mark.parametrize("length", [1, 4000, 5000, 100_000])
def test_provenance_of_any_length(tmp_path: Path, length: int) -> None:
    provenance = {"text": "GCOL\x01\x00 é" * length}
    path = written(tmp_path / "f.h5", provenance=provenance)
    assert h5.read(path).provenance == provenance
    with h5py.File(path) as file:
        assert json.loads(file.attrs["provenance"]) == provenance


def test_a_heap_that_hdf5_walks_for_ever(tmp_path: Path) -> None:
    path = written(tmp_path / "f.h5", provenance={"a": 1})
    data = path.read_bytes()
    after = data.index(h5.HEAP) + 16 + 16 + 8  # the object with the provenance
    path.write_bytes(data[:after] + bytes(16) + data[after + 16 :])
    assert h5.read(sealed(path)).provenance == {"a": 1}


@pytest.mark.parametrize(("at", "value"), [(8, b"\x20"), (16, b"\2"), (24, b"\xff" * 8), (24, b"\3"), (0, b"g")])
def test_a_damaged_heap_is_refused(tmp_path: Path, at: int, value: bytes) -> None:
    path = written(tmp_path / "f.h5", provenance={"a": 1})
    data = path.read_bytes()
    place, size = data.index(h5.HEAP) + at, 8 if at in (8, 24) else 1
    path.write_bytes(data[:place] + value.ljust(size, b"\0") + data[place + size :])
    with pytest.raises(h5.Damaged, match="not a feature file of coldcut"):
        h5.read(sealed(path))


def test_other_provenance_other_bytes(tmp_path: Path) -> None:
    one, other = written(tmp_path / "a"), written(tmp_path / "b", provenance=PROVENANCE | {"backbone": "joy"})
    assert one.read_bytes() != other.read_bytes()


def test_h5py_alone_reads_the_same(tmp_path: Path) -> None:
    with h5py.File(written(tmp_path / "f.h5"), "r") as file:
        assert file.userblock_size == h5.USER_BLOCK
        assert set(file) == {"features", "sha256", "ok", "views"}
        for name, rows in arrays().items():
            np.testing.assert_array_equal(file[name][:], rows)
            assert file[name].chunks is None and file[name].compression is None


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    path = written(tmp_path / "f.h5")
    data = bytearray(path.read_bytes())
    with h5py.File(path) as file:
        rows = [file[name].id.get_offset() for name in members()]
    magic, random = len(h5.MAGIC), np.random.default_rng(0)
    places = [0, magic - 1, magic, magic + 63, magic + 64, h5.USER_BLOCK - 1]  # of the user block
    places += [h5.USER_BLOCK, h5.USER_BLOCK + 8, len(data) - 1, *rows]
    places += random.integers(0, len(data), 60).tolist()
    for place in places:
        for bit in range(8):
            data[place] ^= 1 << bit
            path.write_bytes(data)
            assert not h5.verify(path), f"byte {place}, bit {bit}"
            data[place] ^= 1 << bit
    path.write_bytes(bytes(data[:-1]) + bytes([data[-1] ^ 1]))
    with pytest.raises(h5.Damaged, match="missing or damaged"):
        h5.read(path)
    path.write_bytes(data)
    assert h5.verify(path)


@pytest.mark.parametrize("keep", [0, 1, 100, 511, 512, 513, 2000, -1])
def test_truncation_is_found(tmp_path: Path, keep: int) -> None:
    path = written(tmp_path / "f.h5")
    path.write_bytes(path.read_bytes()[:keep])
    assert not h5.verify(path)
    with pytest.raises(h5.Damaged):
        h5.read(path)


def test_appended_bytes_are_found(tmp_path: Path) -> None:
    path = written(tmp_path / "f.h5")
    path.write_bytes(path.read_bytes() + b"\0")
    assert not h5.verify(path)


def test_a_file_that_is_not_there_is_damaged(tmp_path: Path) -> None:
    assert not h5.verify(tmp_path / "none.h5")
    with pytest.raises(
        h5.Damaged, match=r"none.h5 is missing or damaged: `python -m stages.store verify --repair`, then `dvc repro`"
    ):
        h5.read(tmp_path / "none.h5")


def without_last(whole: dict[str, h5.Array]) -> dict[str, h5.Array]:
    return {name: rows[:-1] for name, rows in whole.items()}


def without_ok(whole: dict[str, h5.Array]) -> dict[str, h5.Array]:
    return {name: rows for name, rows in whole.items() if name != "ok"}


def of_six(whole: dict[str, h5.Array]) -> dict[str, h5.Array]:
    return whole | {"features/pooled": np.zeros((ROWS, 1, 6), "f2")}


def in_float32(whole: dict[str, h5.Array]) -> dict[str, h5.Array]:
    return whole | {"features/pooled": whole["features/pooled"].astype("f4")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_last, "rows are missing"),
        (without_ok, "rows are missing"),
        (of_six, r"rows of float16 \(1, 6\), expected f2 \(1, 5\)"),
        (in_float32, r"rows of float32 \(1, 5\), expected f2 \(1, 5\)"),
    ],
)
def test_wrong_rows_are_refused_and_leave_nothing(
    tmp_path: Path, change: Callable[[dict[str, h5.Array]], dict[str, h5.Array]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        h5.write(tmp_path / "f.h5", members=members(), provenance=PROVENANCE, pieces=iter([(0, change(arrays()))]))
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    def broken() -> Iterator[tuple[int, dict[str, h5.Array]]]:
        yield 0, {name: rows[:3] for name, rows in arrays().items()}
        raise RuntimeError("the power is gone")

    path = written(tmp_path / "f.h5")
    before = path.read_bytes()
    with pytest.raises(RuntimeError, match="the power is gone"):
        h5.write(path, members=members(), provenance=PROVENANCE, pieces=broken())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def crafted(path: Path, leaf: Callable[[h5py.File], None], **options: Any) -> Path:
    """A file as coldcut writes it, but for the member that `leaf` makes, with a checksum that holds."""
    whole = arrays()
    with h5py.File(path, "w", userblock_size=h5.USER_BLOCK, **options) as file:
        file.attrs["provenance"] = json.dumps(PROVENANCE)
        for name in ("sha256", "ok", "views"):
            file[name] = whole[name]
        leaf(file)
    return sealed(path)


def test_crafted_files_are_read_when_they_are_as_ours(tmp_path: Path) -> None:
    path = crafted(
        tmp_path / "f.h5", lambda file: file.create_dataset("features/pooled", data=np.ones((ROWS, 1, 5), "f2"))
    )
    np.testing.assert_array_equal(h5.read(path).layers["pooled"], np.ones((ROWS, 1, 5)))


def external(file: h5py.File) -> None:
    shape = (ROWS, 1, 5)
    file.create_dataset("features/pooled", shape, "f2", external=[("/etc/passwd", 0, ROWS * 10)])


def virtual(file: h5py.File) -> None:
    virtual_layout = h5py.VirtualLayout((ROWS, 1, 5), "f2")
    virtual_layout[:] = h5py.VirtualSource("other.h5", "x", (ROWS, 1, 5))
    file.create_virtual_dataset("features/pooled", virtual_layout)


def chunked(file: h5py.File) -> None:
    file.create_dataset("features/pooled", data=np.ones((ROWS, 1, 5), "f2"), chunks=True)


def compact(file: h5py.File) -> None:
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.COMPACT)
    group = file.create_group("features")
    space = h5py.h5s.create_simple((ROWS, 1, 5))
    h5py.h5d.create(group.id, b"pooled", h5py.h5t.NATIVE_FLOAT, space, properties)


def soft(file: h5py.File) -> None:
    file.create_group("features")["pooled"] = h5py.SoftLink("/views")


def elsewhere(file: h5py.File) -> None:
    file.create_group("features")["pooled"] = h5py.ExternalLink("other.h5", "/x")


def nothing(file: h5py.File) -> None:
    pass


def one_more(file: h5py.File) -> None:
    file["features/pooled"] = np.ones((ROWS, 1, 5), "f2")
    file["extra"] = np.ones(ROWS, "f4")


def text(file: h5py.File) -> None:  # its rows are pointers: touching one ended the process
    file.create_dataset("features/pooled", (ROWS, 1), h5py.string_dtype())


def no_provenance(file: h5py.File) -> None:
    file["features/pooled"] = np.ones((ROWS, 1, 5), "f2")
    del file.attrs["provenance"]


def other_provenance(file: h5py.File) -> None:
    file["features/pooled"] = np.ones((ROWS, 1, 5), "f2")
    file.attrs["provenance"] = "no JSON"


def shorter(file: h5py.File) -> None:
    file["features/pooled"] = np.ones((ROWS - 1, 1, 5), "f2")


def a_list_as_provenance(file: h5py.File) -> None:
    file["features/pooled"] = np.ones((ROWS, 1, 5), "f2")
    file.attrs["provenance"] = "[]"


def one_more_attribute(file: h5py.File) -> None:
    file["features/pooled"] = np.ones((ROWS, 1, 5), "f2")
    file.attrs["more"] = "1"


def a_soft_link_beside(file: h5py.File) -> None:
    file["features/pooled"] = np.ones((ROWS, 1, 5), "f2")
    file["more"] = h5py.SoftLink("/views")


def an_external_link_beside(file: h5py.File) -> None:
    file["features/pooled"] = np.ones((ROWS, 1, 5), "f2")
    file["features/more"] = h5py.ExternalLink("other.h5", "/x")


def a_group_beside(file: h5py.File) -> None:
    file["features/pooled"] = np.ones((ROWS, 1, 5), "f2")
    file.create_group("features/more")


def other_views(file: h5py.File) -> None:
    file["features/pooled"] = np.ones((ROWS, 2, 5), "f2")


def compressed(file: h5py.File) -> None:
    file.create_dataset("features/pooled", data=np.ones((ROWS, 1, 5), "f2"), compression="gzip")


def huge(file: h5py.File) -> None:  # 2 TB said, nothing stored
    file.create_dataset("features/pooled", (ROWS, 1, 1 << 37), "f2")


@pytest.mark.parametrize(
    "leaf",
    [external, virtual, chunked, compact, soft, elsewhere, nothing, one_more, shorter, text, no_provenance,
     other_provenance, a_list_as_provenance, one_more_attribute, a_soft_link_beside, an_external_link_beside,
     a_group_beside, other_views, compressed, huge],
    ids=lambda f: f.__name__,
)  # fmt: skip
def test_other_storage_is_refused(
    tmp_path: Path, leaf: Callable[[h5py.File], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with h5py.File("other.h5", "w") as file:
        file["x"] = np.ones((ROWS, 1, 5), "f2")
    with pytest.raises(h5.Damaged, match=r"not stored as coldcut stores it|not a feature file of coldcut|is of object"):
        h5.read(crafted(tmp_path / "f.h5", leaf))


def test_what_is_no_hdf5_after_a_checksum_that_holds_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    path.write_bytes(bytes(h5.USER_BLOCK) + b"no HDF5 at all")
    with pytest.raises(h5.Damaged, match="not a feature file of coldcut"):
        h5.read(sealed(path))


# --- several layers, images


def images(rows: int = 3) -> dict[str, h5.Array]:
    random = np.random.default_rng(1)
    kept = random.integers(0, 256, (rows, 1, 3, 6, 4)).astype("u1")
    return {
        "features/input": kept,
        "sha256": arrays(rows)["sha256"],
        "ok": np.ones(rows, "u1"),
        "views": random.normal(size=(rows, 1, 2, 3)).astype("f4"),
        "sizes": np.array([[6, 4 - row % 2] for row in range(rows)], "i4"),
    }


def put(path: Path, found: dict[str, h5.Array]) -> h5.Features:
    members = {name: (rows.shape, rows.dtype.str[1:]) for name, rows in found.items()}
    h5.write(path, members=members, provenance={}, pieces=iter([(0, found)]))
    return h5.read(path)


def test_images_come_with_their_sizes(tmp_path: Path) -> None:
    found = put(tmp_path / "f.h5", images())
    np.testing.assert_array_equal(found.layers["input"], images()["features/input"])
    assert found.sizes.dtype == np.int32 and found.sizes.tolist() == [[6, 4], [6, 3], [6, 4]]
    assert h5.layout(3, 1, {"input": ((3, 6, 4), "u1")}).keys() == images().keys()
    assert h5.padded(found.sizes) == (6, 4)
    assert h5.padded(np.zeros((2, 2), "i4")) == (1, 1)


def test_images_without_sizes_and_sizes_without_images_are_refused(tmp_path: Path) -> None:
    found = images()
    sizes = found.pop("sizes")
    with pytest.raises(h5.Damaged, match="not a feature file of coldcut: it holds features/input, ok, sha256, views"):
        put(tmp_path / "f.h5", found)
    with pytest.raises(h5.Damaged, match="it holds features/pooled, ok, sha256, sizes, views"):
        put(tmp_path / "g.h5", arrays(3) | {"sizes": sizes})


def test_only_images_are_bytes(tmp_path: Path) -> None:
    with pytest.raises(h5.Damaged, match="features/input is of float32, expected u1"):
        put(tmp_path / "f.h5", images() | {"features/input": images()["features/input"].astype("f4")})
    with pytest.raises(h5.Damaged, match="features/pooled is of uint8, expected f2 or f4"):
        put(tmp_path / "g.h5", arrays(3) | {"features/pooled": np.zeros((3, 1, 5), "u1")})


def test_several_layers_and_names_with_dots(tmp_path: Path) -> None:
    base = {name: rows for name, rows in arrays(3).items() if not name.startswith(h5.LAYER)}
    random = np.random.default_rng(2)
    layers = {
        name: random.normal(size=(3, 1, 2, side, side)).astype("f2")
        for name, side in (("pyramid@8", 4), ("layer4.0", 2))
    }
    found = put(tmp_path / "f.h5", base | {h5.LAYER + name: rows for name, rows in layers.items()})
    assert found.layers.keys() == layers.keys()
    for name, rows in layers.items():
        np.testing.assert_array_equal(found.layers[name], rows)
