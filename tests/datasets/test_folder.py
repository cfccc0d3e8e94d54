"""A user's own folder: class/image, or official splits on top."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from stages.datasets import folder
from stages.datasets.base import EmptyClass, Note, Record
from stages.errors import UserError

OPTIONS = folder.Options(unlabelled="", exclude=[], strict=False)


def notes(root: Path) -> list[str]:
    return [item.text for item in folder.scan(root, OPTIONS) if isinstance(item, Note)]


def scanned(root: Path, *files: str, exclude: Sequence[str] = ()) -> list[Record]:
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    items = folder.scan(root, folder.Options(unlabelled="", exclude=list(exclude), strict=False))
    return [item for item in items if isinstance(item, Record)]


def test_every_file_below_a_class_in_path_order(tmp_path: Path) -> None:
    records = scanned(tmp_path, "b/2.jpg", "b/1.jpg", "a c/x/y/3.png", "a c/note.txt", "ü/ä.jpg")
    assert [(record.path, record.label) for record in records] == [
        ("a c/note.txt", "a c"),
        ("a c/x/y/3.png", "a c"),
        ("b/1.jpg", "b"),
        ("b/2.jpg", "b"),
        ("ü/ä.jpg", "ü"),
    ]
    assert all(record.split is None and record.objects == () for record in records)


def test_files_at_the_top_and_hidden_folders_are_passed_over(tmp_path: Path) -> None:
    records = scanned(tmp_path, "top.jpg", ".git/x.jpg", "a/.thumbnails/x.jpg", "a/1.jpg")
    assert [record.path for record in records] == ["a/1.jpg"]


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_official_splits_on_top(tmp_path: Path, val: str) -> None:
    records = scanned(tmp_path, "train/a/1.jpg", "train/b/2.jpg", f"{val}/a/3.jpg", "test/b/deep/4.jpg", "train/5.jpg")
    assert {(record.path, record.label, record.split) for record in records} == {
        ("train/a/1.jpg", "a", "train"),
        ("train/b/2.jpg", "b", "train"),
        (f"{val}/a/3.jpg", "a", "val"),
        ("test/b/deep/4.jpg", "b", "test"),
    }


@pytest.mark.parametrize("tops", [("train", "bus"), ("test", "val")])
def test_a_class_may_be_called_like_a_list_and_is_told(tmp_path: Path, tops: tuple[str, str]) -> None:
    records = scanned(tmp_path, *(f"{top}/1.jpg" for top in tops))
    assert {(record.label, record.split) for record in records} == {(top, None) for top in tops}
    like_lists = [top for top in tops if top != "bus"]
    assert len(notes(tmp_path)) == len(like_lists)
    assert all("is read as a class" in note and "datasets.folder.exclude" in note for note in notes(tmp_path))


@pytest.mark.parametrize("tops", [("train", "bus"), ("test", "val"), ("Training", "Extra", "Unsorted")])
def test_folders_of_which_some_look_like_lists_are_refused(tmp_path: Path, tops: tuple[str, ...]) -> None:
    with pytest.raises(
        UserError, match=r"by the name is a list with images of several classes, .*-S 'datasets.folder.exclude=\[\w+\]'"
    ):
        scanned(tmp_path, *(f"{top}/{label}/1.jpg" for top in tops for label in ("x", "y")))


def test_an_empty_folder(tmp_path: Path) -> None:
    assert scanned(tmp_path) == []


def test_the_folder_is_only_read(tmp_path: Path) -> None:
    scanned(tmp_path, "a/1.jpg")
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["a", "a/1.jpg"]


LISTS = [
    {"train": "Train", "test": "Test"},
    {"train": "Training", "test": "Testing"},
    {"train": "training_set", "test": "test_set"},
    {"train": "train", "val": "dev"},
    {"train": "TRN", "val": "Validation", "test": "eval"},
    {"train": "seg_train/seg_train", "test": "seg_test/seg_test"},
    {"train": "training_set/training_set", "test": "test_set/test_set"},
    {"train": "asl_alphabet_train/asl_alphabet_train", "test": "asl_alphabet_test/asl_alphabet_test"},
    {"train": "archive/data/train_images", "test": "archive/data/test_images"},
    {"train": "train2017/images", "val": "val2017/images"},
    {"train": "TrainSet", "test": "TestSet"},
]


@pytest.mark.parametrize("folders", LISTS, ids=lambda folders: " ".join(folders.values()))
def test_lists_are_known_by_their_usual_names(tmp_path: Path, folders: dict[str, str]) -> None:
    records = scanned(tmp_path, *(f"{home}/{label}/1.jpg" for home in folders.values() for label in "ab"))
    assert {(record.label, record.split) for record in records} == {
        (label, split) for split in folders for label in "ab"
    }


def test_lists_beside_other_folders_are_refused_unless_these_hold_no_class(tmp_path: Path) -> None:
    lists = ("train/a/1.jpg", "test/a/2.jpg")
    records = scanned(tmp_path, *lists, "predict/3.jpg", "predict/4.jpg", "docs/readme.txt")
    assert {(record.label, record.split) for record in records} == {("a", "train"), ("a", "test")}
    assert notes(tmp_path) == ["predict holds 2 images in no class folder, left out"]
    with pytest.raises(
        UserError,
        match=r"has the lists test and train, and beside them extra, .*-S 'datasets.folder.exclude=\[extra\]'",
    ):
        scanned(tmp_path, "extra/b/5.jpg")
    assert len(scanned(tmp_path, exclude=["extra"])) == 2


def test_a_list_of_loose_files_is_told(tmp_path: Path) -> None:
    records = scanned(tmp_path, "train/a/1.jpg", "train/b/2.jpg", "test/3.jpg", "test/4.jpg")
    assert {record.split for record in records} == {"train"}
    assert notes(tmp_path) == ["test holds 2 images in no class folder, left out"]


def test_lists_inside_every_class(tmp_path: Path) -> None:
    records = scanned(
        tmp_path, *(f"{label}/{part}/1.jpg" for label in "ab" for part in ("train", "test")), "a/val/2.jpg"
    )
    assert {(record.label, record.split) for record in records} == {
        *(("a", split) for split in ("train", "val", "test")), ("b", "train"), ("b", "test")
    }  # fmt: skip


@pytest.mark.parametrize(
    ("files", "labels"),
    [
        (["data/set/a/1.jpg", "data/set/b/2.jpg", "LICENSE"], {"a", "b"}),  # folders around the classes
        (["a/images/1.jpg", "b/images/2.jpg"], {"a", "b"}),  # one folder inside of each
        (["a/images/1.jpg", "a/masks/1.png", "b/images/2.jpg", "b/masks/2.png"], {"a", "b"}),
        (["images/a/1.jpg", "images/b/2.jpg", "masks/a/1.png", "masks/b/2.png"], {"a", "b"}),
        (["a/ann/1.jpg", "a/bob/1.jpg", "b/ann/2.jpg", "b/bob/2.jpg"], {"a", "b"}),  # told: these may be the classes
        (["train_station/1.jpg", "test_tube/2.jpg"], {"train_station", "test_tube"}),
    ],
)
def test_what_the_classes_are(tmp_path: Path, files: list[str], labels: set[str]) -> None:
    records = scanned(tmp_path, *files)
    assert {record.label for record in records} == labels
    assert not any("masks" in record.path for record in records)
    assert bool(notes(tmp_path)) == any(name.startswith(("data", "a/ann", "a/masks", "masks")) for name in files)


def test_images_and_masks_are_not_classes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has images and masks: images and their annotations, not classes"):
        scanned(tmp_path, "images/1.jpg", "masks/1.png")


def test_folders_of_macos_and_hidden_ones_are_skipped(tmp_path: Path) -> None:
    records = scanned(tmp_path, "train/a/1.jpg", "test/a/2.jpg", "__MACOSX/train/a/._1.jpg", ".ipynb_checkpoints/3.jpg")
    assert len(records) == 2 and not notes(tmp_path)


def test_an_empty_class_is_told(tmp_path: Path) -> None:
    scanned(tmp_path, "a/1.jpg", "b/2.jpg")
    (tmp_path / "c").mkdir()
    assert EmptyClass("c") in list(folder.scan(tmp_path, OPTIONS))


def test_links_to_class_folders_are_followed_once(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    scanned(root, "a/1.jpg")
    scanned(elsewhere, "2.jpg")
    (root / "b").symlink_to(elsewhere)
    (root / "a" / "loop").symlink_to(root)
    assert [record.path for record in scanned(root)] == ["a/1.jpg", "b/2.jpg"]


@pytest.mark.parametrize("classes", [("ant", "bee"), ("train/ant", "train/bee", "test/ant", "test/bee")])
def test_a_folder_of_images_without_a_label(tmp_path: Path, classes: tuple[str, ...]) -> None:
    for name in (*(f"{label}/0.jpg" for label in classes), "new/a/1.jpg", "new/2.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    items = folder.scan(tmp_path, folder.Options(unlabelled="new", exclude=[], strict=False))
    found = {item.path: (item.label, item.split) for item in items if isinstance(item, Record)}
    assert found.pop("new/a/1.jpg") == found.pop("new/2.jpg") == ("", None)
    assert {label for label, _ in found.values()} == {"ant", "bee"} and len(found) == len(classes)


def test_the_folder_of_images_without_a_label_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        list(folder.scan(tmp_path, folder.Options(unlabelled="nwe", exclude=[], strict=False)))
