"""Several labels per image in the index: tables, the classes of objects, copies in several class folders."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages import index, paths
from stages.datasets import index_file
from stages.datasets.annotations import fit
from stages.datasets.base import Box, Record
from stages.datasets.multilabel import of_objects
from stages.errors import UserError

Make = Callable[..., Any]
Labels = dict[str, tuple[tuple[str, ...] | None, tuple[str, ...]]]


@pytest.fixture
def indexed(workplace: Path, params: Make, jpeg: Make) -> Make:
    """`indexed(table, …)`: the labels of the images a.jpg to d.jpg with this table, by path."""

    def make(table: str, images: str = "abcd", **knobs: Any) -> Labels:
        for number, name in enumerate(images):
            (workplace / f"{name}.jpg").write_bytes(jpeg(number))
        (workplace / "labels.csv").write_text(table)
        index.main(params(dataset="csv", root=str(workplace), **knobs))
        return {row.path: (row.labels, row.unknown_labels) for row in index_file.read("csv")}

    return make


def test_a_table_that_lists_several_labels_is_read_so(indexed: Make, capsys: pytest.CaptureFixture[str]) -> None:
    labels = indexed("path,label\na.jpg,dog|cat\nb.jpg,cat\nc.jpg,\nd.jpg,bee | cat |\n")
    assert labels == {
        "a.jpg": (("cat", "dog"), ()), "b.jpg": (("cat",), ()), "c.jpg": ((), ()), "d.jpg": (("bee", "cat"), ())
    }  # fmt: skip
    told = capsys.readouterr().out
    assert "separates several labels by '|'" in told and "(task: auto)" in told


def test_another_separator(indexed: Make) -> None:
    assert indexed("path,label\na.jpg,dog;cat\nb.jpg,cat\n", datasets={"csv": {"separator": ";"}})["a.jpg"][0] == (
        "cat",
        "dog",
    )


def test_one_label_is_refused_where_the_table_lists_several(indexed: Make) -> None:
    with pytest.raises(UserError, match=r"`task`: single takes one label.*datasets.csv.separator=''"):
        indexed("path,label\na.jpg,dog|cat\nb.jpg,cat\n", task="single")


def test_without_a_separator_it_belongs_to_the_name(indexed: Make) -> None:
    labels = indexed("path,label\na.jpg,dog|cat\nb.jpg,cat\n", datasets={"csv": {"separator": ""}})
    assert labels == {"a.jpg": (None, ()), "b.jpg": (None, ())}
    assert index_file.read("csv")[0].label == "dog|cat"


def test_columns_of_ones_and_zeros(indexed: Make) -> None:
    table = "path,cat,dog,note\na.jpg,1,0,x\nb.jpg,0,,y\nc.jpg,0,0,z\nd.jpg,true,1.0,\n"
    labels = indexed(table, datasets={"csv": {"labels": ["cat", "dog"]}})
    assert labels == {
        "a.jpg": (("cat",), ()), "b.jpg": ((), ("dog",)), "c.jpg": ((), ()), "d.jpg": (("cat", "dog"), ())
    }  # fmt: skip
    summary = json.loads(paths.index("csv").with_suffix(".json").read_text())
    assert summary["classes"] == {"cat": 2, "dog": 1} and summary["unknown_labels"] == {"dog": 1}


def test_a_cell_that_is_neither_is_a_fault(indexed: Make) -> None:
    labels = indexed("path,cat\na.jpg,1\nb.jpg,2\nc.jpg,0\n", "abc", datasets={"csv": {"labels": ["cat"]}})
    assert labels == {"a.jpg": (("cat",), ()), "c.jpg": ((), ())}
    summary = json.loads(paths.index("csv").with_suffix(".json").read_text())
    assert "must hold 1, 0 or nothing" in summary["broken_annotations"][0]["reason"]


def test_rows_that_contradict_each_other_leave_the_label_open(indexed: Make) -> None:
    labels = indexed(
        "path,cat,dog\na.jpg,1,\na.jpg,0,1\nb.jpg,1,0\n", "ab", datasets={"csv": {"labels": ["cat", "dog"]}}
    )
    assert labels["a.jpg"] == (("dog",), ("cat",))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("path,cat\na.jpg,1\n", r"has no column 'cats'; did you mean cat"),
        ("path,label,x1,y1,x2,y2,cats\na.jpg,ant,1,1,5,5,1\n", r"has boxes, and the classes"),
    ],
)
def test_columns_that_are_not_there_are_refused(indexed: Make, table: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        indexed(table, "a", datasets={"csv": {"labels": ["cats"]}})


def test_a_set_without_any_label_is_refused(indexed: Make) -> None:
    with pytest.raises(UserError, match=r"No image of .* has any label"):
        indexed("path,cat\na.jpg,0\nb.jpg,0\n", "ab", datasets={"csv": {"labels": ["cat"]}})


def test_rows_of_one_image_are_its_labels_if_several_are_wanted(indexed: Make) -> None:
    table = "path,label\na.jpg,cat\na.jpg,dog\nb.jpg,cat\nc.jpg,dog\n"
    assert "a.jpg" not in indexed(table, "abc")  # two classes: left out
    assert indexed(table, "abc", task="multi")["a.jpg"][0] == ("cat", "dog")


def test_copies_in_several_class_folders(workplace: Path, params: Make, class_folder: Make) -> None:
    photos = class_folder(3)
    (photos / "bee" / "copy.jpg").write_bytes((photos / "ant" / "000.jpg").read_bytes())
    index.main(params(dataset="folder", root=str(photos), task="multi"))
    rows = {row.path: row for row in index_file.read("folder")}
    assert rows["ant/000.jpg"].labels == ("ant", "bee") and rows["ant/000.jpg"].label == ""
    assert rows["cat/000.jpg"].labels == ("cat",) and "bee/copy.jpg" not in rows
    index.main(params(dataset="folder", root=str(photos)))
    assert all(row.labels is None and row.path != "ant/000.jpg" for row in index_file.read("folder"))


def test_excluded_labels_are_taken_out_of_the_lists(indexed: Make) -> None:
    labels = indexed("path,label\na.jpg,dog|cat\nb.jpg,cat\nc.jpg,dog\n", "abc", datasets={"csv": {"exclude": ["dog"]}})
    assert {path: present for path, (present, _) in labels.items()} == {
        "a.jpg": ("cat",),
        "b.jpg": ("cat",),
        "c.jpg": (),
    }


def test_a_correction_gives_an_image_another_list(indexed: Make, workplace: Path) -> None:
    path = paths.corrections("csv")
    path.parent.mkdir(parents=True)
    path.write_text("path,what,other,decision\na.jpg,missing label,,relabel:cat|bee\n")
    assert indexed("path,label\na.jpg,dog|cat\nb.jpg,cat\n", "ab")["a.jpg"][0] == ("bee", "cat")


def test_classes_present_by_the_rules_of_voc() -> None:
    corners = (0.0, 0.0, 4.0, 4.0)
    objects = (
        Box("cat", corners), Box("cat", (1.0, 1.0, 3.0, 3.0), difficult=True), Box("dog", corners, difficult=True),
        Box("cow", corners, crowd=True), Box("hen", corners, ignore=True), Box("ox", (3.0, 3.0, 3.0, 3.0)),
    )  # fmt: skip
    labels = of_objects(fit(Record("a.jpg", None, objects), (8, 8)))
    assert labels.present == ("cat",) and labels.unknown == ("dog", "cow", "hen", "ox")


def test_lists_survive_the_index_file(workplace: Path) -> None:
    rows = [
        index_file.IndexRow("a.jpg", "0" * 64, 4, 4, "", (), None, labels=(), unknown_labels=("x",)),
        index_file.IndexRow("b.jpg", "1" * 64, 4, 4, "", (), "train", labels=("x", "y")),
        index_file.IndexRow("c.jpg", "2" * 64, 4, 4, "x", (), None),
    ]
    index_file.write(paths.index("csv"), rows)
    assert index_file.read("csv") == rows
    assert [row.caption for row in rows] == ["none", "x, y", "x"]
