"""evaluate with a head for boxes: metrics, plots and predictions of a small set in VOC's layout."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from stages import evaluate, extract, index, lr_sweep, paths, report, review, split, train
from stages.boxes.geometry import Detections, GroundTruth
from stages.errors import UserError
from stages.evaluation import detection as judging
from stages.heads import registry
from stages.training import data, model, tasks
from stages.training.data import HeadData, SplitData
from stages.training.ground_truth import GroundTruthBoxes
from tests.datasets import miniature

Make = Callable[..., Any]
HEADS: dict[str, dict[str, Any]] = {
    "largest": {"cut": "map", "head": "largest"},
    "grid": {"cut": "map@16", "head": "grid"},
    "anchors": {"cut": "map", "head": "anchors", "boxes": {"anchor_count": 1}},
    "multiscale": {"cut": "pyramid", "head": "multiscale"},
    "unfrozen": {"cut": "stage3", "tap": "map", "head": "grid"},
    "images": {"cut": "input", "tap": "map", "head": "grid"},
}
LISTS = {"train": 8, "val": 6, "test": 4}
SIDE = miniature.SIDE


@pytest.fixture
def run(workplace: Path, params: Make) -> Make:
    """`run(**knobs)`: from a folder in VOC's layout to the metrics; `change(home)` may edit it first."""

    def make(*, change: Callable[[Path], None] | None = None, **knobs: Any) -> Any:
        home = miniature.voc(workplace / "mine", lists=LISTS)
        if change:
            change(home)
        plain: dict[str, Any] = {"dataset": "voc", "backbone": "shufflenet_v2_x0_5", "weights": "random", "epochs": 2}
        plain |= {"image_size": 64, "resize": "squash", "hidden": 8, "batch_size": 4, "precision": "float32"}
        chosen = params(**(plain | {"head": "grid", "cut": "map"} | knobs))
        for stage in (index, split, extract, train, evaluate):
            stage.main(chosen)
        return chosen

    return make


def metrics() -> dict[str, Any]:
    numbers: dict[str, Any] = json.loads((paths.EVALUATION).read_text())
    return numbers


def table(name: str) -> list[dict[str, str]]:
    with (paths.PLOTS / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


def rows_of(part: str) -> list[dict[str, str]]:
    with (paths.REPORTS / "predictions.csv").open() as file:
        return [row for row in csv.DictReader(file) if row["split"] == part]


def files() -> dict[str, bytes]:
    files_written = [path for folder in (paths.HEAD, paths.PREDICTIONS, paths.REPORTS) for path in folder.rglob("*")]
    return {str(path): path.read_bytes() for path in files_written if path.is_file()}


def annotate(home: Path, name: str, *objects: tuple[str, miniature.Corners]) -> None:
    (home / f"Annotations/{name}.xml").write_text(miniature.voc_xml(*objects))


# --- the whole way


@pytest.mark.parametrize("place", HEADS)
def test_a_kept_head_finds_identical_boxes(run: Make, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    trained: list[Any] = []
    store = model.save_head

    def spy(folder: Path, module: Any, about: Any) -> None:
        trained.append(module)
        store(folder, module, about)

    monkeypatch.setattr(model, "save_head", spy)
    chosen = run(**HEADS[place])
    head_data, (module,) = data.load_data(chosen), trained
    restored, described = model.load_head(paths.HEAD)
    assert described["classes"] == head_data.classes == ["cat", "dog"]
    runs = []
    for whole in (module, restored):
        options = registry.HEADS[chosen.head].read(described["knobs"])
        task = tasks.DetectionTask(chosen.head, whole, options, classes=2, params=chosen)
        runs.append(task.detect(whole, head_data.splits["test"], iou=0.45))
    for first, second in zip(*runs, strict=True):
        assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))


@pytest.mark.parametrize("place", ["grid", "multiscale", "images"])
def test_the_same_input_gives_the_same_files(run: Make, place: str) -> None:
    run(**HEADS[place])
    once = files()
    run(**HEADS[place])
    assert files() == once


def test_objects_are_counted_and_difficult_ones_aside(run: Make) -> None:
    run()
    assert metrics()["n_objects"] == LISTS["test"]
    assert [(row["class"], row["n_train"], row["n_val"], row["n_test"]) for row in table("per_class")] == [
        ("cat", "4", "3", "2"), ("dog", "4", "3", "2")
    ]  # fmt: skip


def test_the_boxes_lie_in_their_images_and_their_rows_agree(run: Make) -> None:
    chosen = run()
    tensors = load_file(paths.PREDICTIONS / "boxes.safetensors")
    described = json.loads((paths.PREDICTIONS / "predictions.json").read_text())
    for name in ("val", "test"):
        rows = {len(tensors[f"{name}_{what}"]) for what in ("boxes", "scores", "labels", "images", "kinds", "meant")}
        assert len(rows) == 1
        assert tensors[f"{name}_boxes"].min() >= 0 and tensors[f"{name}_boxes"].max() <= SIDE
        assert len(described["images"][name]) == LISTS[name] > int(tensors[f"{name}_images"].max())
    assert described["decide"] == chosen.decide.model_dump()
    assert sum(group["objects"] for group in described["recall_by_size"]) == LISTS["test"]


def test_an_overlap_that_may_stay_changes_evaluation_alone(run: Make) -> None:
    chosen = run(head="anchors", boxes={"anchor_count": 1})
    head = (paths.HEAD / "head.safetensors").read_bytes()
    counts = []
    for iou in (0.1, 1.0):
        evaluate.main(chosen.model_copy(update={"decide": chosen.decide.model_copy(update={"nms_iou": iou})}))
        counts.append(len(load_file(paths.PREDICTIONS / "boxes.safetensors")["test_scores"]))
    assert counts[0] < counts[1]
    assert (paths.HEAD / "head.safetensors").read_bytes() == head


# --- refit


def test_after_a_refit_validation_is_judged_by_the_head_before_it(run: Make) -> None:
    run(epochs=3, monitor="val_map_50", lr=0.01)
    plain, chosen_head = metrics(), (paths.HEAD / "head.safetensors").read_bytes()
    plain_boxes, plain_rows = load_file(paths.PREDICTIONS / "boxes.safetensors"), rows_of("val")
    assert plain_rows
    run(epochs=3, monitor="val_map_50", lr=0.01, refit="trainval")
    again = metrics()
    assert (paths.HEAD / "chosen/head.safetensors").read_bytes() == chosen_head
    assert (paths.HEAD / "head.safetensors").read_bytes() != chosen_head
    assert {name: again[name] for name in again if name.startswith("val_")} == {
        name: plain[name] for name in plain if name.startswith("val_")
    }
    boxes = load_file(paths.PREDICTIONS / "boxes.safetensors")
    assert all(torch.equal(boxes[name], plain_boxes[name]) for name in boxes if name.startswith("val_"))
    assert rows_of("val") == plain_rows and not torch.equal(boxes["test_scores"], plain_boxes["test_scores"])


@pytest.mark.parametrize("place", HEADS)
def test_without_test_images_the_head_before_the_refit_is_judged_on_val(run: Make, place: str) -> None:
    def change(home: Path) -> None:
        (home / "ImageSets/Main/test.txt").unlink()

    knobs = {"split": {"protocol": "published"}, "change": change, **HEADS[place]}
    run(refit="none", **knobs)
    plain, plots = metrics(), {name: table(name) for name in ("views", "per_class", "precision_recall")}
    run(refit="trainval", **knobs)
    assert plain["n_test"] == 0 and not {"map_50", "accuracy"} & set(plain)
    assert metrics() == plain and {name: table(name) for name in plots} == plots


# --- views


def test_the_page_says_that_there_is_no_test_split(run: Make) -> None:
    chosen = run(split={"protocol": "published"}, change=lambda home: (home / "ImageSets/Main/test.txt").unlink())
    for stage in (review, lr_sweep, report):
        stage.main(chosen)
    assert "There is no test split" in (paths.REPORTS / "report.md").read_text()


def test_averaging_over_views_merges_what_they_find(run: Make) -> None:
    augment = {"crop": 1.0, "flip": True, "lighting": 0.0}
    chosen = run(views=3, augment=augment)
    alone = load_file(paths.PREDICTIONS / "boxes.safetensors")
    assert [row["views"] for row in table("views")] == ["1", "2", "3"]
    assert float(table("views")[0]["map_50"]) == pytest.approx(metrics()["map_50"], abs=1e-6)
    evaluate.main(chosen.model_copy(update={"decide": chosen.decide.model_copy(update={"tta": True})}))
    assert float(table("views")[2]["map_50"]) == pytest.approx(metrics()["map_50"], abs=1e-6)
    assert not torch.equal(load_file(paths.PREDICTIONS / "boxes.safetensors")["test_scores"], alone["test_scores"])


# --- out of the ordinary


def test_images_without_objects_and_a_class_that_train_lacks(run: Make) -> None:
    def change(home: Path) -> None:
        annotate(home, "00000_000000")
        annotate(home, "00001_000000")
        annotate(home, "00002_000000")
        annotate(home, "00002_000001", ("cow", (5, 5, 40, 40)), ("cat", (3, 3, 20, 20)))

    run(change=change)
    numbers = metrics()
    assert [numbers[f"n_{part}"] for part in LISTS] == list(LISTS.values()) and numbers["classes"] == 3
    (cow,) = (row for row in table("per_class") if row["class"] == "cow")
    assert (cow["n_train"], cow["n_test"]) == ("0", "1") and float(cow["ap_50"]) <= 0.5
    assert {row["class"]: row["ap_50"] for row in table("per_class")}["dog"] != ""


@pytest.mark.parametrize("place", ["largest", "grid", "anchors", "multiscale"])
def test_three_hundred_boxes_in_an_image_and_how_many_a_head_cannot_hold(run: Make, place: str) -> None:
    many = [("cat", (x, y, x + 5, y + 3)) for x in range(1, 56, 3) for y in range(1, 60, 4)]

    def change(home: Path) -> None:
        for part in range(3):
            annotate(home, f"0000{part}_000000", *many)

    run(change=change, **HEADS[place])
    numbers = metrics()
    objects = len(many) + LISTS["train"] - 1
    assert numbers["n_objects"] == len(many) + LISTS["test"] - 1
    assert numbers["unheld_share"] == pytest.approx(numbers["unheld"] / objects, abs=1e-6)
    held = {"largest": LISTS["train"], "grid": 16 + LISTS["train"] - 1, "anchors": 4 + LISTS["train"] - 1}
    if place == "multiscale":
        assert 0 < numbers["unheld"] < objects
    else:
        assert objects - held[place] == numbers["unheld"]


def test_a_test_part_without_any_object(run: Make) -> None:
    def change(home: Path) -> None:
        for number in range(LISTS["test"]):
            annotate(home, f"00002_{number:06}")

    for position in ("largest", "grid"):
        run(change=change, **HEADS[position])
        numbers = metrics()
        assert numbers["n_objects"] == 0 and not {"map_50", "mean_iou", "accuracy"} & set(numbers)
        assert {"largest": "val_mean_iou", "grid": "val_map_50"}[position] in numbers


# --- the largest object, by hand


def by_hand() -> tuple[HeadData, list[Detections]]:
    """Views of 100 pixels on images of 200 x 100: squashed, so that x is halved."""
    truths = [
        GroundTruth(torch.tensor([[0.0, 0, 100, 50], [0, 0, 20, 20]]), torch.tensor([1, 0]), *torch.zeros(2, 2).bool()),
        GroundTruth(torch.zeros(0, 4), torch.zeros(0).long(), *torch.zeros(2, 0).bool()),
        GroundTruth(torch.tensor([[50.0, 25, 150, 75]]), torch.tensor([0]), *torch.zeros(2, 1).bool()),
    ]
    affine = torch.tensor([[0.5, 0, 0], [0, 1, 0]]).repeat(3, 1, 1, 1)
    ground_truth = GroundTruthBoxes(truths, affine, torch.tensor([[200, 100]] * 3), 100)
    part = SplitData(torch.zeros(3, 1, 4, 1, 1), torch.zeros(3).long(), [0, 1, 2], None, ground_truth)
    boxes = [[0.0, 0, 100, 50], [5.0, 5, 9, 9], [50.0, 25, 150, 50]]  # right, of no object, the upper half
    actual = [
        Detections(torch.tensor([box]), torch.ones(1), torch.tensor([label]))
        for box, label in zip(boxes, (1, 1, 0), strict=True)
    ]
    return HeadData(["a", "b"], {"train": part, "val": part, "test": part}, {"image_size": 100}), actual


BOX = {
    "mean_iou": (1 + 0.5) / 2,
    "box_l1_px": 25 / 8,  # one corner of eight is a quarter of the view away
    "box_smooth_l1": (0.125**2 + 0.25**2) / 2 / 8,  # centre and height, beta 1
}


@pytest.mark.parametrize(
    ("predict", "expected"),
    [("box", BOX), ("class", {"accuracy": 1.0}), ("both", BOX | {"accuracy": 1.0, "correct_at_iou50": 1.0})],
)
def test_the_scores_of_the_largest_object_by_hand(predict: str, expected: dict[str, float]) -> None:
    head_data, detections = by_hand()
    assert judging._largest_scores(head_data.splits["test"], detections, head_data, predict) == pytest.approx(expected)


def test_a_wrong_class_or_a_box_beside_is_not_correct() -> None:
    head_data, detections = by_hand()
    other = [detections[0]._replace(labels=torch.tensor([0])), detections[1], detections[2]]
    scores = judging._largest_scores(head_data.splits["test"], other, head_data, "both")
    assert (scores["accuracy"], scores["correct_at_iou50"]) == (0.5, 0.5)
    aside = [detections[0], detections[1], detections[2]._replace(boxes=torch.tensor([[50.0, 25, 150, 48]]))]
    assert judging._largest_scores(head_data.splits["test"], aside, head_data, "both")["correct_at_iou50"] == 0.5


def test_what_needs_no_training_is_the_mean_box_and_the_commonest_class() -> None:
    """The mean box lies an eighth of the view from both: [0, 0, 0.5, 0.5] and [0.25, 0.25, 0.75, 0.75]."""
    head_data, _ = by_hand()
    common = 0.375**2
    assert judging._typical_box_baseline(head_data, "test") == pytest.approx(
        {"typical_mean_iou": common / (2 * 0.25 - common), "majority": 0.5}
    )


@pytest.mark.parametrize("predict", ["box", "class", "both"])
def test_each_kind_of_largest_has_its_own_scores(run: Make, predict: str) -> None:
    run(**HEADS["largest"], boxes={"predict": predict})
    box, label = {"mean_iou", "box_l1_px", "box_smooth_l1"}, {"accuracy"}
    expected = {"box": box, "class": label, "both": box | label | {"correct_at_iou50"}}[predict]
    numbers = metrics()
    for prefix in ("", "val_"):
        assert {name for name in (*box, *label, "correct_at_iou50") if prefix + name in numbers} == expected


# --- slips


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"cut": "map", "head": "multiscale"}, r"`head` multiscale takes maps at several strides, and `cut` map is"),
        (
            {"cut": "pyramid", "head": "grid"},
            r"`head` grid takes a map .*, and `cut` pyramid is maps at several strides",
        ),
        ({"cut": "pooled", "head": "grid"}, r"`head` grid takes a map .*, and `cut` pooled is a vector"),
        ({"head": "mlp", "monitor": "val_map_50"}, r"`monitor` val_map_50 needs a head that finds objects, found mlp"),
        (
            {"head": "grid", "monitor": "val_accuracy"},
            r"`monitor` val_accuracy needs a head that names one class per image",
        ),
        (
            {"head": "grid", "seeds": 2},
            r"`seeds` is for heads that name the class of an image .*, found 2 with head grid: set seeds=1",
        ),
        ({"boxes": {"anchor_ignore": 0.6}}, r"anchor_ignore must not be above anchor_match"),
    ],
)
def test_slips_are_told_before_anything_runs(run: Make, knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(**knobs)


def test_images_without_boxes_are_told(class_folder: Callable[[int], Path], workplace: Path, params: Make) -> None:
    root = class_folder(8)
    names = [path.relative_to(root) for path in sorted(root.rglob("*.jpg"))]
    (root / "labels.csv").write_text("\n".join(["path,label", *(f"{name},{name.parent}" for name in names), ""]))
    chosen = params(dataset="csv", root=str(root), backbone="shufflenet_v2_x0_5", weights="random",
                    image_size=64, cut="map", head="grid")  # fmt: skip
    for stage in (index, split, extract):
        stage.main(chosen)
    with pytest.raises(UserError, match="`head`: grid finds objects, and dataset csv has no boxes"):
        train.main(chosen)


def test_a_head_of_other_classes_is_refused(run: Make) -> None:
    chosen = run()
    described = json.loads((paths.HEAD / "head.json").read_text())
    (paths.HEAD / "head.json").write_text(json.dumps(described | {"classes": ["cat", "cow"]}))
    with pytest.raises(UserError, match="`cache/head` was trained on other features or classes"):
        evaluate.main(chosen)
