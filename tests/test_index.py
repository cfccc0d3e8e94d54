"""The index: every file in exactly one list, and a message where the data cannot be what was meant."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from stages import index, paths
from stages.datasets import folder, index_file
from stages.datasets.base import AnnotationFault, Box, DatasetOptions, Item, Record
from stages.errors import UserError

Make = Callable[..., Any]


@pytest.fixture
def indexed(workplace: Path, params: Make) -> Make:
    """`indexed(folder, max_fraction)`: the rows and the summary."""

    def make(folder: Path, max_fraction: float = 0.5) -> tuple[list[index_file.IndexRow], dict[str, Any]]:
        index.main(params(dataset="folder", root=str(folder), bad_images={"max_fraction": max_fraction}))
        return index_file.read("folder"), json.loads(paths.index("folder").with_suffix(".json").read_text())

    return make


def test_every_file_is_in_one_list(class_folder: Make, indexed: Make) -> None:
    folder = class_folder(2)
    (folder / "ant/z copy.jpg").write_bytes((folder / "ant/000.jpg").read_bytes())
    (folder / "bee/broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    (folder / "bee/empty.jpg").touch()
    (folder / "cat/note.txt").write_text("text")
    rows, summary = indexed(folder)
    assert [row.path for row in rows] == [f"{label}/00{n}.jpg" for label in ("ant", "bee", "cat") for n in (0, 1)]
    assert summary["duplicates"] == [{"path": "ant/z copy.jpg", "of": "ant/000.jpg"}]
    assert [bad["path"] for bad in summary["bad"]] == ["bee/broken.jpg"]
    assert summary["bad"][0]["reason"]
    assert sorted(summary["not_images"]) == ["bee/empty.jpg", "cat/note.txt"]
    assert (summary["files"], summary["used"]) == (10, 6)
    listed = len(summary["duplicates"]) + len(summary["bad"]) + len(summary["not_images"])
    assert summary["files"] == summary["used"] + listed
    assert summary["classes"] == {"ant": 2, "bee": 2, "cat": 2}


def test_a_row_says_what_the_bytes_say(class_folder: Make, indexed: Make) -> None:
    folder = class_folder(2)
    rows, _ = indexed(folder)
    row = rows[1]
    assert row.sha256 == hashlib.sha256((folder / "ant/001.jpg").read_bytes()).hexdigest()
    assert (row.path, row.width, row.height, row.label, row.objects, row.split) == (
        "ant/001.jpg", 48, 48, "ant", (), None,
    )  # fmt: skip


def test_the_same_bytes_twice(class_folder: Make, indexed: Make) -> None:
    folder = class_folder(2)
    indexed(folder)
    before = paths.index("folder").read_bytes()
    indexed(folder)
    assert paths.index("folder").read_bytes() == before


def test_names_with_all_kinds_of_characters(class_folder: Make, indexed: Make) -> None:
    folder = class_folder(1)
    name = 'ant/ü "x" , {0}\u2028\x85.jpg'
    (folder / "ant/000.jpg").rename(folder / name)
    rows, _ = indexed(folder)
    assert name in [row.path for row in rows]


def test_a_name_that_is_not_utf_8_is_bad(class_folder: Make, indexed: Make) -> None:
    folder = class_folder(2)
    (folder / os.fsdecode(b"ant/\xe9.jpg")).write_bytes((folder / "ant/000.jpg").read_bytes()[:-1] + b"\0")
    rows, summary = indexed(folder)
    assert len(rows) == 6
    assert [bad["reason"] for bad in summary["bad"]] == ["its name is not UTF-8"]


def test_litter_of_windows_and_mac_is_not_an_image(class_folder: Make, indexed: Make) -> None:
    folder = class_folder(2)
    litter = [f"{label}/{name}" for label in ("ant", "bee") for name in ("Thumbs.db", ".DS_Store", "._000.jpg")]
    for name in litter:
        (folder / name).write_bytes(b"\0\5\x16\7" + bytes(40))
    rows, summary = indexed(folder)
    assert len(rows) == 6 and sorted(summary["not_images"]) == sorted(litter)


def test_classes_are_in_the_order_people_count_in(workplace: Path, jpeg: Make, indexed: Make) -> None:
    labels = ["c1", "c2", "c10", "C1", "1", "01", "nan"]
    for number, label in enumerate(labels):
        (workplace / "photos" / label).mkdir(parents=True)
        (workplace / "photos" / label / "0.jpg").write_bytes(jpeg(number))
    _, summary = indexed(workplace / "photos")
    assert list(summary["classes"]) == ["01", "1", "C1", "c1", "c2", "c10", "nan"]


def test_an_empty_folder(workplace: Path, indexed: Make) -> None:
    (workplace / "empty").mkdir()
    with pytest.raises(UserError, match=rf"No image was found in {workplace}/empty"):
        indexed(workplace / "empty")


def test_a_folder_without_images(workplace: Path, indexed: Make) -> None:
    (workplace / "notes/a").mkdir(parents=True)
    (workplace / "notes/a/x.txt").write_text("x")
    with pytest.raises(UserError, match="No image was found"):
        indexed(workplace / "notes")


def test_a_class_for_its_dataset(class_folder: Make, indexed: Make) -> None:
    photos = class_folder(2)
    with pytest.raises(UserError, match=f"give the folder above it: root={photos}"):
        indexed(photos / "ant")


def test_one_class(class_folder: Make, indexed: Make) -> None:
    folder = class_folder(2)
    for label in ("bee", "cat"):
        for path in (folder / label).iterdir():
            path.unlink()
    with pytest.raises(UserError, match=r"holds one class \('ant'\): a classifier needs two"):
        indexed(folder)


@pytest.mark.parametrize(("limit", "refused"), [(0.24, True), (0.25, False)])
def test_the_share_of_bad_images(class_folder: Make, indexed: Make, limit: float, refused: bool) -> None:
    folder = class_folder(4)
    for number in range(4):
        (folder / f"bee/broken {number}.jpg").write_bytes(b"\xff\xd8\xff")
    if refused:
        with pytest.raises(UserError, match=r"(?s)4 of 16 images cannot be read.*bee/broken 0.jpg"):
            indexed(folder, limit)
    else:
        assert len(indexed(folder, limit)[0]) == 12


@pytest.mark.parametrize("first", ["test", "val"])
def test_duplicates_across_official_splits_stay_in_the_first(class_folder: Make, indexed: Make, first: str) -> None:
    folder = class_folder(2)
    root = folder.parent / "official"
    (root / "train").mkdir(parents=True)
    for label in ("ant", "bee", "cat"):
        (folder / label).rename(root / "train" / label)
    twins = ["test", "val"] if first == "test" else ["val"]
    for split in twins:
        (root / split / "ant").mkdir(parents=True)
        (root / split / "ant/twin.jpg").write_bytes((root / "train/ant/000.jpg").read_bytes())
    rows, summary = indexed(root)
    assert {row.path: row.split for row in rows if row.label == "ant"} == {
        f"{first}/ant/twin.jpg": first,
        "train/ant/001.jpg": "train",
    }
    assert {pair["of"] for pair in summary["duplicates"]} == {f"{first}/ant/twin.jpg"}
    assert "train/ant/000.jpg" in {pair["path"] for pair in summary["duplicates"]}


def test_an_index_that_is_not_whole(workplace: Path) -> None:
    with pytest.raises(UserError, match=r"data/index/toy.jsonl cannot be read .*verify --repair`"):
        index_file.read("toy")
    paths.index("toy").parent.mkdir(parents=True)
    paths.index("toy").write_text('{"path": "a"')
    with pytest.raises(UserError, match="cannot be read"):
        index_file.read("toy")


@pytest.fixture
def scanned(workplace: Path, params: Make, jpeg: Make, monkeypatch: pytest.MonkeyPatch) -> Make:
    """`scanned(*items, strict=False)`: what index makes of these, with images a.jpg to d.jpg of 48 x 40 pixels."""
    for seed, name in enumerate("abcd"):
        (workplace / f"{name}.jpg").write_bytes(jpeg(seed))
    (workplace / "again.jpg").write_bytes(jpeg(0))
    chosen = params(dataset="folder", bad_images={"max_fraction": 0.5})

    def make(
        *items: Item, strict: bool = False, exclude: Sequence[str] = ()
    ) -> tuple[dict[str, index_file.IndexRow], dict[str, Any]]:
        monkeypatch.setattr(folder, "scan", lambda *_: iter(items))
        datasets = chosen.datasets.model_copy(update={"folder": Choices(strict=strict, exclude=list(exclude))})
        index.main(chosen.model_copy(update={"datasets": datasets}))
        rows = {row.path: row for row in index_file.read("folder")}
        return rows, json.loads(paths.index("folder").with_suffix(".json").read_text())

    return make


class Choices(DatasetOptions):
    """A dataset's block without anything of its own."""


def test_a_label_is_that_of_the_largest_object(scanned: Make) -> None:
    small, large = Box("ant", (1, 1, 5, 5)), Box("bee", (5, 5, 20, 20), truncated=True)
    rows, summary = scanned(
        Record("a.jpg", None, (small, large)),
        Record("b.jpg", None, (small, replace(large, difficult=True))),
        Record("c.jpg", None),
        Record("d.jpg", "named", (large,)),
    )
    assert [rows[f"{name}.jpg"].label for name in "abcd"] == ["bee", "ant", "", "named"]
    assert rows["a.jpg"].objects == (small, large)
    assert summary["classes"] == {"ant": 1, "bee": 1, "named": 1}
    assert summary["objects"] == {"all": {"ant": {"objects": 2, "difficult": 0}, "bee": {"objects": 3, "difficult": 1}}}


def test_broken_boxes_are_left_out_and_listed(scanned: Make) -> None:
    boxes = [(1, 1, 1, 9), (50, 0, 60, 9), (40, 30, 60, 39), (-0.4, 0, 9, 40.4), (9, 9, 8, 20)]
    objects = tuple(Box("ant", box) for box in boxes)
    rows, summary = scanned(
        Record("a.jpg", None, objects, annotation="a.xml", size=(48, 41)),
        Record("b.jpg", None, annotation="b.xml"),
        Record("lost.jpg", None, annotation="lost.xml"),
        AnnotationFault("bad.xml", "no XML"),
    )
    assert [box.box for box in rows["a.jpg"].objects] == [(40, 30, 48, 39), (0, 0, 9, 40)]
    assert [(item["path"], item["reason"]) for item in summary["broken_annotations"]] == [
        ("bad.xml", "no XML"),
        ("lost.xml", "lost.jpg: No such file or directory"),
        ("a.xml", "a.jpg: annotated as 48 x 41 pixels, it has 48 x 40: the image has another size"),
        ("a.xml", "a.jpg: ant at 1, 1, 1, 9: the box is empty"),
        ("a.xml", "a.jpg: ant at 50, 0, 60, 9: the box lies outside of its image"),
        ("a.xml", "a.jpg: ant at 40, 30, 60, 39, the image has 48 x 40: the box goes beyond its image: clipped"),
        ("a.xml", "a.jpg: ant at 9, 9, 8, 20: the box is empty"),
    ]


@pytest.mark.parametrize("path", ["../secret.jpg", "/etc/secret.jpg", "a/../../secret.jpg"])
def test_an_annotation_cannot_reach_outside(scanned: Make, path: str) -> None:
    rows, summary = scanned(Record("a.jpg", "ant"), Record("b.jpg", "bee"), Record(path, None, annotation="x.json"))
    assert set(rows) == {"a.jpg", "b.jpg"}
    assert summary["bad"] == [{"path": path, "reason": "it would lie outside of the folder of the images"}]


def test_strict_stops_at_broken_annotations(scanned: Make) -> None:
    with pytest.raises(UserError, match=r"7 annotations are broken.*\n  0.xml: bad(\n.*){4}$"):
        scanned(Record("a.jpg", None), *(AnnotationFault(f"{number}.xml", "bad") for number in range(7)), strict=True)
    assert not paths.index("folder").exists()


def test_one_class_of_objects_is_enough(scanned: Make) -> None:
    rows, _ = scanned(Record("a.jpg", None, (Box("face", (1, 1, 9, 9)),)), Record("b.jpg", "face"))
    assert len(rows) == 2


def test_an_image_of_test_is_dropped_from_train_and_told(scanned: Make) -> None:
    ant, bee = (Box(label, (1, 1, 9, 9)) for label in ("ant", "bee"))
    rows, summary = scanned(
        Record("a.jpg", None, (ant,), "train"), Record("again.jpg", None, (bee,), "test"), Record("b.jpg", None, (bee,))
    )
    assert {path: row.split for path, row in rows.items()} == {"again.jpg": "test", "b.jpg": None}
    assert summary["duplicates"] == [{"path": "a.jpg", "of": "again.jpg", "lists": "train, test"}]
    assert summary["lists"] == {"test": 1}


@given(
    flags=st.tuples(*[st.booleans()] * 4),
    box=st.tuples(*[st.floats(0, 49, width=16)] * 2, *[st.floats(50, 99, width=16)] * 2),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
def test_an_index_gives_back_what_was_written(workplace: Path, flags: Any, box: Any) -> None:
    row = index_file.IndexRow("a.jpg", "0" * 64, 48, 40, "", (Box("ant", box, *flags), Box("bee", box)), "val")
    index_file.write(paths.index("toy"), [row])
    assert index_file.read("toy") == [row]


def test_an_index_without_flags_still_reads(workplace: Path) -> None:
    line = {"path": "a", "sha256": "0", "width": 9, "height": 9, "label": "ant", "split": None}
    paths.index("toy").parent.mkdir(parents=True)
    paths.index("toy").write_text(json.dumps(line | {"objects": [{"label": "ant", "box": [1, 2, 3, 4]}]}) + "\n")
    assert index_file.read("toy")[0].objects == (Box("ant", (1, 2, 3, 4)),)


def test_formats_that_exist_are_used_or_named_and_scaling_is_told(class_folder: Make, indexed: Make) -> None:
    folder = class_folder(2)
    grey = np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8)
    Image.fromarray(grey).save(folder / "ant/a.avif")
    Image.fromarray(grey).save(folder / "ant/b.jp2")
    Image.fromarray(grey).save(folder / "ant/big.tif", big_tiff=True)
    Image.fromarray((grey / 255).astype(np.float32)).save(folder / "bee/float.tif")
    (folder / "bee/drawing.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (folder / "cat/x.jxl").write_bytes(b"\xff\x0a" + bytes(20))
    (folder / "cat/list.txt").write_text("BMW, Audi")
    rows, summary = indexed(folder)
    assert {"ant/a.avif", "ant/b.jp2", "ant/big.tif", "bee/float.tif"} <= {row.path for row in rows}
    assert {bad["path"]: bad["reason"].partition(" files are not read")[0] for bad in summary["bad"]} == {
        "bee/drawing.svg": "SVG", "cat/x.jxl": "JPEG XL",
    }  # fmt: skip
    assert summary["not_images"] == ["cat/list.txt"]
    assert summary["scaled"] == [{"path": "bee/float.tif", "scaling": "floats, 0 to 1"}]
    assert [row.path for row in rows if row.scaled] == ["bee/float.tif"]
    lines = paths.index("folder").read_text().splitlines()
    assert sum('"scaled"' in line for line in lines) == 1  # ordinary lines stay as they were


def test_a_photograph_that_was_cut_short_is_told_while_it_is_indexed(class_folder: Make, indexed: Make) -> None:
    folder = class_folder(3)
    path = folder / "ant/000.jpg"
    path.write_bytes(path.read_bytes()[:-120])
    rows, summary = indexed(folder, max_fraction=0.01)
    assert len(rows) == 8 and "truncated" in summary["bad"][0]["reason"]
