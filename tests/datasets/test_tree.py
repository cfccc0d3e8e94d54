"""The files below a folder: what is skipped, excluded, linked and empty."""

from pathlib import Path

import pytest

from stages.datasets import tree


def written(root: Path, *files: str) -> Path:
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_hidden_folders_and_those_of_macos_are_skipped_and_the_order_is_that_of_parts(tmp_path: Path) -> None:
    written(tmp_path, "a b/1.jpg", "a/2.jpg", "a.jpg", ".git/x", "a/.cache/x", "__MACOSX/a/._2.jpg", "a/._2.jpg")
    (tmp_path / "b/c").mkdir(parents=True)
    files = tree.read(tmp_path)
    assert files.files == ["a/._2.jpg", "a/2.jpg", "a b/1.jpg", "a.jpg"]
    assert files.empty == ["b/c"]


def test_excluded_files_are_apart(tmp_path: Path) -> None:
    files = tree.read(written(tmp_path, "cat/1.jpg", "cat/1.png", "dog/1.jpg"), ["*.png", "dog"])
    assert (files.files, files.excluded) == (["cat/1.jpg"], ["cat/1.png", "dog/1.jpg"])


def test_links_are_followed_once_and_named(tmp_path: Path) -> None:
    root, other = written(tmp_path / "root", "a/1.jpg"), written(tmp_path / "other", "2.jpg")
    (root / "b").symlink_to(other)
    (root / "a/loop").symlink_to(root)
    files = tree.read(root)
    assert files.files == ["a/1.jpg", "b/2.jpg"]
    assert files.links == ["a/loop", "b"]


@pytest.mark.parametrize(
    ("pattern", "path", "is_meant"),
    [
        ("cat", "cat/1.jpg", True), ("cat/", "cat/1.jpg", True), ("cat", "train/cat/1.jpg", True),
        ("cat/*.png", "cat/1.png", True), ("cat/*.png", "dog/1.png", False), ("*.png", "a/b/1.png", True),
        ("train/cat", "train/cat/1.jpg", True), ("train/cat", "val/cat/1.jpg", False), ("rare*", "rare01/1.jpg", True),
        ("*/masks", "cat/masks/1.png", True), ("ca", "cat/1.jpg", False), ("[x]", "[x]/1.jpg", True),
    ],
)  # fmt: skip
def test_what_a_pattern_names(pattern: str, path: str, is_meant: bool) -> None:
    assert tree.matches(pattern, path) is is_meant


def test_names_of_images() -> None:
    images = {"a/1.JPG", "1.heic", "1.avif", "x.y.tiff"}
    assert all(tree.named_as_image(name) for name in images)
    assert tree.may_be_image("a/img_001") and not tree.named_as_image("a/img_001")
    assert not any(tree.may_be_image(name) for name in ("a/._1.jpg", ".DS_Store", "Thumbs.db", "1.xml", "1.jpg.txt"))
