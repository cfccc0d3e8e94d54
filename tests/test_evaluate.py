"""evaluate: the evaluation view decides, unless views are averaged: their probabilities, not their logits."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from stages import evaluate, paths
from stages.datasets import index_file, splits
from stages.datasets.index_file import IndexRow
from stages.features import h5
from stages.training import model
from stages.training.data import SplitData

Make = Callable[..., Any]
# logits of one image in three views: the first is for class 1, the mean of all probabilities for class 0
X = torch.tensor(
    [[[0.0, 1.0, -2.0], [3.0, 0.0, 0.0], [0.0, 0.0, 0.0]], [[0.0, 0.0, 9.0], [0.0, 0.0, 9.0], [9.0, 0, 0]]]
)
PART = SplitData(X, torch.tensor([0, 2]), [0, 1])
IDENTITY = torch.nn.Identity()


def softmax(*logits: float) -> np.ndarray[Any, Any]:
    return np.exp(logits) / np.exp(logits).sum()


# --- averaged_logits


def test_without_averaging_the_evaluation_view_decides() -> None:
    assert torch.equal(model.averaged_logits(IDENTITY, PART, 1), X[:, 0])


def test_probabilities_are_averaged_and_not_logits() -> None:
    actual = model.averaged_logits(IDENTITY, PART, 3).softmax(1).numpy()
    by_hand = (softmax(0, 1, -2) + softmax(3, 0, 0) + softmax(0, 0, 0)) / 3
    np.testing.assert_allclose(by_hand, [0.5008, 0.3613, 0.1379], atol=1e-4)
    np.testing.assert_allclose(actual[0], by_hand, rtol=1e-5)
    np.testing.assert_allclose(actual[1], (2 * softmax(0, 0, 9) + softmax(9, 0, 0)) / 3, rtol=1e-5)
    of_logits = softmax(*X[0].mean(0).tolist())
    assert np.abs(actual[0] - of_logits).max() > 0.05


@pytest.mark.parametrize("views", [1, 2, 3])
def test_the_first_views_are_averaged(views: int) -> None:
    expected = X[:, :views].softmax(2).mean(1)
    torch.testing.assert_close(model.averaged_logits(IDENTITY, PART, views).softmax(1), expected)


def test_views_of_different_images_are_kept_apart() -> None:
    x = torch.randn(7, 4, 5, generator=torch.Generator().manual_seed(0))
    split = SplitData(x, torch.zeros(7).long(), list(range(7)))
    together = model.averaged_logits(IDENTITY, split, 4)
    for image in range(7):
        alone = model.averaged_logits(IDENTITY, SplitData(x[image : image + 1], torch.zeros(1).long(), [0]), 4)
        torch.testing.assert_close(together[image : image + 1], alone)


def test_a_probability_of_nothing_has_a_finite_logarithm() -> None:
    split = SplitData(torch.tensor([[[0.0, 500.0], [0.0, 900.0]]]), torch.tensor([1]), [0])
    actual = model.averaged_logits(IDENTITY, split, 2)
    assert actual.isfinite().all() and actual.softmax(1).tolist() == [[pytest.approx(0, abs=1e-30), 1]]


@pytest.mark.parametrize("multilabel", [False, True])
def test_each_view_goes_through_the_head_once(multilabel: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = list[int]()
    monkeypatch.setattr(model, "logits", lambda module, split, view=0: seen.append(view) or split.x[:, view].clone())
    monkeypatch.setattr(model.HeadModel, "multilabel", multilabel)
    head = model.HeadModel.__new__(model.HeadModel)
    together = list(model.logits_by_views(head, PART, 3))
    assert seen == [0, 1, 2] and torch.equal(together[0], X[:, 0])
    for count in (1, 2, 3):
        each = X[:, :count].sigmoid() if multilabel else X[:, :count].softmax(2)
        found = together[count - 1].sigmoid() if multilabel else together[count - 1].softmax(1)
        torch.testing.assert_close(found, each.mean(1))


@pytest.mark.parametrize("views", [1, 3])
def test_a_part_without_images(views: int) -> None:
    split = SplitData(torch.zeros(0, 3, 5), torch.zeros(0).long(), [])
    assert model.averaged_logits(IDENTITY, split, views).shape == (0, 5)


# --- the stage

CLASSES = ["ant", "bee", "cat"]
SPLIT = {"train": range(3), "val": range(3, 9), "test": range(9, 21)}


@pytest.fixture
def evaluated(workplace: Path, params: Make) -> Make:
    """`evaluated(tta=…, views=…)`: evaluates a head that answers its features; metrics, probabilities and features."""

    def make(views: int, tta: bool) -> tuple[dict[str, Any], dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
        chosen = params(
            dataset="folder", root=str(workplace), backbone="squeezenet1_1", weights="random", image_size=64,
            head="linear", views=views, decide={"tta": tta},
        )  # fmt: skip
        count = 21
        labels = torch.arange(count) % 3
        rows = [IndexRow(f"{n}.jpg", f"{n:064x}", 8, 8, CLASSES[labels[n]], (), None) for n in range(count)]
        index_file.write(paths.index("folder"), rows)
        split = {name: [rows[n].sha256 for n in numbers] for name, numbers in SPLIT.items()}
        splits.write(paths.split("folder"), split, source="by hand", choices=chosen.split)
        generator = torch.Generator().manual_seed(1)
        x = torch.nn.functional.one_hot(labels, 3)[:, None] + 1.2 * torch.randn(count, 4, 3, generator=generator)
        x = x[:, :views]
        provenance = {"backbone": "squeezenet1_1", "weights": "random", "cut": "pooled",
                      "image_size": 64, "resize": "crop",
                      "parameters": 7, "views": [f"view {number}" for number in range(views)]}  # fmt: skip
        arrays = {
            "features/pooled": x.numpy().astype("f4"),
            "sha256": np.array([row.sha256 for row in rows], "S64"),
            "ok": np.ones(count, "u1"),
            "views": np.zeros((count, views, 2, 3), "f4"),
        }
        h5.write(
            paths.features("folder", "squeezenet1_1", "pooled"),
            members=h5.layout(count, views, {"pooled": ((3,), "f4")}),
            provenance=provenance,
            pieces=iter([(0, arrays)]),
        )
        module = model.assemble("linear", (3,), classes=3, knobs={"precision": "float32"})
        with torch.no_grad():
            module.head.weight.copy_(torch.eye(3))  # type: ignore[operator]
            module.head.bias.zero_()  # type: ignore[operator]
        described = {"head": "linear", "shape": [3], "tap": "same", "classes": CLASSES, "features": provenance}
        described["trained"] = 12
        described["knobs"] = {"precision": "float32"}
        for folder in (paths.HEAD, paths.HEAD / "ridge"):
            model.save_head(folder, module, described)
        evaluate.main(chosen)
        metrics = json.loads((paths.EVALUATION).read_text())
        return metrics, load_file(paths.PREDICTIONS / "probabilities.safetensors"), x, labels

    return make


def top1(probabilities: torch.Tensor, labels: torch.Tensor) -> float:
    return float((probabilities.argmax(1) == labels).double().mean())


@pytest.mark.parametrize(("views", "tta"), [(1, False), (1, True), (4, False), (4, True)])
def test_the_stage_averages_where_it_is_asked_to(evaluated: Make, views: int, tta: bool) -> None:
    metrics, actual, x, labels = evaluated(views, tta)
    used = views if tta else 1
    for name in ("val", "test"):
        places = list(SPLIT[name])
        torch.testing.assert_close(actual[name], x[places, :used].softmax(2).mean(1))
    test, val = list(SPLIT["test"]), list(SPLIT["val"])
    assert metrics["top1"] == pytest.approx(top1(actual["test"], labels[test]), abs=1e-6)
    assert metrics["val_top1"] == pytest.approx(top1(actual["val"], labels[val]), abs=1e-6)
    assert metrics["ridge_top1"] == metrics["top1"]  # the baseline here is the same head
    likely = actual["test"][torch.arange(12), labels[test]]
    assert metrics["cross_entropy"] == pytest.approx(float(-likely.log().mean()), rel=1e-4)


@pytest.mark.parametrize("tta", [False, True])
def test_the_accuracy_by_views_is_told_either_way(evaluated: Make, tta: bool) -> None:
    _, _, x, labels = evaluated(4, tta)
    with (paths.PLOTS / "views.csv").open() as file:
        rows = list(csv.DictReader(file))
    test = list(SPLIT["test"])
    expected = [top1(x[test, :count].softmax(2).mean(1), labels[test]) for count in (1, 2, 3, 4)]
    assert [int(row["views"]) for row in rows] == [1, 2, 3, 4]
    assert [float(row["accuracy"]) for row in rows] == pytest.approx(expected, abs=1e-6)
    assert len(set(expected)) > 1
