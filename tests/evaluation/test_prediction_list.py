"""reports/predictions.csv: a row per image or box, by the paths of the images."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.datasets.base import Box
from stages.datasets.index_file import IndexRow
from stages.evaluation import prediction_list
from tests import trained
from tests.trained import OBJECTS, SMALL

CAT, DOG = Box("cat", (0, 0, 10, 10)), Box("dog", (20, 20, 40, 40))
HARD = Box("dog", (50, 50, 60, 60), difficult=True)
KINDS = ("class", "place", "both", "double", "background", "missed")


def image(path: str, label: str, *objects: Box) -> IndexRow:
    return IndexRow(path, path.ljust(64, "0"), 100, 80, label, objects, None)


def read() -> list[dict[str, str]]:
    with prediction_list.PATH.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_classes() -> None:
    images = {"val": [image("a,b.jpg", "cat")], "test": [image("c\nd.jpg", "dog")]}
    probabilities = {"val": [torch.tensor([[0.7, 0.2, 0.1]])], "test": [torch.tensor([[0.125, 0.375, 0.5]])]}
    prediction_list.write_classes(images, probabilities, ["cat", "dog", "fox"])
    first, second = read()
    assert first == {
        "path": "a,b.jpg", "split": "val", "label": "cat", "predicted": "cat", "probability": "0.7", "second": "dog",
        "second_probability": "0.2",
    }  # fmt: skip
    assert second["path"] == "c\nd.jpg" and (second["predicted"], second["second"]) == ("fox", "dog")


def test_detections() -> None:
    """Right, of the wrong class, on a difficult object, below the threshold; and the object that nothing finds."""
    corners = [[0, 0, 9, 9], [20, 20, 39, 39], [50, 50, 60, 60], [20, 20, 40, 40]]
    tensors = {
        "test_boxes": torch.tensor(corners, dtype=torch.float32),
        "test_scores": torch.tensor([0.9, 0.8, 0.7, 0.1]),
        "test_labels": torch.tensor([0, 0, 1, 1]),
        "test_images": torch.tensor([0, 0, 0, 0]),
        "test_kinds": torch.tensor([-1, 0, -1, -1]),
        "test_meant": torch.tensor([0, 1, -1, 1]),
    }
    images = {"test": [image("a.jpg", "dog", CAT, DOG, HARD), image("b.jpg", "")]}
    prediction_list.write_detections(images, tensors, classes=["cat", "dog"], kinds=KINDS, confidence=0.5)
    rows = read()
    assert [(row["label"], row["predicted"], row["result"]) for row in rows] == [
        ("cat", "cat", "right"),
        ("dog", "cat", "class"),
        ("", "dog", "ignored"),
        ("dog", "", "missed"),
    ]
    assert [rows[3][name] for name in ("x1", "y1", "x2", "y2", "probability")] == ["20", "20", "40", "40", ""]


@pytest.mark.parametrize(
    ("predict", "filled"),
    [("both", {"predicted", "probability", "x1"}), ("class", {"predicted", "probability"}), ("box", {"x1"})],
)
def test_largest(predict: str, filled: set[str]) -> None:
    tensors = {
        "val_boxes": torch.tensor([[1.0, 2, 3, 4], [9, 9, 10, 10], [0, 0, 1, 1]]),
        "val_scores": torch.tensor([0.9, 0.7, 0.8]),
        "val_labels": torch.tensor([0, 1, 1]),
        "val_images": torch.tensor([0, 0, 1]),  # two views of the first image disagree: the surer one counts
        "val_asked_labels": torch.tensor([1, -1]),
    }
    images = {"val": [image("a.jpg", "dog", DOG), image("b.jpg", "")]}
    prediction_list.write_largest(images, tensors, classes=["cat", "dog"], predict=predict)
    first, second = read()
    assert (first["label"], second["label"]) == ("dog", "")
    assert {name for name in ("predicted", "probability", "x1") if first[name]} == filled
    assert first["predicted"] in ("cat", "") and first["x1"] in ("1", "1.0", "")


@pytest.mark.parametrize(
    ("knobs", "rows"),
    [({"head": "linear"}, None), ({**OBJECTS, "head": "largest"}, 11), ({**OBJECTS, "head": "grid"}, 1)],
)
def test_evaluate_writes_it(
    workplace: Path,
    params: Callable[..., Any],
    class_folder: Callable[..., Any],
    knobs: dict[str, Any],
    rows: int | None,
) -> None:
    """Of a head of each task, every val and test image has a row; of a detector, one per box or missed object."""
    folder = {"dataset": "folder", "root": str(class_folder(8))}
    trained.finish(params(**SMALL | (trained.scenes(workplace) if "boxes" in knobs else folder) | knobs))
    written = read()
    assert len(written) >= (rows or 12) and {row["split"] for row in written} == {"val", "test"}
