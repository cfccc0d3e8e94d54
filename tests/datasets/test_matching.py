"""Names in annotations find the file that they mean, if exactly one fits."""

import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from stages.datasets.matching import MISSING, OUTSIDE, SEVERAL, ImageFinder, unmentioned

NFD = unicodedata.normalize("NFD", "señal.jpg")


def finder(root: Path, *files: str) -> ImageFinder:
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith((".xml", ".txt")):
            (root / name).write_text("text")
        else:
            Image.new("RGB", (4, 4)).save(root / name, "PNG")
    return ImageFinder(root, files)


@pytest.mark.parametrize(
    ("name", "files", "path"),
    [
        ("im.jpg", ["im.jpg", "old/im.jpg"], "im.jpg"),
        ("images\\im.jpg", ["images/im.jpg"], "images/im.jpg"),
        ("./images//im.jpg", ["images/im.jpg"], "images/im.jpg"),
        ("../images/im.jpg", ["images/im.jpg"], "images/im.jpg"),
        ("my%20im.jpg", ["my im.jpg"], "my im.jpg"),
        ("my%20im.jpg", ["my%20im.jpg", "my im.jpg"], "my%20im.jpg"),
        ("señal.jpg", [NFD], NFD),
        (NFD, ["señal.jpg"], "señal.jpg"),
        ("IM.JPG", ["im.jpg"], "im.jpg"),
        ("im.png", ["im.jpg", "im.xml"], "im.jpg"),
        ("im", ["im.jpg"], "im.jpg"),
        ("im.1.xml", ["im.1.jpg", "im.2.jpg"], "im.1.jpg"),
        ("im.jpg", ["deep/er/im.jpg"], "deep/er/im.jpg"),
        ("er/im.jpg", ["deep/er/im.jpg", "deep/other/im.jpg"], "deep/er/im.jpg"),
        ("/home/ann/set/images/im.jpg", ["images/im.jpg"], "images/im.jpg"),
        ("C:\\Users\\ann\\images\\im.jpg", ["images/im.jpg"], "images/im.jpg"),
        ("file:///data/im.jpg", ["im.jpg"], "im.jpg"),
        (" im.jpg ", ["im.jpg"], "im.jpg"),
    ],
)
def test_the_file_that_is_meant(tmp_path: Path, name: str, files: list[str], path: str) -> None:
    (match,) = finder(tmp_path, *files).find_all([name])
    assert (match.path, match.problem) == (path, "")


def test_an_absolute_path_inside_of_the_root(tmp_path: Path) -> None:
    images = finder(tmp_path, "a/im.jpg")
    assert images.find_all([str(tmp_path / "a/im.jpg")])[0].path == "a/im.jpg"


@pytest.mark.parametrize(
    ("name", "files", "problem"),
    [
        ("im.jpg", ["other.jpg"], MISSING),
        ("", ["im.jpg"], MISSING),
        ("im.jpg", ["a/im.jpg", "b/im.jpg"], SEVERAL),
        ("im", ["im.jpg", "im.png"], SEVERAL),
        ("im.JPG", ["im.jpg", "Im.jpg"], SEVERAL),
        ("/elsewhere/im.jpg", ["other.jpg"], OUTSIDE),
        ("../../im.jpg", ["other.jpg"], OUTSIDE),
        ("train/im.jpg", ["val/im.jpg", "train/other.jpg"], MISSING),  # that of another folder is not meant
    ],
)
def test_where_none_or_two_fit(tmp_path: Path, name: str, files: list[str], problem: str) -> None:
    (match,) = finder(tmp_path, *files).find_all([name])
    assert match.problem == problem and match.path == name


def test_a_file_that_is_meant_exactly_is_not_taken_for_another(tmp_path: Path) -> None:
    matches = finder(tmp_path, "7.jpg", "deep/8.jpg").find_all(["7.png", "7.jpg", "deep/8.jpg", "8.jpg"])
    assert [match.problem for match in matches] == [MISSING, "", "", MISSING]


def test_a_list_never_means_the_folder_of_another(tmp_path: Path) -> None:
    images = finder(tmp_path, "val/im.jpg")
    assert images.find_all(["im.jpg"], split="train")[0].problem == MISSING
    assert images.find_all(["im.jpg"], split="val")[0].path == "val/im.jpg"


def test_homes_are_tried_in_order(tmp_path: Path) -> None:
    images = finder(tmp_path, "a/im.jpg", "b/im.jpg")
    assert [match.path for home in ("b", "a") for match in images.find_all(["im.jpg"], [home])] == [
        "b/im.jpg",
        "a/im.jpg",
    ]


def test_images_that_nothing_mentions() -> None:
    assert unmentioned(["a.jpg", "b.JPG", "c.xml", "LICENSE", "._d.jpg"], ["a.jpg"]) == ["b.JPG"]
