"""YOLO's format: the layouts that tools export, what a line may hold, and what becomes of images without objects."""

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stages import index, paths
from stages.datasets import index_file
from stages.errors import UserError

Make = Callable[..., Any]
WIDTH, HEIGHT = 40, 20
BOX = "0 0.5 0.5 0.5 0.5\n"
CORNERS = (10.0, 5.0, 30.0, 15.0)  # of BOX in pixels
YAML = "nc: 2\nnames: [ant, bee]\n"


def photo(seed: int) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def indexed(workplace: Path, params: Make) -> Make:
    """`indexed(files, **options)`: rows by path, and the summary; the value of an image is its number."""

    def make(
        files: Mapping[str, str | bytes | int], **options: Any
    ) -> tuple[dict[str, index_file.IndexRow], dict[str, Any]]:
        root = workplace / "set"
        for name, content in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            data = photo(content) if isinstance(content, int) else content
            (root / name).write_bytes(data.encode() if isinstance(data, str) else data)
        index.main(params(dataset="yolo", root=str(root), datasets={"yolo": options}, bad_images={"max_fraction": 1.0}))
        summary = json.loads(paths.index("yolo").with_suffix(".json").read_text())
        return {row.path: row for row in index_file.read("yolo")}, summary

    return make


ROBOFLOW = {
    "data.yaml": "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 2\nnames: ['ant', 'bee']\n"
    "\nroboflow:\n  workspace: w\n  project: p\n  version: 1\n  license: CC BY 4.0\n",
    "README.roboflow.txt": "ants - v1\n==============================\n",
    "README.dataset.txt": "# ants\n",
    "train/images/a_jpg.rf.0a1b.png": 1, "train/labels/a_jpg.rf.0a1b.txt": BOX,
    "valid/images/b_jpg.rf.0c1d.png": 2, "valid/labels/b_jpg.rf.0c1d.txt": BOX,
    "test/images/c_jpg.rf.0e1f.png": 3, "test/labels/c_jpg.rf.0e1f.txt": "",
}  # fmt: skip
ULTRALYTICS = {
    "coco8.yaml": "path: ../datasets/coco8 # dataset root dir\ntrain: images/train\nval: images/val\ntest: # optional\n"
    "names:\n  0: ant\n  1: bee\n",
    "images/train/a.png": 1, "labels/train/a.txt": BOX, "images/val/b.png": 2, "labels/val/b.txt": BOX,
}  # fmt: skip
LAYOUTS: dict[str, tuple[dict[str, str | bytes | int], dict[str, str | None]]] = {
    "Roboflow, YOLOv5 to v8": (
        ROBOFLOW,
        {"train/images/a_jpg.rf.0a1b.png": "train", "valid/images/b_jpg.rf.0c1d.png": "val",
         "test/images/c_jpg.rf.0e1f.png": "test"},
    ),
    "Roboflow, Darknet": (
        {"train/_darknet.labels": "ant\nbee\n", "train/a.png": 1, "train/a.txt": BOX,
         "valid/_darknet.labels": "ant\nbee\n", "valid/b.png": 2, "valid/b.txt": BOX, "README.roboflow.txt": "ants\n"},
        {"train/a.png": "train", "valid/b.png": "val"},
    ),
    "CVAT, YOLO 1.1": (
        {"obj.data": "classes = 2\ntrain = data/train.txt\nvalid = data/valid.txt\nnames = data/obj.names\n"
         "backup = backup/\n", "obj.names": "ant\nbee\n", "train.txt": "data/obj_train_data/a.png\n",
         "valid.txt": "data/obj_valid_data/b.png\n", "obj_train_data/a.png": 1, "obj_train_data/a.txt": BOX,
         "obj_valid_data/b.png": 2, "obj_valid_data/b.txt": BOX},
        {"obj_train_data/a.png": "train", "obj_valid_data/b.png": "val"},
    ),
    "CVAT, one list": (
        {"obj.data": "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n",
         "obj.names": "ant\nbee\n", "train.txt": "data/obj_train_data/a.png\ndata/obj_train_data/b.png\n",
         "obj_train_data/a.png": 1, "obj_train_data/a.txt": BOX, "obj_train_data/b.png": 2,
         "obj_train_data/b.txt": BOX},
        {"obj_train_data/a.png": None, "obj_train_data/b.png": None},
    ),
    "CVAT, Ultralytics": (
        {"data.yaml": "path: .\ntrain: train.txt\nval: val.txt\nnames:\n  0: ant\n  1: bee\n",
         "train.txt": "data/images/train/a.png\n", "val.txt": "data/images/val/b.png\n",
         "images/train/a.png": 1, "labels/train/a.txt": BOX, "images/val/b.png": 2, "labels/val/b.txt": BOX},
        {"images/train/a.png": "train", "images/val/b.png": "val"},
    ),
    "Label Studio": (
        {"classes.txt": "ant\nbee\n", "notes.json": '{"categories": []}', "images/3f-a.png": 1, "labels/3f-a.txt": BOX,
         "images/4e-b.png": 2, "labels/4e-b.txt": BOX},
        {"images/3f-a.png": None, "images/4e-b.png": None},
    ),
    "labelImg": (
        {"classes.txt": "ant\nbee\n", "a.png": 1, "a.txt": BOX, "b.png": 2, "b.txt": "", "notes of ann.txt": "mail"},
        {"a.png": None, "b.png": None},
    ),
    "Ultralytics": (ULTRALYTICS, {"images/train/a.png": "train", "images/val/b.png": "val"}),
    "the same images for train and val, as coco128": (
        {"data.yaml": f"train: images\nval: images\n{YAML}", "images/a.png": 1, "labels/a.txt": BOX, "images/b.png": 2,
         "labels/b.txt": BOX},
        {"images/a.png": None, "images/b.png": None},
    ),
    "no data.yaml": (
        {"classes.txt": "ant\nbee\n", "images/train/a.png": 1, "labels/train/a.txt": BOX, "images/val/b.png": 2,
         "labels/val/b.txt": BOX},
        {"images/train/a.png": "train", "images/val/b.png": "val"},
    ),
    "lists of folders, on another machine": (
        {"data.yaml": "train: [/kaggle/input/ants/one, /kaggle/input/ants/two]\nval: C:\\data\\ants\\three\n" + YAML,
         **{f"{folder}/images/{folder}.png": seed for seed, folder in enumerate(("one", "two", "three"))},
         **{f"{folder}/labels/{folder}.txt": BOX for folder in ("one", "two", "three")}},
        {"one/images/one.png": "train", "two/images/two.png": "train", "three/images/three.png": "val"},
    ),
    "Darknet's lists": (
        {"obj.names": "ant\nbee\n", "train.txt": "./images/a.png\n", "valid.txt": "/home/ann/set/images/b.png\n",
         "images/a.png": 1, "labels/a.txt": BOX, "images/b.png": 2, "labels/b.txt": BOX},
        {"images/a.png": "train", "images/b.png": "val"},
    ),
    "unpacked into a folder": (
        {f"ants-1/{name}": content for name, content in ROBOFLOW.items()},
        {"ants-1/train/images/a_jpg.rf.0a1b.png": "train", "ants-1/valid/images/b_jpg.rf.0c1d.png": "val",
         "ants-1/test/images/c_jpg.rf.0e1f.png": "test"},
    ),
    "capitals": (
        {"data.yaml": YAML, "Images/A.PNG": 1, "Labels/a.TXT": BOX, "Images/b.png": 2, "Labels/B.txt": BOX},
        {"Images/A.PNG": None, "Images/b.png": None},
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_read_with_its_classes_and_lists(indexed: Make, layout: str) -> None:
    files, expected = LAYOUTS[layout]
    rows, summary = indexed(files)
    assert {path: row.split for path, row in rows.items()} == expected
    assert summary["broken_annotations"] == summary["bad"] == summary["excluded"] == []
    boxes = [[(box.label, box.box) for box in row.objects] for row in rows.values()]
    assert [("ant", CORNERS)] in boxes and all(image in ([("ant", CORNERS)], []) for image in boxes)
    assert "train" not in expected.values() or {"train"} < set(expected.values())


LINES = {
    "1 0.5 0.5 0.5 0.5": ("bee", CORNERS),
    "  1.0\t0.5 0.5  0.5 0.5 ": ("bee", CORNERS),
    "0 0.25 0.25 0.75 0.25 0.5 0.75": ("ant", CORNERS),  # a triangle
    "0 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75": ("ant", CORNERS),  # a turned box, of YOLO's OBB
    "0 0.1 0.5 0.5 0.5": ("ant", (0.0, 5.0, 14.0, 15.0)),  # clipped
    "0 0.5 0.5 0.5 0.5 0.9": "6; a sixth one is the confidence of a prediction",
    "0 0.5 0.5 0.5": "this one has 4",
    "0 0.5 0.5 0.5 0.5 0.1 0.1 0.1": "this one has 8",
    "ant 0.5 0.5 0.5 0.5": "numbers only",
    "0 0.5 nan 0.5 0.5": "finite numbers",
    "0.5 0.5 0.5 0.5 0.5": "whole number",
    "-1 0.5 0.5 0.5 0.5": "whole number",
    "7 0.5 0.5 0.5 0.5": "data.yaml has no class 7",
    "0 20 10 20 10": "look like pixels",
    "0 0.5 0.5 0 0.5": "the box is empty",
    "0 1.5 0.5 0.2 0.5": "outside of its image",
}


@pytest.mark.parametrize("line", LINES)
def test_a_line_is_an_object_or_refused_with_a_reason(indexed: Make, line: str) -> None:
    rows, summary = indexed({"data.yaml": YAML, "images/a.png": 1, "labels/a.txt": f"{line}\n\n{BOX}",
                             "images/b.png": 2, "labels/b.txt": BOX})  # fmt: skip
    first, *_ = objects = [(box.label, box.box) for box in rows["images/a.png"].objects]
    expected = LINES[line]
    if isinstance(expected, str):
        assert objects == [("ant", CORNERS)]
        (fault,) = summary["broken_annotations"]
        assert fault["path"] == "labels/a.txt" and expected in fault["reason"] and "images/a.png" in fault["reason"]
        assert sum(summary["dropped_objects"].values()) == 1
    else:
        assert first == expected
        assert all("clipped" in fault["reason"] for fault in summary["broken_annotations"])


def test_an_empty_label_file_and_none_are_told_apart(indexed: Make, capsys: pytest.CaptureFixture[str]) -> None:
    rows, summary = indexed({"data.yaml": YAML, "images/a.png": 1, "labels/a.txt": BOX, "images/b.png": 2,
                             "labels/b.txt": "\n", "images/c.png": 3, "images/d.png": 4})  # fmt: skip
    assert {path: len(row.objects) for path, row in rows.items()} == {
        "images/a.png": 1, "images/b.png": 0, "images/c.png": 0, "images/d.png": 0,
    }  # fmt: skip
    console = capsys.readouterr().out
    assert "1 image has an empty label file (such as images/b.png)" in console
    assert "2 images have no label file (such as images/c.png)" in console
    assert "no label file" in summary["notes"][0]  # warnings first


def test_an_image_of_two_lists_is_in_test_and_one_of_none_is_left_out(indexed: Make) -> None:
    lists = {"train.txt": "images/a.png\nimages/b.png\nimages/gone.png\n", "test.txt": "images/b.png\nimages/c.png\n"}
    images = {f"images/{name}.png": seed for seed, name in enumerate("abcd")}
    labels = {f"labels/{name}.txt": BOX for name in "abcd"}
    rows, summary = indexed(lists | images | labels | {"data.yaml": f"train: train.txt\ntest: test.txt\n{YAML}"})
    assert {path: row.split for path, row in rows.items()} == {
        "images/a.png": "train", "images/b.png": "test", "images/c.png": "test",
    }  # fmt: skip
    assert summary["excluded"] == [{"path": "images/d.png", "reason": "no list names it"}]
    assert summary["dropped_objects"] == {"no list names it": 1}
    reasons = [fault["reason"] for fault in summary["broken_annotations"]]
    assert reasons == [
        "images/gone.png: the image is not there",
        "images/b.png: an image is in several lists: the first of test, val and train counts",
    ]


def test_a_label_file_that_cannot_be_read_leaves_its_image_out(indexed: Make) -> None:
    rows, summary = indexed({"data.yaml": YAML, "images/a.png": 1, "labels/a.txt": BOX, "images/b.png": 2,
                             "labels/b.txt": b"\xff\x00\xd8", "images/c.png": 3,
                             "labels/c.txt": "version https://git-lfs.github.com/spec/v1\n"})  # fmt: skip
    assert list(rows) == ["images/a.png"]
    assert {item["path"] for item in summary["excluded"]} == {"images/b.png", "images/c.png"}
    assert sum("the label file cannot be read" in fault["reason"] for fault in summary["broken_annotations"]) == 2


def test_a_label_file_without_an_image_is_told(indexed: Make) -> None:
    rows, summary = indexed({"data.yaml": YAML, "images/a.png": 1, "labels/a.txt": BOX, "labels/b.txt": BOX})
    assert list(rows) == ["images/a.png"]
    assert summary["bad"] == [
        {"path": "images/b.jpg", "reason": "the image is not there: labels/b.txt is its label file"}
    ]
    assert sum(summary["dropped_objects"].values()) == 1


def test_the_box_of_a_pose_is_read_and_its_keypoints_are_not(indexed: Make) -> None:
    pose = "0 0.5 0.5 0.5 0.5 0.1 0.1 2 0.9 0.9 2\n"
    files = {"images/a.png": 1, "labels/a.txt": pose + "0 0.1 0.1 0.2 0.2 0.3 0.3\n"}
    rows, summary = indexed(files | {"data.yaml": f"kpt_shape: [2, 3]\n{YAML}"})
    assert [box.box for box in rows["images/a.png"].objects] == [CORNERS]
    (fault,) = summary["broken_annotations"]
    assert "must have 11 columns" in fault["reason"] and "has 7" in fault["reason"]


def test_shares_are_of_the_image_as_it_is_shown(indexed: Make) -> None:
    """A white square on black, turned by EXIF; annotated as a viewer shows it."""
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[4:12, 60:76] = 255
    exif, stream = Image.Exif(), io.BytesIO()
    exif[0x112] = 6  # shown turned clockwise: 40 x 80, the square at x 28 to 36, y 60 to 76
    Image.fromarray(pixels).save(stream, "PNG", exif=exif)
    files = {"data.yaml": YAML, "images/a.png": stream.getvalue(), "labels/a.txt": "0 0.8 0.85 0.2 0.2\n"}
    rows, _ = indexed(files)
    row = rows["images/a.png"]
    assert (row.width, row.height, row.objects[0].box) == (40, 80, (28.0, 60.0, 36.0, 76.0))


def test_classes_that_nothing_names_are_called_by_their_numbers(
    indexed: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, _ = indexed({"images/a.png": 1, "labels/a.txt": f"{BOX}12 0.5 0.5 0.1 0.1\n"})
    assert [box.label for box in rows["images/a.png"].objects] == ["0", "12"]
    assert "called by their numbers" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"images/a.png": 1}, "has no label files in YOLO's format.* 1 image is below it"),
        ({"data.yaml": f"train: elsewhere/train\nval: images\n{YAML}"}, "`train` is 'elsewhere/train'.*no such folder"),
        ({"data.yaml": "names: ant\n"}, "`names` must be a list of classes"),
        ({"data.yaml": "names: {ant: 0}\n"}, "`names` must be a list of classes"),
        ({"data.yaml": f"train: 3\n{YAML}"}, "`train` must be a folder"),
        ({"data.yaml": f"kpt_shape: 17\n{YAML}"}, "`kpt_shape` must be"),
        ({"data.yaml": "names: [ant\n"}, "not valid YAML"),
        ({"data.yaml": b"\xff\x00\xd8"}, "cannot be read"),
        ({"a.yaml": YAML, "b.yaml": YAML}, "all describe the dataset: rename the right one to data.yaml"),
        ({"classes.txt": "ant\n", "labels/classes.txt": "bee\n"}, "name different classes"),
    ],
)
def test_what_cannot_be_read_is_refused(indexed: Make, files: dict[str, Any], said: str) -> None:
    labelled = {} if files == {"images/a.png": 1} else {"images/a.png": 1, "labels/a.txt": BOX}
    with pytest.raises(UserError, match=said):
        indexed(labelled | files)


def test_a_list_outside_of_root_is_not_read(indexed: Make, workplace: Path) -> None:
    """DVC watches root alone."""
    (workplace / "other").mkdir()
    (workplace / "other/train.txt").write_text("images/a.png\n")
    files = {"images/a.png": 1, "labels/a.txt": BOX}
    with pytest.raises(UserError, match="no such folder or list below it"):
        indexed(files | {"data.yaml": f"train: {workplace}/other/train.txt\n{YAML}"})
    rows, summary = indexed(files | {"data.yaml": f"train: images\nval: {workplace}/other/val\n{YAML}"})
    assert len(rows) == 1 and "no such folder or list below root" in summary["notes"][0]


@pytest.mark.parametrize("last", ["", "1 0.5 0.5 0.25 0.5\n"])
def test_copies_with_other_boxes_are_told(indexed: Make, capsys: pytest.CaptureFixture[str], last: str) -> None:
    """The file with objects is used, even if an empty one comes first; of two with other objects the first."""
    files = {"images/a.png": 1, "labels/a.txt": last, "images/b.png": 1, "labels/b.txt": BOX}
    rows, summary = indexed({"data.yaml": YAML, **files, "images/c.png": 2, "labels/c.txt": BOX})
    used = "images/a.png" if last else "images/b.png"
    assert list(rows) == sorted([used, "images/c.png"]) and rows[used].objects
    other = next(path for path in ("images/a.png", "images/b.png") if path != used)
    assert f"1 copy has other objects than the file that is used instead ({other}: {used})" in capsys.readouterr().out
    assert len(summary["duplicates"]) == 1
