"""Images in shards, tar and Parquet: the same rows as from a folder, lists by name, and what is damaged told."""

import io
import json
import shutil
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from stages import extract, index, paths
from stages.datasets import index_file, shards, source
from stages.errors import UserError
from stages.features import h5
from tests.datasets.kinds import Annotated, write_parquet, write_webdataset

Make = Callable[..., Any]
WRITE = {"webdataset": write_webdataset, "parquet": write_parquet}
SUFFIX = {"webdataset": ".tar", "parquet": ".parquet"}


def sample(jpeg: Make, label: str, number: int) -> Annotated:
    return Annotated(f"{label}{number}.jpg", jpeg(7 * number + len(label) * 100), ((label, (0, 0, 9, 9)),))


def write(reader: str, root: Path, name: str, images: list[Annotated]) -> Path:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    WRITE[reader](root, images, name)
    return root / f"{name}{SUFFIX[reader]}"


def pets(jpeg: Make, first: int = 0, count: int = 3) -> list[Annotated]:
    return [sample(jpeg, label, number) for number in range(first, first + count) for label in ("ant", "wasp")]


def indexed(params: Make, reader: str, root: Path) -> tuple[list[index_file.IndexRow], dict[str, Any]]:
    index.main(params(dataset=reader, root=str(root), bad_images={"max_fraction": 1.0}))
    return index_file.read(reader), json.loads(paths.index(reader).with_suffix(".json").read_text())


def tar(path: Path, members: Mapping[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as packed:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            packed.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize("reader", WRITE)
def test_features_are_those_of_a_folder_byte_for_byte(workplace: Path, params: Make, jpeg: Make, reader: str) -> None:
    images = pets(jpeg)
    for image in images:
        home = workplace / "folder" / image.objects[0][0]
        home.mkdir(parents=True, exist_ok=True)
        assert image.data
        (home / image.path).write_bytes(image.data)
    write(reader, workplace / "shards", "a-0000", images[:3])
    write(reader, workplace / "shards", "a-0001", images[3:])
    vectors: dict[str, dict[str, bytes]] = {}
    for dataset, root in (("folder", "folder"), (reader, "shards")):
        chosen = params(dataset=dataset, root=str(workplace / root), backbone="squeezenet1_1", weights="random",
                        image_size=64)  # fmt: skip
        index.main(chosen)
        extract.main(chosen)
        features = h5.read(paths.features(dataset, "squeezenet1_1", "pooled"))
        (rows,) = features.layers.values()
        vectors[dataset] = {key: rows[row].tobytes() for row, key in enumerate(features.sha256)}
        shutil.rmtree(paths.store())  # or else the second dataset would find its rows there
    assert len(vectors["folder"]) == 6 and vectors["folder"] == vectors[reader]


@pytest.mark.parametrize("reader", WRITE)
@pytest.mark.parametrize(
    "names",
    [
        ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001-0a1b2c3d4e5f6071"),
        ("data/train-000", "data/train-001", "data/test-000"),
        ("train/0000", "train/0001", "test/0000"),
        ("pets2k-train-0", "pets2k-train-1", "pets2k-test-0"),
    ],
)
def test_shards_are_lists_by_their_names(
    workplace: Path, params: Make, jpeg: Make, reader: str, names: tuple[str, ...]
) -> None:
    for number, name in enumerate(names):
        write(reader, workplace / "shards", name, pets(jpeg, 10 * number))
    rows, summary = indexed(params, reader, workplace / "shards")
    assert summary["lists"] == {"train": 12, "test": 6}
    assert {row.path.rpartition("/")[0] for row in rows} == set(names)
    assert {row.label for row in rows} == {"ant", "wasp"}


@pytest.mark.parametrize("reader", WRITE)
def test_a_truncated_shard_is_named_and_those_before_it_are_kept(
    workplace: Path, params: Make, jpeg: Make, capsys: pytest.CaptureFixture[str], reader: str
) -> None:
    write(reader, workplace / "shards", "a-0", pets(jpeg))
    whole = write(reader, workplace / "shards", "a-1", pets(jpeg, 20)).read_bytes()
    broken = workplace / "shards" / f"a-1{SUFFIX[reader]}"
    for size in (len(whole) // 2, 100):
        broken.write_bytes(whole[:size])
        with pytest.raises(UserError, match="a-1"):
            indexed(params, reader, workplace / "shards")
    assert not list(paths.unpacked(reader).rglob("*.unpacking"))
    broken.write_bytes(whole)
    capsys.readouterr()
    rows, _ = indexed(params, reader, workplace / "shards")
    assert len(rows) == 12
    assert "unpacking a-1" in (console := capsys.readouterr().out) and "unpacking a-0" not in console


def test_a_tar_cut_off_between_two_members_is_refused(workplace: Path, params: Make, jpeg: Make) -> None:
    path = tar(workplace / "shards/a.tar", {"1.cls": b"ant", "1.jpg": jpeg(1), "2.cls": b"bee", "2.jpg": jpeg(2)})
    with tarfile.open(path) as packed:
        end = packed.getmembers()[2].offset
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(UserError, match=r"a\.tar is cut off: its end is missing"):
        indexed(params, "webdataset", workplace / "shards")


def test_two_tars_in_one_file_are_refused(workplace: Path, params: Make, jpeg: Make) -> None:
    path = tar(workplace / "shards/a.tar", {"1.cls": b"ant", "1.jpg": jpeg(1)})
    path.write_bytes(2 * path.read_bytes())
    with pytest.raises(UserError, match="data follows after its end"):
        indexed(params, "webdataset", workplace / "shards")


@pytest.mark.parametrize("reader", WRITE)
def test_only_shards_that_changed_are_unpacked_again(
    workplace: Path, params: Make, jpeg: Make, capsys: pytest.CaptureFixture[str], reader: str
) -> None:
    for number in range(3):
        write(reader, workplace / "shards", f"a-{number}", pets(jpeg, 10 * number))
    indexed(params, reader, workplace / "shards")
    assert capsys.readouterr().out.count("unpacking a-") == 3
    write(reader, workplace / "shards", "a-1", pets(jpeg, 50, 2))
    (workplace / "shards" / f"a-2{SUFFIX[reader]}").unlink()
    rows, _ = indexed(params, reader, workplace / "shards")
    told = [line for line in capsys.readouterr().out.split("\n") if "unpacking" in line]
    assert told == [f"unpacking a-1{SUFFIX[reader]}"]
    assert {row.path.partition("/")[0] for row in rows} == {"a-0", "a-1"} and len(rows) == 10
    home = source.folder(reader, getattr(params().datasets, reader), str(workplace / "shards"))
    assert sorted(path.name for path in home.iterdir()) == [".shards", "a-0", "a-1"]


def test_a_killed_run_goes_on_with_the_shard_that_is_missing(
    workplace: Path, params: Make, jpeg: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        write("webdataset", workplace / "shards", f"a-{number}", pets(jpeg, 10 * number))
    plain = shards.unpack

    def killed(archive: Path, destination: Path) -> None:
        if archive.name == "a-1.tar":
            raise KeyboardInterrupt
        plain(archive, destination)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "unpack", killed)
        with pytest.raises(KeyboardInterrupt):
            indexed(params, "webdataset", workplace / "shards")
    capsys.readouterr()
    rows, _ = indexed(params, "webdataset", workplace / "shards")
    assert len(rows) == 18 and "unpacking a-0" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("member", "label"),
    [
        ({".cls": b"7\n"}, "7"),
        ({".cls": b"red ant"}, "red ant"),
        ({".json": b'{"label": 3, "class_name": "ant", "width": 9}'}, "ant"),
        ({".json": b'{"cls": 3}'}, "3"),
        ({".json": b'"ant"'}, "ant"),
        ({".txt": "señal".encode()}, "señal"),
        ({".cls": b"ant", ".json": b'{"label": "no"}'}, "ant"),
        ({".json": b'{"width": 9}', ".txt": b"ant"}, "ant"),
    ],
)
def test_where_a_label_stands(workplace: Path, params: Make, jpeg: Make, member: dict[str, bytes], label: str) -> None:
    members = {f"deep/1{suffix}": data for suffix, data in member.items()}
    tar(workplace / "shards/a.tar", {"deep/1.jpg": jpeg(1), **members, "2.jpg": jpeg(2), "2.cls": b"other"})
    rows, summary = indexed(params, "webdataset", workplace / "shards")
    assert {row.path: row.label for row in rows} == {"a/deep/1.jpg": label, "a/2.jpg": "other"}
    assert summary["broken_annotations"] == []


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({}, "no label stands beside it"),
        ({"1.cls": b" "}, "no label stands beside it"),
        ({"1.json": b"{"}, "its label cannot be read"),
        ({"1.json": b'{"label": [1, 2]}'}, "its label cannot be read"),
        ({"1.txt": b"a caption\nof two lines"}, "its label cannot be read"),
        ({"1.cls": b"\xff\xfe"}, "its label cannot be read"),
    ],
)
def test_images_without_a_label_are_told(
    workplace: Path, params: Make, jpeg: Make, members: dict[str, bytes], said: str
) -> None:
    good = {name: data for number, label in ((2, b"ant"), (3, b"bee"))
            for name, data in ((f"{number}.jpg", jpeg(number)), (f"{number}.cls", label))}  # fmt: skip
    tar(workplace / "shards/a.tar", {"1.jpg": jpeg(1), **members, **good})
    rows, summary = indexed(params, "webdataset", workplace / "shards")
    assert len(rows) == 2
    (excluded,) = summary["excluded"]
    assert excluded["path"] == "a/1.jpg" and said in excluded["reason"]
    assert len(summary["broken_annotations"]) == ("cannot be read" in said)


def test_a_label_without_its_image_is_a_bad_image(workplace: Path, params: Make, jpeg: Make) -> None:
    images = {"1.jpg": jpeg(1), "1.cls": b"ant", "2.jpg": jpeg(2), "2.cls": b"bee"}
    tar(workplace / "shards/a.tar", {**images, "3.cls": b"bee"})
    rows, summary = indexed(params, "webdataset", workplace / "shards")
    assert len(rows) == 2
    assert [image["path"] for image in summary["bad"]] == ["a/3"]


def test_one_key_in_two_shards_is_two_images_and_told(
    workplace: Path, params: Make, jpeg: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, label in enumerate((b"ant", b"bee")):
        tar(workplace / f"shards/a-{number}.tar", {"0.jpg": jpeg(number), "0.cls": label})
    rows, _ = indexed(params, "webdataset", workplace / "shards")
    assert {row.path: row.label for row in rows} == {"a-0/0.jpg": "ant", "a-1/0.jpg": "bee"}
    assert "1 key in several shards (such as 0 in a-0 and a-1)" in capsys.readouterr().out


@pytest.mark.parametrize("reader", WRITE)
def test_bad_images_are_listed_as_in_a_folder(workplace: Path, params: Make, jpeg: Make, reader: str) -> None:
    images = [*pets(jpeg), Annotated("cut.jpg", jpeg(77)[:40], (("ant", (0, 0, 9, 9)),))]
    write(reader, workplace / "shards", "a", images)
    rows, summary = indexed(params, reader, workplace / "shards")
    assert len(rows) == 6 and [image["path"] for image in summary["bad"]] == ["a/cut.jpg"]


def test_rows_of_parquet_without_image_or_label(workplace: Path, params: Make, jpeg: Make) -> None:
    images = [*pets(jpeg), Annotated("lost.jpg", None), Annotated("new.jpg", jpeg(99), name=None)]
    write("parquet", workplace / "shards", "a", images)
    rows, summary = indexed(params, "parquet", workplace / "shards")
    assert len(rows) == 6
    assert summary["bad"] == [{"path": "a/row-000006", "reason": "its row holds no image"}]
    assert summary["excluded"] == [{"path": "a/new.jpg", "reason": "its row has no label"}]


def test_names_in_parquet_that_repeat_or_lead_outside_give_way_to_the_row(
    workplace: Path, params: Make, jpeg: Make
) -> None:
    named = ["x.jpg", "x.jpg", "X.jpg", "../../x.jpg", "/x.jpg", "x.jpg/y.jpg", "deep/z.jpg", ""]
    images = [Annotated(name, jpeg(number), ((f"c{number % 2}", (0, 0, 9, 9)),)) for number, name in enumerate(named)]
    write("parquet", workplace / "shards", "a", images)
    rows, _ = indexed(params, "parquet", workplace / "shards")
    expected = {"x.jpg", "deep/z.jpg", *(f"row-{number:06}.jpg" for number in (1, 2, 3, 4, 5, 7))}
    assert {row.path.removeprefix("a/") for row in rows} == expected


def test_plain_parquet_has_its_columns_by_their_names(workplace: Path, params: Make, jpeg: Make) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    (workplace / "shards").mkdir()
    table = pa.table({"id": [1, 2], "jpg": [jpeg(1), jpeg(2)], "class": ["ant", "bee"]})
    parquet.write_table(table, workplace / "shards/a.parquet")
    rows, _ = indexed(params, "parquet", workplace / "shards")
    assert {row.path: row.label for row in rows} == {"a/row-000000.jpg": "ant", "a/row-000001.jpg": "bee"}
    parquet.write_table(pa.table({"id": [1, 2]}), workplace / "shards/a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet has no column of images: found id"):
        indexed(params, "parquet", workplace / "shards")
    parquet.write_table(pa.table({"image": [jpeg(1)], "labels": [["ant", "bee"]]}), workplace / "shards/a.parquet")
    with pytest.raises(UserError, match="column labels has lists"):
        indexed(params, "parquet", workplace / "shards")


@pytest.mark.parametrize("reader", WRITE)
def test_a_folder_without_shards_is_refused(workplace: Path, params: Make, reader: str) -> None:
    (workplace / "shards").mkdir()
    with pytest.raises(UserError, match=f"no shards of dataset {reader} in .*: expected {SUFFIX[reader]}"):
        indexed(params, reader, workplace / "shards")


def test_two_shards_of_one_name_are_refused(workplace: Path, params: Make, jpeg: Make) -> None:
    for name in ("a.tar", "a.tgz"):
        tar(workplace / "shards" / name, {"0.jpg": jpeg(1), "0.cls": b"ant"})
    with pytest.raises(UserError, match=r"the shards a\.tar and a\.tgz have the same name"):
        indexed(params, "webdataset", workplace / "shards")


def test_a_shard_in_a_folder_of_another_shard_s_name_is_refused(workplace: Path, params: Make, jpeg: Make) -> None:
    for name in ("train.tar", "train/0.tar"):
        tar(workplace / "shards" / name, {"0.jpg": jpeg(1), "0.cls": b"ant"})
    with pytest.raises(UserError, match=r"shard train/0\.tar is in a folder with the name of shard train"):
        indexed(params, "webdataset", workplace / "shards")
