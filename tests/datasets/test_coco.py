"""COCO's format: boxes, crowds, numbers with gaps, files like it, and the official archives in miniature."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages import download, index, paths, split
from stages.datasets import coco, index_file, splits
from stages.datasets.base import AnnotationFault, Box, Note, Record
from stages.errors import UserError
from tests.datasets import miniature

PASCAL = {  # as in pascal_train2007.json
    "type": "instances",
    "images": [{"file_name": "000012.jpg", "height": 333, "width": 500, "id": 12}],
    "annotations": [
        {"segmentation": [[155, 96, 155, 270, 351, 270, 351, 96]], "area": 34104, "iscrowd": 0, "image_id": 12,
         "bbox": [155, 96, 196, 174], "category_id": 7, "id": 1, "ignore": 0},
        {"segmentation": [[0, 0, 0, 9]], "area": 81, "iscrowd": 0, "image_id": 12, "bbox": [0, 0, 9, 9],
         "category_id": 7, "id": 2, "ignore": 1},
    ],
    "categories": [{"supercategory": "none", "id": 7, "name": "car"}],
}  # fmt: skip


def written(home: Path, *changes: tuple[str, object], part: str = "train") -> Path:
    """PASCAL in a file, with other lists."""
    path = home / f"pascal_{part}2007.json"
    path.write_text(json.dumps(PASCAL | dict(changes)))
    (home / "JPEGImages").mkdir(exist_ok=True)
    (home / "JPEGImages/000012.jpg").write_bytes(miniature.photograph(12))
    return path


def read(home: Path, **files: Path) -> tuple[list[Record], list[AnnotationFault]]:
    items = list(coco.read(home, files))
    broken = [item for item in items if isinstance(item, AnnotationFault)]
    return [item for item in items if isinstance(item, Record)], broken


def test_a_file_of_pascal_as_coco(tmp_path: Path) -> None:
    records, broken = read(tmp_path, all=written(tmp_path))
    objects = (Box("car", (155, 96, 351, 270)), Box("car", (0, 0, 9, 9), ignore=True))
    assert records == [Record("JPEGImages/000012.jpg", None, objects, None, "pascal_train2007.json", (500, 333))]
    assert not broken


def test_numbers_with_gaps_crowds_and_images_without_objects(tmp_path: Path) -> None:
    records, broken = read(tmp_path, **miniature.coco(tmp_path, {"train": 6, "val": 2}))
    assert not broken
    assert Counter(record.split for record in records) == {"train": 6, "val": 2}
    assert [[box.label for box in record.objects] for record in records] == [
        *([], ["dog"], ["dog", "brush"], ["person"], ["dog"], ["dog", "brush"]),
        *([], ["dog"]),
    ]
    assert records[2].objects[1] == Box("brush", (3.5, 4, 13.75, 14.25))
    assert records[3].objects == (Box("person", (0, 0, 60, 60), crowd=True),)
    assert records[0].path == "train2017/000000000000.jpg" and records[6].path == "val2017/000000000100.jpg"


ANNOTATION = {"image_id": 12, "bbox": [1, 2, 3, 4], "category_id": 7, "iscrowd": 0}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"category_id": 8}, "JPEGImages/000012.jpg: an object of category 8: the file has no such category"),
        (
            {"bbox": [1, 2, 3]},
            "JPEGImages/000012.jpg: a car has [1, 2, 3]: a bbox must be four numbers",
        ),
        ({"bbox": None}, "JPEGImages/000012.jpg (car): the annotation has no bbox"),
        ({"bbox": [1, 2, 3, "x"]}, "JPEGImages/000012.jpg: a car has [1, 2, 3, 'x']: a bbox must be four numbers"),
        ({"image_id": 13}, "1 object is of image 13: the file describes no image of this number"),
        ({"image_id": [1]}, "1 object is of image '[1]': the file describes no image of this number"),
    ],
)
def test_a_broken_object_leaves_the_others(tmp_path: Path, change: dict[str, object], reason: str) -> None:
    file = written(tmp_path, ("annotations", [ANNOTATION, ANNOTATION | change]))
    records, broken = read(tmp_path, train=file)
    assert records[0].objects == (Box("car", (1, 2, 4, 6)),)
    assert [item.path for item in broken] == [file.name]
    assert broken[0].reason.startswith(reason)


def test_two_images_of_one_number_are_told(tmp_path: Path) -> None:
    image = {"id": 12, "file_name": "000012.jpg"}
    records, broken = read(tmp_path, all=written(tmp_path, ("images", [image, image])))
    assert len(records) == 1 and len(records[0].objects) == 2
    assert [item.reason for item in broken] == ["1 image: images have the number of another and are left out"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ("[]", "expected the lists images, annotations, categories"),
        ('{"images": [], "annotations": [{"id": 1}], "categories": []}', "expected the lists"),
        ('{"images": [3], "annotations": [], "categories": []}', "expected the lists"),
    ],
)
def test_another_file(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(UserError, match=message):
        read(tmp_path, all=tmp_path / "x.json")


def test_images_are_found_beside_the_file_then_by_the_name_of_the_list(tmp_path: Path) -> None:
    file = written(tmp_path)
    image = (tmp_path / "JPEGImages/000012.jpg").read_bytes()
    for name in ("val/000012.jpg", "train/000012.jpg", "train/small/000012.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(image)
    assert read(tmp_path, train=file)[0][0].path == "train/000012.jpg"
    assert read(tmp_path, val=file)[0][0].path == "val/000012.jpg"
    with pytest.raises(UserError, match=r"lies in .* and in .*: leave one of them below root"):
        read(tmp_path, test=file)
    (tmp_path / "000012.jpg").write_bytes(image)
    assert read(tmp_path, train=file)[0][0].path == "000012.jpg"


def test_images_that_are_nowhere(tmp_path: Path) -> None:
    file = written(tmp_path, ("images", [{"id": 1, "file_name": "lost.jpg"}]))
    with pytest.raises(
        UserError,
        match=r"No image of .*2007.json is below .*1 x the image is not there \(lost",
    ):
        read(tmp_path, all=file)


def test_masks_without_boxes_are_told(workplace: Path, params: Callable[..., Any]) -> None:
    annotation = {name: value for name, value in ANNOTATION.items() if name != "bbox"}
    file = written(workplace, ("annotations", [annotation | {"segmentation": [[1, 1, 9, 1, 9, 9]]}] * 3))
    with pytest.raises(UserError, match=r"None of 3 objects .* 3 x the annotation has no bbox"):
        index.main(params(dataset="coco", datasets={"coco": {"annotations": {"all": file.name}}}))


@pytest.mark.parametrize("name", ["/elsewhere/000099.jpg", "../../000099.jpg", "C:\\photos\\000099.jpg"])
def test_images_outside_of_root_are_told(tmp_path: Path, name: str) -> None:
    file = written(tmp_path, ("images", [{"id": 1, "file_name": name}]))
    with pytest.raises(UserError, match=r"1 x the image lies outside of root"):
        read(tmp_path, all=file)


def test_an_annotation_file_outside_of_root_is_told_to_be_unwatched(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    file = written(tmp_path / "root").rename(tmp_path / "all.json")
    options = coco.Options.model_validate(
        {"annotations": {"train": None, "val": None, "test": None, "all": str(file)}, "exclude": [], "strict": False}
    )
    notes = [item.text for item in coco.scan(tmp_path / "root", options) if isinstance(item, Note)]
    assert len(notes) == 1 and "all.json lies outside of root, where DVC does not see changes" in notes[0]


def test_no_file_is_named(workplace: Path, params: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match=r"`datasets.coco.annotations`: name an annotation file"):
        index.main(params(dataset="coco"))


def test_any_images_with_files_like_these(workplace: Path, params: Callable[..., Any]) -> None:
    files = miniature.coco(workplace / "mine", {"train": 8, "val": 4, "test": 4})
    named = {"train": "mine/annotations/instances_train2017.json", "val": str(files["val"]), "test": str(files["test"])}
    chosen = params(dataset="coco", datasets={"coco": {"annotations": named}})
    index.main(chosen)
    split.main(chosen)
    assert {part: len(images) for part, images in splits.read("coco").items()} == {"train": 8, "val": 4, "test": 4}
    rows = index_file.read("coco")
    assert Counter(row.label for row in rows) == {"dog": 9, "": 4, "person": 3}
    assert sum(box.crowd for row in rows for box in row.objects) == 4


def test_the_official_archives(workplace: Path, params: Callable[..., Any]) -> None:
    home = workplace / "x"
    miniature.coco(home, {"train": 8, "val": 4})
    folders = {"train": "train2017", "val": "val2017", "annotations": "annotations"}
    source = {
        name: {"url": str(miniature.pack(home / f"{folder}.zip", home / folder)), "checksum": None}
        for name, folder in folders.items()
    }
    chosen = params(dataset="coco2017", datasets={"coco2017": {"source": source}})
    download.main(chosen)
    index.main(chosen)
    split.main(chosen)
    images_of, rows = splits.read("coco2017"), index_file.read("coco2017")
    assert [len(images_of[part]) for part in splits.SPLITS] == [6, 2, 4]
    assert set(images_of["test"]) == {row.sha256 for row in rows if row.split == "val"}
    assert json.loads(paths.index("coco2017").with_suffix(".json").read_text())["broken_annotations"] == []
