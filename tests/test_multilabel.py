"""Several labels per image from the table to predict: every stage and command does it, or refuses with a reason."""

import argparse
import csv
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from stages import label, paths, predict, report, sweep, train
from stages.comparing import comparison, revisions
from stages.comparing.revisions import Revision
from stages.datasets import splits
from stages.errors import UserError
from stages.heads.registry import HEADS
from stages.params import Params, from_tree, load
from stages.prediction import answers, predictor
from stages.reporting import gather
from stages.sweeping import many_heads
from stages.training import loop
from stages.training.data import load_data
from tests import defaults
from tests.conftest import merged

COLOURS = ("red", "green", "blue")
HEADS_FOR_LABELS = ("linear", "mlp", "ridge", "logistic", "knn", "auto")
BASE: dict[str, Any] = {
    "dataset": "csv", "backbone": "shufflenet_v2_x0_5", "weights": "random", "image_size": 64, "epochs": 20,
    "hidden": 16, "batch_size": 16, "lr": 0.01, "head": "ridge", "lr_sweep": {"steps": 10},
    "extract": {"batch_size": 16, "engine": "torch"},
}  # fmt: skip
STAGES = ("index", "split", "extract", "review", "lr_sweep", "train", "evaluate", "report")


def draw(folder: Path, images: int = 60) -> None:
    """Images with a red, a green and a blue square or without them, and a table of their labels."""
    rng, rows = np.random.default_rng(0), ["path,label"]
    for number in range(images):
        pixels, there = rng.integers(0, 60, (48, 48, 3), dtype=np.uint8), rng.random(3) < 0.5
        for channel in range(3):
            if there[channel]:
                pixels[16 * channel : 16 * channel + 16, :, channel] = 255
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
        names = "|".join(name for name, is_there in zip(COLOURS, there, strict=True) if is_there)
        rows.append(f"{number:02}.png,{names}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")


def write_params(home: Path, **overrides: Any) -> Params:
    tree = merged(merged(defaults.tree() | {"root": str(home / "photos")}, BASE), overrides)
    (home / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    return load(home / "params.yaml")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A workplace with index, split and features, and a function that runs more stages there."""
    home = tmp_path_factory.mktemp("labels")
    (home / "photos").mkdir()
    draw(home / "photos")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.delenv("DVC_ROOT", raising=False)
        patch.setattr(report, "beside", lambda: ThreadPoolExecutor(1))  # another process would take seconds to start

        def run(*stages: str, **overrides: Any) -> dict[str, Any]:
            params = write_params(home, **overrides)
            for stage in stages:
                import_module(f"stages.{stage}").main(params)
            return json.loads(paths.EVALUATION.read_text()) if "evaluate" in stages else {}

        run("index", "split", "extract", "review")
        yield run


def test_the_index_lists_several_labels_and_splits_keep_their_shares(made: Any) -> None:
    data = load_data(load())
    assert data.classes == ["blue", "green", "red"] and data.multilabel
    shares = {name: (split.y == 1).double().mean(0) for name, split in data.splits.items()}
    assert (shares["train"] - shares["test"]).abs().max() < 0.1
    assert "iterative stratification" in json.loads(paths.split("csv").read_text())["source"]
    assert sum(map(len, splits.read("csv").values())) == 60


@pytest.mark.parametrize("head", HEADS_FOR_LABELS)
def test_a_head_learns_them_and_the_page_tells(made: Any, head: str) -> None:
    metrics = made("lr_sweep", "train", "evaluate", "report", head=head)
    assert metrics["task"] == "multilabel" and metrics["map"] > metrics["prevalence"] + 0.15
    assert metrics["map_low"] <= metrics["map"] <= metrics["map_high"]
    assert len(json.loads(paths.METRICS.read_text())) <= 12
    page, text = report.PAGE.read_text(), (paths.REPORTS / "report.md").read_text()
    for content in (page, text):
        assert "labels of unseen images are recognised" in content and "mAP" in content
    if head == "auto":
        assert "mAP on validation is" in text and "lda" not in text
    with open(paths.REPORTS / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {"labels", "predicted", "missed", "added", "p(red)"} <= rows[0].keys() and len(rows) == 30


@pytest.mark.parametrize(
    "knobs",
    [
        {"head": "attentive", "cut": "map", "queries": 4},
        {"head": "mlp", "loss": "focal", "class_weights": "balanced", "label_smoothing": 0.1, "monitor": "val_map",
         "seeds": 2, "refit": "trainval", "schedule": "plateau"},
        {"head": "logistic", "refit": "trainval", "views": 2, "decide": {"tta": True}},
        {"head": "linear", "cut": "stage3", "tap": "pooled", "phases": [{"epochs": 2, "train_from": "all"}]},
    ],
    ids=lambda knobs: knobs["head"],
)  # fmt: skip
def test_knobs_that_work_for_one_label_work_for_several(made: Any, knobs: dict[str, Any]) -> None:
    metrics = made("extract", "train", "evaluate", "report", **knobs)
    assert 0 < metrics["map"] <= 1
    if knobs.get("seeds"):
        assert metrics["seeds"] == 2 and metrics["map_sd"] >= 0
    made("extract")


def test_predict_prints_every_label_above_its_threshold(made: Any, capsys: pytest.CaptureFixture[str]) -> None:
    made("train", "evaluate", head="ridge")
    loaded = predictor.load()
    assert loaded.thresholds and len(loaded.thresholds) == 3
    names = sorted(str(path) for path in Path("photos").glob("*.png"))[:8]
    described = json.loads((paths.PREDICTIONS / "predictions.json").read_text())
    for file, prediction in answers.predict(loaded, names):
        line = answers.answer(loaded, file, prediction, confidence=None, top=None)
        said = [item["label"] for item in line["labels"]]
        least = zip(loaded.classes, prediction.values.tolist(), described["thresholds"], strict=True)
        expected = {name for name, value, threshold in least if value >= threshold}
        assert set(said) == expected and len(line["top"]) == 3
        every = answers.answer(loaded, file, prediction, confidence=0.0, top=None)
        assert len(every["labels"]) == 3
        sentence = answers.sentence(answers.answer(loaded, file, prediction, confidence=1.0, top=None))
        assert "none of the labels (most likely " in sentence
    arguments = argparse.Namespace(
        paths=names, json=False, out=None, top=None, confidence=None, quiet=True, format=None, ids=None
    )
    assert predict.main(arguments) == 0 and len(capsys.readouterr().out.splitlines()) == 8


def test_thresholds_and_predictions_are_those_of_evaluate(made: Any) -> None:
    made("train", "evaluate", head="linear")
    loaded = predictor.load()
    with open(paths.REPORTS / "predictions.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"][:10]
    names = [f"photos/{row['path']}" for row in rows]
    for row, (file, prediction) in zip(rows, answers.predict(loaded, names), strict=True):
        line = answers.answer(loaded, file, prediction, confidence=None, top=None)
        assert sorted(item["label"] for item in line["labels"]) == sorted(filter(None, row["predicted"].split("|")))


# Stage or command × what it does not know, with the reason that it gives. All others work (the tests above).
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "head lda": ({"head": "lda", "task": "multi"}, r"`head` lda names one class per image"),
    "head squeezenet": ({"head": "squeezenet", "cut": "map", "task": "multi"}, r"`head` squeezenet names one class"),
    "head grid": ({"head": "grid", "cut": "map", "task": "multi"}, r"`head` grid finds objects"),
    "val_accuracy": ({"monitor": "val_accuracy", "task": "multi"}, r"val_accuracy needs one label per image"),
    "kfold": ({"split": {"protocol": "kfold"}, "task": "multi"}, r"kfold judges heads for one label"),
    "unlabelled": (
        {"dataset": "folder", "datasets": {"folder": {"unlabelled": "new"}}, "task": "multi"},
        r"unlabelled` does not go with task=multi",
    ),
    "val_map of one label": ({"monitor": "val_map", "task": "single"}, r"val_map needs images with several labels"),
}


@pytest.mark.parametrize("row", REFUSED)
def test_params_refuse_what_does_not_go_together(row: str, tmp_path: Path) -> None:
    knobs, reason = REFUSED[row]
    tree = merged(merged(defaults.tree() | {"root": str(tmp_path)}, BASE), knobs)
    with pytest.raises(UserError, match=reason):
        from_tree(tree)


def test_every_head_is_in_the_table() -> None:
    named = {row.split()[1] for row in REFUSED if row.startswith("head ")}
    finding = {name for name, spec in HEADS.items() if spec.finds_objects}
    learnt = {*HEADS_FOR_LABELS, "attentive", "lenet5", "smallnet"}
    assert learnt | named | finding == HEADS.keys()
    assert learnt == {name for name, spec in HEADS.items() if spec.multilabel}


def test_task_auto_is_checked_where_the_data_is_known(made: Any) -> None:
    with pytest.raises(UserError, match="`head` lda names one class per image"):
        made("train", head="lda")
    with pytest.raises(UserError, match="val_accuracy needs one label"):
        made("train", monitor="val_accuracy")


def test_commands_that_do_not_know_several_labels_say_so(made: Any) -> None:
    made(head="mlp")
    with pytest.raises(UserError, match=r"`label` asks for one class per image"):
        label.main(argparse.Namespace(apply=None, number=5, random=False, open=False))
    with pytest.raises(UserError, match=r"`label` asks for one class per image"):
        label.main(argparse.Namespace(apply=Path("labels.csv"), number=5, random=False, open=False))
    params = load()
    with pytest.raises(UserError, match=r"lda does not give each class a probability of its own"):
        load_data(params.model_copy(update={"head": "lda"}))


def test_a_split_without_any_label_in_train_is_refused(made: Any) -> None:
    made()
    data = load_data(load())
    data.splits["train"].y.zero_()
    with pytest.raises(UserError, match="No image of train has any label"):
        train.train(data, load(), paths.HEAD)


@pytest.fixture
def without_test(made: Any) -> Iterator[None]:
    """The test images are val images."""
    kept = paths.split("csv").read_text()
    described = json.loads(kept)
    described["val"], described["test"] = described["val"] + described["test"], []
    paths.split("csv").write_text(json.dumps(described))
    yield
    paths.split("csv").write_text(kept)


@pytest.mark.usefixtures("without_test")
def test_without_a_test_split_validation_is_judged(made: Any) -> None:
    metrics = made("train", "evaluate", "report", head="ridge")
    assert "map" not in metrics and metrics["val_map_low"] <= metrics["val_map"]
    assert "There is no test split" in (paths.REPORTS / "report.md").read_text()


@pytest.mark.usefixtures("without_test")
def test_without_a_test_split_no_head_that_trained_on_val_judges_it(made: Any) -> None:
    plain, again = (made("train", "evaluate", head="mlp", seeds=2, epochs=3, refit=fit) for fit in ("none", "trainval"))
    assert plain["n_test"] == 0 and {"ridge_map", "map_sd"} <= set(plain)
    assert again == plain


@pytest.mark.parametrize("knobs", [{}, {"loss": "focal", "class_weights": "balanced", "label_smoothing": 0.1}])
@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_a_sweep_trains_the_heads_that_train_gives(made: Any, head: str, knobs: dict[str, Any]) -> None:
    made(head=head, monitor="val_map", epochs=5, **knobs)
    params, device = load(), torch.device("cpu")
    data = load_data(params)
    data.splits["train"].y[::7, 1] = -1
    ((_, stacked),) = many_heads.fit(head, data, settings=[params], device=device)
    alone = loop.fit(head, data, params=params, device=device)
    assert stacked is not None
    for one, other in zip(alone.history, stacked.history, strict=True):
        assert (one.train_loss, one.val_loss, one.val_map) == pytest.approx(
            (other.train_loss, other.val_loss, other.val_map), rel=1e-3, abs=1e-4
        )


def test_a_sweep_is_sorted_by_map(made: Any) -> None:
    made(head="linear", monitor="val_map", epochs=3)
    rows = sweep.main(load(), dict.fromkeys(sweep.AXES) | {"lr": "0.0001,0.01", "weight_decay": "0"}, 2)
    scores = [row.val_map or 0 for row in rows]
    assert scores == sorted(scores, reverse=True) and rows[0].val_accuracy is None and rows[0].val_map_sd is not None
    assert "val mAP" in sweep.PAGE.read_text() and "val_map_sd" in sweep.CSV.read_text().splitlines()[0]


def test_compare_counts_missed_and_added_labels(made: Any) -> None:
    made("lr_sweep", "train", "evaluate", head="linear")
    answers_of_run = revisions._answers(gather.load("csv"))
    with open(paths.REPORTS / "predictions.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    wrong = [sum(len(list(filter(None, row[name].split("|")))) for name in ("missed", "added")) for row in rows]
    assert answers_of_run.mistakes.tolist() == wrong
    assert [text.replace(", ", "|").replace("none", "") for text in answers_of_run.texts] == [
        row["predicted"] for row in rows
    ]
    assert comparison._class_scores(Revision("x", {}, {}, None, answers_of_run)).keys() == set(COLOURS)


def test_the_same_head_twice_is_the_same(made: Any) -> None:
    first = made("train", "evaluate", head="mlp")
    head = (paths.HEAD / "head.safetensors").read_bytes()
    assert made("train", "evaluate", head="mlp") == first and (paths.HEAD / "head.safetensors").read_bytes() == head
