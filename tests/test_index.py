"""The index: every file in exactly one list, and a message where the data cannot be what was meant."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages import index, paths
from stages.datasets import listing
from stages.errors import UserError

Make = Callable[..., Any]


@pytest.fixture
def indexed(workplace: Path, params: Make) -> Make:
    """`indexed(folder, max_fraction)`: the rows and the summary."""

    def make(folder: Path, max_fraction: float = 0.5) -> tuple[list[listing.Row], dict[str, Any]]:
        index.main(params(dataset="folder", root=str(folder), bad_images={"max_fraction": max_fraction}))
        return listing.read("folder"), json.loads(paths.index("folder").with_suffix(".json").read_text())

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


def test_one_image_under_two_labels_names_both(class_folder: Make, indexed: Make) -> None:
    folder = class_folder(2)
    (folder / "cat/same.jpg").write_bytes((folder / "ant/001.jpg").read_bytes())
    with pytest.raises(UserError, match=rf"{folder}/ant/001.jpg is 'ant' and {folder}/cat/same.jpg, .* is 'cat'"):
        indexed(folder)
    assert not paths.index("folder").exists()


def test_an_empty_folder(workplace: Path, indexed: Make) -> None:
    (workplace / "empty").mkdir()
    with pytest.raises(UserError, match=rf"No image was found in {workplace}/empty"):
        indexed(workplace / "empty")


def test_a_folder_without_images(workplace: Path, indexed: Make) -> None:
    (workplace / "notes/a").mkdir(parents=True)
    (workplace / "notes/a/x.txt").write_text("x")
    with pytest.raises(UserError, match="No image was found"):
        indexed(workplace / "notes")


def test_one_class(class_folder: Make, indexed: Make) -> None:
    folder = class_folder(2)
    for label in ("bee", "cat"):
        for path in (folder / label).iterdir():
            path.unlink()
    with pytest.raises(UserError, match=r"holds one class \('ant'\): a classifier needs two"):
        indexed(folder)


@pytest.mark.parametrize(("limit", "refused"), [(0.24, True), (0.25, False)])
def test_the_share_of_bad_images(class_folder: Make, indexed: Make, limit: float, refused: bool) -> None:
    folder = class_folder(1)
    (folder / "bee/broken.jpg").write_bytes(b"\xff\xd8\xff")
    if refused:
        with pytest.raises(
            UserError, match=r"1 of 4 images cannot be read.*\(0.24\) allows. The first: bee/broken.jpg"
        ):
            indexed(folder, limit)
    else:
        assert len(indexed(folder, limit)[0]) == 3


@pytest.mark.parametrize("kept", ["test", "val"])
def test_duplicates_across_official_splits_stay_in_the_first(class_folder: Make, indexed: Make, kept: str) -> None:
    folder = class_folder(2)
    root = folder.parent / "official"
    (root / "train").mkdir(parents=True)
    for label in ("ant", "bee", "cat"):
        (folder / label).rename(root / "train" / label)
    twins = ["test", "val"] if kept == "test" else ["val"]
    for split in twins:
        (root / split / "ant").mkdir(parents=True)
        (root / split / "ant/twin.jpg").write_bytes((root / "train/ant/000.jpg").read_bytes())
    rows, summary = indexed(root)
    assert {row.path: row.split for row in rows if row.label == "ant"} == {
        f"{kept}/ant/twin.jpg": kept,
        "train/ant/001.jpg": "train",
    }
    assert {pair["of"] for pair in summary["duplicates"]} == {f"{kept}/ant/twin.jpg"}
    assert "train/ant/000.jpg" in {pair["path"] for pair in summary["duplicates"]}


def test_an_index_that_is_not_whole(workplace: Path) -> None:
    with pytest.raises(UserError, match=r"data/index/toy.jsonl cannot be read .*`dvc repro -f index`"):
        listing.read("toy")
    paths.index("toy").parent.mkdir(parents=True)
    paths.index("toy").write_text('{"path": "a"')
    with pytest.raises(UserError, match="cannot be read"):
        listing.read("toy")
