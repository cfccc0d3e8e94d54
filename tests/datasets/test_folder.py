"""A user's own folder: class/image, or official splits on top."""

from pathlib import Path

import pytest

from stages.datasets import folder
from stages.datasets.base import Record
from stages.errors import UserError


def scanned(root: Path, *files: str) -> list[Record]:
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return list(folder.scan(root, folder.Options()))


def test_every_file_below_a_class_in_path_order(tmp_path: Path) -> None:
    found = scanned(tmp_path, "b/2.jpg", "b/1.jpg", "a c/x/y/3.png", "a c/note.txt", "ü/ä.jpg")
    assert [(record.path, record.label) for record in found] == [
        ("a c/note.txt", "a c"),
        ("a c/x/y/3.png", "a c"),
        ("b/1.jpg", "b"),
        ("b/2.jpg", "b"),
        ("ü/ä.jpg", "ü"),
    ]
    assert all(record.split is None and record.objects == () for record in found)


def test_files_at_the_top_and_hidden_folders_are_passed_over(tmp_path: Path) -> None:
    found = scanned(tmp_path, "top.jpg", ".git/x.jpg", "a/.thumbnails/x.jpg", "a/1.jpg")
    assert [record.path for record in found] == ["a/1.jpg"]


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_official_splits_on_top(tmp_path: Path, val: str) -> None:
    found = scanned(tmp_path, "train/a/1.jpg", "train/b/2.jpg", f"{val}/a/3.jpg", "test/b/deep/4.jpg", "train/5.jpg")
    assert {(record.path, record.label, record.split) for record in found} == {
        ("train/a/1.jpg", "a", "train"),
        ("train/b/2.jpg", "b", "train"),
        (f"{val}/a/3.jpg", "a", "val"),
        ("test/b/deep/4.jpg", "b", "test"),
    }


@pytest.mark.parametrize("tops", [("train", "bus"), ("test", "val")])
def test_a_class_may_be_called_train(tmp_path: Path, tops: tuple[str, str]) -> None:
    found = scanned(tmp_path, *(f"{top}/x/1.jpg" for top in tops))
    assert {(record.label, record.split) for record in found} == {(top, None) for top in tops}


def test_an_empty_folder(tmp_path: Path) -> None:
    assert scanned(tmp_path) == []


def test_the_folder_is_only_read(tmp_path: Path) -> None:
    scanned(tmp_path, "a/1.jpg")
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["a", "a/1.jpg"]


def test_lists_are_known_in_any_case_and_refused_beside_other_folders(tmp_path: Path) -> None:
    found = scanned(tmp_path, "Train/a/1.jpg", "Test/a/2.jpg")
    assert {(record.label, record.split) for record in found} == {("a", "train"), ("a", "test")}
    with pytest.raises(UserError, match="holds test, train, which are lists, beside extra, which are not"):
        scanned(tmp_path, "extra/3.jpg")


def test_links_to_class_folders_are_followed_once(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    scanned(root, "a/1.jpg")
    scanned(elsewhere, "2.jpg")
    (root / "b").symlink_to(elsewhere)
    (root / "a" / "loop").symlink_to(root)
    assert [record.path for record in scanned(root)] == ["a/1.jpg", "b/2.jpg"]
