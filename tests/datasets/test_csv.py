"""A table of images: our columns and TensorFlow's, rows that cannot be meant, images without objects."""

import codecs
from collections.abc import Sequence
from pathlib import Path

import pytest

from stages.datasets import csv
from stages.datasets.base import AnnotationFault, Box, Note, Record, UnusedFile
from stages.errors import UserError

OURS = "path,label,x1,y1,x2,y2\n"
TENSORFLOW = "filename,width,height,class,xmin,ymin,xmax,ymax\n"


def scanned(root: Path, table: str | bytes, images: Sequence[str] = ("a.jpg", "b.jpg")) -> list[object]:
    for name in images:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (root / "t.csv").write_bytes(table if isinstance(table, bytes) else table.encode())
    return list(csv.scan(root, csv.Options(file="t.csv", separator="|", labels=[], exclude=[], strict=False)))


def records(items: Sequence[object]) -> list[Record]:
    return [item for item in items if isinstance(item, Record)]


def test_labels_and_lists(tmp_path: Path) -> None:
    records_read = records(scanned(tmp_path, "path,label,split,more\na.jpg,ant,train,x\nb.jpg,bee,Valid,y\n"))
    assert [(record.path, record.label, record.split) for record in records_read] == [
        ("a.jpg", "ant", "train"),
        ("b.jpg", "bee", "val"),
    ]


def test_a_row_is_an_object_and_one_without_corners_an_image_without(tmp_path: Path) -> None:
    records_read = records(scanned(tmp_path, f"{OURS}a.jpg,ant,1,2,3,4\na.jpg,bee,5,6,7,8.5\nb.jpg,,,,,\n"))
    assert records_read[0].objects == (Box("ant", (1, 2, 3, 4)), Box("bee", (5, 6, 7, 8.5)))
    assert (records_read[1].path, records_read[1].label, records_read[1].objects) == ("b.jpg", None, ())


@pytest.mark.parametrize(
    ("corners", "box"),
    [
        ("1,1,40,30", (0, 0, 40, 30)),  # from 1, as VOC's
        ("0,0,39,29", (0, 0, 40, 30)),  # from 0, the last pixel inclusive
        ("0,0,40,30", (0, 0, 40, 30)),  # from 0, exclusive: it ends at the width
    ],
)
def test_columns_of_tensorflow(tmp_path: Path, corners: str, box: tuple[float, ...]) -> None:
    items = scanned(tmp_path, f"{TENSORFLOW}a.jpg,40,30,ant,{corners}\n", ["images/a.jpg"])
    assert records(items) == [Record("images/a.jpg", None, (Box("ant", box),), None, "t.csv", (40, 30))]  # type: ignore[arg-type]
    assert any(isinstance(item, Note) and "TensorFlow" in item.text for item in items)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_what_spreadsheets_write(tmp_path: Path, encoding: str, delimiter: str) -> None:
    text = "path,label\r\na.jpg,fourmi à pattes\r\n".replace(",", delimiter)
    assert records(scanned(tmp_path, text.encode(encoding)))[0].label == "fourmi à pattes"
    assert encoding != "utf-16" or text.encode(encoding)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


FAULTS = {
    ",ant,1,2,3,4": "line 2: `path` is empty",
    "a.jpg,,1,2,3,4": "line 2: `label` is empty",
    "a.jpg,ant,1,2,3,x": "line 2 (a.jpg) has 1, 2, 3, x: corners must be four numbers",
    "a.jpg,ant,1,2,3,": "line 2 (a.jpg) has 1, 2, 3, : corners must be four numbers",
}


@pytest.mark.parametrize("row", FAULTS)
def test_a_row_that_cannot_be_meant_leaves_the_others(tmp_path: Path, row: str) -> None:
    items = scanned(tmp_path, f"{OURS}{row}\nb.jpg,bee,1,2,3,4\n")
    (fault,) = [item for item in items if isinstance(item, AnnotationFault)]
    assert (fault.reason, fault.objects) == (FAULTS[row], 1)
    assert [record.path for record in records(items)] == ["b.jpg"]


def test_rows_of_one_image_that_contradict_each_other(tmp_path: Path) -> None:
    items = scanned(tmp_path, "path,label,split\na.jpg,ant,train\na.jpg,bee,test\n./a.jpg,ant,test\n")
    assert {(record.path, record.label, record.split) for record in records(items)} == {
        ("a.jpg", "ant", "test"),
        ("a.jpg", "bee", "test"),
    }
    (fault,) = [item for item in items if isinstance(item, AnnotationFault)]
    assert "in several lists" in fault.kind and fault.detail == "a.jpg, lines 2, 3, 4"
    assert UnusedFile("b.jpg", "no row names it") in items


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("name,label\n", r"lacks the column path: found name, label. Expected path, label .* or filename, class"),
        ("path,label,x1\n", "lacks the column all of x1, y1, x2, y2"),
        ("", "lacks the column path, label: found none"),
        (b"path,label\n\xff\xfe\xfa", "cannot be read"),
        (b"path,label\n" + b"x" * 200_000 + b",a", "cannot be read: field larger than field limit"),
        ("version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer, not the file itself: run `git lfs pull`"),
    ],
)
def test_another_table(tmp_path: Path, table: str | bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        scanned(tmp_path, table)


@pytest.mark.parametrize("columns", ["xmin,ymin,xmaxx,ymax", "x,y,w,h", "xmin,ymin,xmax,ymax"])
def test_box_columns_of_other_names_are_not_passed_over(tmp_path: Path, columns: str) -> None:
    with pytest.raises(UserError, match="lacks the column all of x1, y1, x2, y2: found path, label, x"):
        scanned(tmp_path, f"path,label,{columns}\na.jpg,ant,1,2,3,4\n")


def test_corners_in_shares_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"shares of the width and height\. Expected pixels"):
        scanned(tmp_path, f"{OURS}a.jpg,ant,0.1,0.1,0.8,1\nb.jpg,ant,0,0.2,0.5,0.7\n")


def test_a_table_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("path,label\n")
    with pytest.raises(
        UserError, match=r"there is no table .*labels.csv; tables below root.*-S datasets.csv.file=train.csv"
    ):
        list(csv.scan(tmp_path, csv.Options(file="labels.csv", separator="|", labels=[], exclude=[], strict=False)))


def test_a_column_says_which_images_belong_together(tmp_path: Path) -> None:
    records_read = records(scanned(tmp_path, "path,label,group\na.jpg,ant,p1\nb.jpg,bee,\n"))
    assert {record.path: record.group for record in records_read} == {"a.jpg": "p1", "b.jpg": None}


def test_an_empty_label_in_a_table_without_boxes_is_an_image_without_a_label(tmp_path: Path) -> None:
    items = scanned(tmp_path, "path,label\na.jpg,ant\nb.jpg, \n")
    assert [(record.path, record.label) for record in records(items)] == [("a.jpg", "ant"), ("b.jpg", "")]
    items = scanned(tmp_path, "path,label\na.jpg,ant\na.jpg,\n")
    assert [(record.path, record.label) for record in records(items)] == [("a.jpg", "ant")]
    assert not any(isinstance(item, AnnotationFault) for item in items)
