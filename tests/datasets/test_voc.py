"""VOC's layout: corners, flags, lists, broken files, and the official archives in miniature."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages import download, index, paths, split
from stages.datasets import annotations, bccd, index_file, splits, voc
from stages.datasets.base import AnnotationFault, Box, Note, Record
from stages.datasets.unpack import unpack
from stages.errors import UserError
from tests.datasets import miniature

DATA = Path(os.environ.get("COLDCUT_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
Run = Callable[..., tuple[list[index_file.IndexRow], dict[str, Any], splits.SplitImages]]


@pytest.fixture
def run(workplace: Path, params: Callable[..., Any]) -> Run:
    """`run(dataset, archives, options)`: the index, its summary and the split."""

    def make(dataset: str, archives: dict[str, Path], **options: object) -> Any:
        source = {name: {"url": str(path), "checksum": None} for name, path in archives.items()}
        chosen = params(dataset=dataset, datasets={dataset: options | ({"source": source} if source else {})})
        download.main(chosen)
        index.main(chosen)
        split.main(chosen)
        summary = json.loads(paths.index(dataset).with_suffix(".json").read_text())
        return index_file.read(dataset), summary, splits.read(dataset)

    return make


def test_two_archives_of_one_name_are_refused(run: Run, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "VOC.tar").write_bytes(name.encode())
    both = r"`datasets\.voc2007\.source\.trainval\.url` and `datasets\.voc2007\.source\.test\.url` both end in VOC\.tar"
    with pytest.raises(UserError, match=both):
        run("voc2007", {"trainval": tmp_path / "a/VOC.tar", "test": tmp_path / "b/VOC.tar"})
    assert "VOC.tar" not in [path.name for path in paths.raw("voc2007").iterdir()]


def read(home: Path, *classes: str) -> tuple[dict[str, Record], list[AnnotationFault]]:
    items = list(voc.read(home, classes))
    records = {Path(item.path).stem: item for item in items if isinstance(item, Record)}
    return records, [item for item in items if isinstance(item, AnnotationFault)]


def annotated(home: Path, content: str | bytes) -> tuple[Record | None, list[AnnotationFault]]:
    """What is read of one image with this annotation."""
    miniature.voc(home, lists={"train": 1})
    data = content if isinstance(content, bytes) else content.encode()
    (home / "Annotations/00000_000000.xml").write_bytes(data)
    records, broken = read(home, "cat", "dog")
    return records.get("00000_000000"), broken


def test_corners_are_from_1_and_inclusive(tmp_path: Path) -> None:
    """x, y, width, height 155, 96, 196, 174 is, from 0 and inclusive, y 96, x 155, y 269, x 350."""
    record, broken = annotated(tmp_path, miniature.voc_xml(("cat", (156, 97, 351, 270))))
    assert record is not None and not broken
    x1, y1, x2, y2 = record.objects[0].box
    assert (x1, y1, x2 - x1, y2 - y1) == (155, 96, 196, 174)
    assert (y1, x1, y2 - 1, x2 - 1) == (96, 155, 269, 350)


@given(corners=st.tuples(*[st.integers(1, 400)] * 4))
def test_corners_come_back(corners: tuple[int, int, int, int]) -> None:
    xml = voc.parse(miniature.voc_xml(("cat", corners)).encode())
    box = voc.object_of(xml.findall("object")[0], "cat").box
    x1, y1, x2, y2 = voc.corners(box, "")
    assert (x1 + 1, y1 + 1, x2, y2) == corners == box


def test_flags_and_parts(tmp_path: Path) -> None:
    record, _ = annotated(
        tmp_path, miniature.voc_xml(("cat", (1, 1, 9, 9)), ("dog", (2.5, 2, 8, 8)), size=(50, 60), difficult=[0])
    )
    assert record == Record(
        "JPEGImages/00000_000000.jpg",
        None,
        (Box("cat", (0, 0, 9, 9), difficult=True), Box("dog", (1.5, 1, 8, 8), truncated=True)),
        "train",
        "Annotations/00000_000000.xml",
        (50, 60),
    )


BOMB = '<!DOCTYPE a [<!ENTITY x "xx"><!ENTITY y "&x;&x;&x;">]><annotation>&y;</annotation>'


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("<annotation><object>", "malformed XML: no element found"),
        ("", "malformed XML: no element found"),
        (BOMB, "malformed XML: it has a DOCTYPE, which is refused"),
        (BOMB.encode("utf-16"), "malformed XML: it has a DOCTYPE, which is refused"),
        ('<?xml version="1.0" encoding="klingon"?><annotation/>', "malformed XML: unknown encoding"),
        (b"<annotation>\xff</annotation>", "malformed XML: not well-formed"),
    ],
)
def test_malformed_xml_is_told_and_its_image_left_out(tmp_path: Path, content: str | bytes, reason: str) -> None:
    record, broken = annotated(tmp_path, content)
    assert record is None
    assert [item.path for item in broken] == ["Annotations/00000_000000.xml"]
    assert broken[0].reason.startswith(reason)


@pytest.mark.parametrize(
    ("element", "reason"),
    [
        ("<object><name>cow</name></object>", "object 2: unknown class 'cow'; known: cat, dog"),
        ("<object><bndbox/></object>", "object 2: unknown class ''"),
        (
            "<object><name>dog</name></object>",
            "object 2 (dog) has the corners None, None",
        ),
        (
            "<object><name>dog</name><bndbox><xmin>a</xmin></bndbox></object>",
            "object 2 (dog) has the corners 'a', None",
        ),
    ],
)
def test_a_broken_object_leaves_the_others(tmp_path: Path, element: str, reason: str) -> None:
    xml = miniature.voc_xml(("cat", (1, 1, 9, 9))).replace("</annotation>", element + "</annotation>")
    record, broken = annotated(tmp_path, xml)
    assert record is not None and [box.label for box in record.objects] == ["cat"]
    assert [item.reason[: len(reason)] for item in broken] == [reason]


def test_without_classes_any_class_is_taken(tmp_path: Path) -> None:
    records, broken = read(miniature.voc(tmp_path, classes=["x", "y"]))
    assert not broken and {box.label for record in records.values() for box in record.objects} == {"x", "y"}


def test_lists_give_the_parts_and_unlisted_images_are_left_out(tmp_path: Path) -> None:
    home = miniature.voc(tmp_path)
    (home / "ImageSets/Main/train.txt").write_text("\ufeff00000_000000\r\n00000_000001\r\n\r\n")
    (home / "ImageSets/Main/trainval.txt").write_text("00000_000003\n00001_000000\n")
    records, _ = read(home)
    assert {name: record.split for name, record in records.items()} == {
        **{f"00000_{number:06}": "train" for number in (0, 1, 3)},  # 3 is in trainval alone
        **{f"00001_{number:06}": "val" for number in range(3)},
        **{f"00002_{number:06}": "test" for number in range(2)},
    }


def test_without_lists_every_annotated_image_is_taken(tmp_path: Path) -> None:
    home = miniature.voc(tmp_path)
    for file in (home / "ImageSets/Main").iterdir():
        file.unlink()
    records, _ = read(home)
    assert len(records) == 9 and {record.split for record in records.values()} == {None}


def test_a_list_may_name_what_is_not_there(tmp_path: Path) -> None:
    home = miniature.voc(tmp_path)
    (home / "Annotations/00000_000000.xml").unlink()
    (home / "JPEGImages/00000_000001.jpg").unlink()
    (home / "JPEGImages/00000_000002.jpg").rename(home / "JPEGImages/00000_000002.PNG")
    records, broken = read(home)
    assert [(item.path, item.reason) for item in broken] == [
        ("Annotations/00000_000000.xml", "cannot be read: No such file or directory")
    ]
    assert records["00000_000001"].path == "JPEGImages/00000_000001.jpg"  # the index tells that it is missing
    assert records["00000_000002"].path == "JPEGImages/00000_000002.PNG"


@pytest.mark.parametrize(
    ("images", "annotations"),
    [("images", "annotations"), ("Images", "Annots"), ("imgs", "xml"), ("JPEGImages/a", "Annotations/a")],
)
def test_folders_of_other_names_and_subfolders(tmp_path: Path, images: str, annotations: str) -> None:
    home = miniature.voc(tmp_path / "whole", lists={"train": 3})
    for old, new in (("JPEGImages", images), ("Annotations", annotations)):
        (tmp_path / "set" / new).parent.mkdir(parents=True, exist_ok=True)
        (home / old).rename(tmp_path / "set" / new)
    shutil.rmtree(home)
    records, broken = read(tmp_path)
    assert not broken and len(records) == 3
    assert all(record.path.startswith(f"set/{images}/") and len(record.objects) == 2 for record in records.values())


def test_sets_in_folders_called_like_lists_are_these_lists(tmp_path: Path) -> None:
    for name, seed in (("train", 1), ("valid", 2), ("test", 3)):
        home = miniature.voc(tmp_path / name, lists={"train": 2}, seed=seed)
        shutil.rmtree(home / "ImageSets")
    records, _ = read(tmp_path)
    assert Counter(record.split for record in records.values()) == {"train": 2, "val": 2, "test": 2}


LINES = {"with a suffix": "{}.jpg", "with a flag": "{}  1", "of VoTT": "{}.jpg -1", "a path": "JPEGImages/{}.jpg"}


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("name", ["{}.txt", "cat_{}.txt", "{}ing.txt"])
def test_lists_as_other_tools_write_them(tmp_path: Path, line: str, name: str) -> None:
    home = miniature.voc(tmp_path, lists={"train": 3, "test": 2})
    lists = home / "ImageSets/Main"
    entries = {part: (lists / f"{part}.txt").read_text().split() for part in ("train", "test")}
    shutil.rmtree(lists)
    lists.mkdir()
    for part, images in entries.items():
        text = "".join(LINES[line].format(image) + "\n" for image in images)
        (lists / name.format(part)).write_bytes(text.encode("utf-16"))
    records, broken = read(home)
    assert not broken
    assert Counter(record.split for record in records.values()) == {"train": 3, "test": 2}


@pytest.mark.parametrize("encoding", ["gb2312", "shift_jis", "utf-16", "iso-8859-1", "utf-8", "cp1252"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    label = "\u7ec6\u80de" if encoding == "gb2312" else "\u7d30\u80de" if encoding == "shift_jis" else "señal"
    xml = f'<?xml version="1.0" encoding="{encoding}"?>' + miniature.voc_xml((label, (1, 1, 9, 9)))
    miniature.voc(tmp_path, lists={"train": 1})
    (tmp_path / "Annotations/00000_000000.xml").write_bytes(xml.encode(encoding))
    records, broken = read(tmp_path)
    assert not broken and records["00000_000000"].objects[0].label == label


@pytest.mark.parametrize(
    ("corners", "box"),
    [
        ((0, 0, 63, 63), (0, 0, 64, 64)),  # from 0, the last pixel inclusive
        ((0, 0, 64, 64), (0, 0, 64, 64)),  # from 0, exclusive: it ends at the width
        ((1, 1, 64, 64), (0, 0, 64, 64)),  # from 1, as VOC's own
    ],
)
def test_corners_that_count_from_0_are_recognised(
    tmp_path: Path, corners: tuple[float, float, float, float], box: tuple[float, ...]
) -> None:
    home = miniature.voc(tmp_path, lists={"train": 4})
    for file in (home / "Annotations").iterdir():
        file.write_text(miniature.voc_xml(("cat", corners)))
    items = list(voc.read(home, ()))
    assert {item.objects[0].box for item in items if isinstance(item, Record)} == {box}
    notes = [item.text for item in items if isinstance(item, Note)]
    assert bool(notes) == (corners[0] == 0) and all("count from 0" in text for text in notes)


def test_a_stray_0_does_not_make_a_set_count_from_0(tmp_path: Path) -> None:
    home = miniature.voc(tmp_path, lists={"train": 4})
    for number, file in enumerate(sorted((home / "Annotations").iterdir())):
        file.write_text(miniature.voc_xml(("cat", (0 if number == 0 else 1, 1, 64, 64))))
    records, _ = read(home)
    assert {record.objects[0].box[2] for record in records.values()} == {64}


def test_files_of_macos_are_not_annotations(tmp_path: Path) -> None:
    home = miniature.voc(tmp_path, lists={"train": 2})
    shutil.rmtree(home / "ImageSets")
    (home / "Annotations/._00000_000000.xml").write_bytes(b"\0\5\x16\7")
    records, broken = read(home)
    assert len(records) == 2 and not broken


def test_the_name_in_the_annotation_decides_between_two_images(tmp_path: Path) -> None:
    home = miniature.voc(tmp_path, lists={"train": 1})
    image = home / "JPEGImages/00000_000000.jpg"
    image.with_suffix(".png").write_bytes(image.read_bytes())
    file = home / "Annotations/00000_000000.xml"
    assert read(home)[0]["00000_000000"].problem.startswith("several files")
    file.write_text(file.read_text().replace("<folder>", "<filename>00000_000000.png</filename><folder>"))
    assert read(home)[0]["00000_000000"].path.endswith(".png")


def test_xml_beside_the_images_is_refused_with_what_is_expected(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train/1.xml").write_text(miniature.voc_xml(("cat", (1, 1, 9, 9))))
    (tmp_path / "train/1.jpg").write_bytes(miniature.photograph(1))
    with pytest.raises(UserError, match=r"expected the folders Annotations and JPEG.*1 XML file.* such as train/1.xml"):
        read(tmp_path)


def test_another_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no dataset in VOC's layout: expected the folders Annotations and JPEG"):
        read(tmp_path)


def test_any_folder_in_this_layout(workplace: Path, params: Callable[..., Any], run: Run) -> None:
    miniature.voc(workplace / "mine")  # below root, which the fixture sets to the workplace
    rows, summary, images_of = run("voc", {})
    assert Counter(row.label for row in rows) == {"cat": 5, "dog": 4}
    assert summary["lists"] == {part: len(images) for part, images in images_of.items()} == miniature.VOC_LISTS
    assert summary["objects"]["train"] == {label: {"objects": 4, "difficult": 2} for label in ("cat", "dog")}


def official(home: Path, year: int, parts: dict[str, int], name: str) -> Path:
    miniature.voc(
        home / name / f"VOCdevkit/VOC{year}",
        lists=parts,
        classes=["cat", "dog"],
        seed=10 * year + 5 * ("test" in parts),
    )
    return miniature.tar(home / f"{name}.tar", home / name / "VOCdevkit")


def test_voc2007_joins_its_two_archives(workplace: Path, run: Run) -> None:
    archives = {
        "trainval": official(workplace / "x", 2007, {"train": 4, "val": 3}, "VOCtrainval"),
        "test": official(workplace / "x", 2007, {"test": 2}, "VOCtest"),
    }
    rows, summary, images_of = run("voc2007", archives)
    assert {part: len(images) for part, images in images_of.items()} == {"train": 4, "val": 3, "test": 2}
    assert rows[0].path.startswith("VOCtest.tar/VOCdevkit/VOC2007/JPEGImages/")
    assert summary["broken_annotations"] == []


def test_the_val_list_of_voc2012_is_its_test(workplace: Path, run: Run) -> None:
    rows, _, images_of = run(
        "voc2012", {"trainval": official(workplace / "x", 2012, {"train": 8, "val": 3}, "VOCtrainval")}
    )
    assert set(images_of["test"]) == {row.sha256 for row in rows if row.split == "val"}
    assert [len(images_of[part]) for part in splits.SPLITS] == [6, 2, 3]


def test_an_image_of_the_test_of_2007_leaves_the_train_of_2012(workplace: Path, run: Run) -> None:
    home = workplace / "x"
    archives = {
        "trainval2007": official(home, 2007, {"train": 2, "val": 2}, "trainval2007"),
        "test2007": official(home, 2007, {"test": 2}, "test2007"),
    }
    leaked = home / "test2007/VOCdevkit/VOC2007/JPEGImages/20075_000000.jpg"
    official(home, 2012, {"train": 3, "val": 2}, "trainval2012")
    target = home / "trainval2012/VOCdevkit/VOC2012"
    (target / "JPEGImages/20120_000001.jpg").write_bytes(leaked.read_bytes())
    archives["trainval2012"] = miniature.tar(home / "trainval2012.tar", home / "trainval2012/VOCdevkit")
    _, summary, images_of = run("voc0712", archives)
    assert {part: len(images) for part, images in images_of.items()} == {"train": 4, "val": 4, "test": 2}
    assert summary["duplicates"] == [
        {
            "path": "trainval2012.tar/VOCdevkit/VOC2012/JPEGImages/20120_000001.jpg",
            "of": "test2007.tar/VOCdevkit/VOC2007/JPEGImages/20075_000000.jpg",
            "lists": "train, test",
        }
    ]


def test_strict_stops_a_run(workplace: Path, run: Run) -> None:
    home = miniature.voc(workplace / "mine")
    (home / "Annotations/00000_000000.xml").write_text("<annotation>")
    with pytest.raises(UserError, match=r"1 annotation is broken.*\n  mine/Annotations/00000_000000.xml: malformed"):
        run("voc", {}, strict=True)
    assert len(run("voc", {}, strict=False)[1]["broken_annotations"]) == 1


def test_bccd_has_its_lists_and_boxes(tmp_path: Path) -> None:
    archive = DATA / "bccd.zip"
    if not archive.is_file():
        pytest.skip("bccd.zip is not at hand: set COLDCUT_TEST_DATA to its folder")
    unpack(archive, tmp_path / "images")
    items = list(voc.read(tmp_path / "images", bccd.CLASSES))
    records = [item for item in items if isinstance(item, Record)]
    assert len(records) == len(items)
    assert Counter(record.split for record in records) == {"train": 205, "val": 87, "test": 72}
    assert sum(len(record.objects) for record in records) == 4_888
    assert annotations.counts(records)["train"]["WBC"] == {"objects": 214, "difficult": 0}
