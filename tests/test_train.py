"""train and evaluate as stages, on features that a test makes."""

import csv
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import pytest
import torch

from stages import evaluate, files, paths, split, train
from stages.datasets import index_file, splits
from stages.datasets.base import Box
from stages.errors import UserError
from stages.evaluation import unknown
from stages.features import h5
from stages.heads import registry
from stages.training.data import HeadData, SplitData

CLASSES, EACH, SIZE, VIEWS = 3, 12, 6, 2
BOX = Box("raccoon", (1, 1, 9, 9))
Make = Callable[..., Any]


@pytest.fixture
def run(workplace: Path, params: Make) -> Make:
    """`run(**knobs)`: split, train and evaluate on noisy features of three classes; the metrics."""
    images = [(label, number) for label in range(CLASSES) for number in range(EACH)]
    rows = [
        index_file.IndexRow(
            f"{label}/{number}.jpg", f"{label * EACH + number:064x}", 10, 10, f"class-{label}", (), None
        )
        for label, number in images
    ]
    index_file.write(paths.index("logos"), rows)
    generator = np.random.default_rng(0)
    x = generator.normal(size=(len(rows), VIEWS, SIZE)).astype("f2")
    for position, (label, _) in enumerate(images):
        x[position, :, label] += 1.5
    members = h5.layout(len(rows), VIEWS, {"pooled": ((SIZE,), "f2")})
    arrays: dict[str, h5.Array] = {
        "features/pooled": x,
        "sha256": np.array([row.sha256 for row in rows], "S64"),
        "ok": np.ones(len(rows), "u1"),
        "views": np.zeros((len(rows), VIEWS, 2, 3), "f4"),
    }
    provenance = {"backbone": "efficientnet_lite0", "cut": "pooled", "views": ["evaluation", "drawn"], "parameters": 7,
                  "image_size": 224}  # fmt: skip
    out = paths.features("logos", "efficientnet_lite0", "pooled")
    h5.write(out, members=members, provenance=provenance, pieces=iter([(0, arrays)]))

    def make(**knobs: Any) -> dict[str, Any]:
        chosen = params(views=VIEWS, epochs=3, hidden=8, **knobs)
        split.main(chosen)
        train.main(chosen)
        evaluate.main(chosen)
        found: dict[str, Any] = json.loads((paths.EVALUATION).read_text())
        return found

    return make


def test_metrics_are_flat_and_complete(run: Make) -> None:
    actual = run()
    named = """task dataset backbone cut tap head n_train n_val n_test top1 macro_accuracy cross_entropy ece
    top1_low top1_high val_top1 val_macro_accuracy val_cross_entropy val_ece val_top1_low val_top1_high chance majority
    ridge_top1 parameters_total parameters_trainable"""
    assert set(named.split()) <= set(actual)
    assert not {"top5", "seeds"} & set(actual)  # three classes, one seed
    assert actual["n_train"] + actual["n_val"] + actual["n_test"] == CLASSES * EACH
    assert actual["chance"] == pytest.approx(1 / 3, abs=1e-6)
    assert actual["parameters_total"] == actual["parameters_trainable"] + 7


def test_several_seeds_give_mean_and_spread_of_the_single_runs(run: Make) -> None:
    alone = [run(seed=seed) for seed in (5, 6, 7)]
    together = run(seed=5, seeds=3)
    for name in ("top1", "cross_entropy", "macro_accuracy"):
        values = [found[name] for found in alone]
        assert together[f"{name}_mean"] == pytest.approx(mean(values), abs=2e-6)
        assert together[f"{name}_sd"] == pytest.approx(stdev(values), abs=2e-6)
    assert together["top1"] == alone[0]["top1"] and together["seeds"] == 3


@pytest.mark.parametrize("head", ["linear", "mlp", "ridge"])
def test_the_same_input_gives_the_same_bytes(run: Make, head: str) -> None:
    def everything() -> dict[str, bytes]:
        run(head=head)
        files = [path for folder in (paths.HEAD, paths.PREDICTIONS, paths.REPORTS) for path in folder.rglob("*")]
        return {str(path): path.read_bytes() for path in files if path.is_file()}

    assert everything() == everything()


def test_auto_leaves_what_the_head_that_it_takes_leaves_when_named(
    run: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    def everything() -> dict[str, bytes]:
        folders = (paths.HEAD, paths.PREDICTIONS, paths.REPORTS)
        files_left = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        return {str(path): path.read_bytes() for path in files_left}

    run(head="auto", seeds=2)
    tried = everything()
    rows = json.loads(tried.pop(str(paths.CANDIDATES)))
    seconds = json.loads((paths.TIMINGS / "candidates.json").read_text())["seconds"]
    trained = [row for row in rows if not row["left_out"]]
    assert set(seconds) == {f"{row['head']} with normalize={row['normalize']}" for row in trained}
    assert len(rows) == len(registry.HEADS["auto"].candidates)
    taken = f"auto takes head={rows[0]['head']} normalize={rows[0]['normalize']}, from {len(rows)} candidates"
    assert taken in capsys.readouterr().out
    run(head=rows[0]["head"], normalize=rows[0]["normalize"], seeds=2)
    assert everything() == tried


@pytest.mark.parametrize("lr", [0.01, "auto"])
def test_the_rate_of_auto_is_that_of_mlp(
    run: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], lr: Any
) -> None:
    files.write_json(paths.REPORTS / "lr_sweep.json", {})
    spec = dataclasses.replace(registry.HEADS["auto"], candidates=(("mlp", "standardize"),))
    monkeypatch.setitem(registry.HEADS, "auto", spec)
    run(head="auto", lr=lr)
    described = json.loads((paths.HEAD / "head.json").read_text())
    assert described["head"] == "mlp" and described["params"]["lr"] == (0.001 if lr == "auto" else lr)
    assert described.get("lr_from") == ("default of mlp" if lr == "auto" else None)
    said = "lr: auto takes 0.001, the default of mlp: head auto has no range test"
    assert (said in capsys.readouterr().out) == (lr == "auto")


def test_heads_of_other_seeds_do_not_outlive_their_run(run: Make) -> None:
    assert run(seeds=2)["seeds"] == 2
    assert "seeds" not in run()


def predictions() -> list[dict[str, str]]:
    with (paths.REPORTS / "predictions.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("head", ["linear", "mlp", "ridge", "lda", "logistic", "knn", "auto"])
def test_folds_judge_each_image_once(run: Make, head: str) -> None:
    actual = run(head=head, split={"protocol": "kfold", "folds": 4})
    rows = predictions()
    assert sorted(row["path"] for row in rows) == sorted(row.path for row in index_file.read("logos"))
    assert {row["split"] for row in rows} == {"fold 1", "fold 2", "fold 3", "fold 4"}
    right = [row["label"] == row["predicted"] for row in rows]
    assert actual["top1"] == pytest.approx(mean(right), abs=1e-6)
    per_fold = [
        mean(ok for ok, row in zip(right, rows, strict=True) if row["split"] == fold)
        for fold in sorted({row["split"] for row in rows})
    ]
    assert actual["folds"] == 4 and actual["top1_mean"] == pytest.approx(mean(per_fold), abs=2e-6)
    assert actual["top1_sd"] == pytest.approx(stdev(per_fold), abs=2e-6)
    assert [actual[f"n_{name}"] for name in ("train", "val", "test")] == [18, 9, 36]
    judged = json.loads((paths.PREDICTIONS / "predictions.json").read_text())["images"]
    everything = [row.sha256 for row in index_file.read("logos")]
    assert judged == {"val": everything, "test": everything}  # in the order of the index, whatever the folds


def test_a_fold_is_judged_by_the_head_that_its_splits_give(run: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    run(split={"protocol": "kfold", "folds": 3})
    with_folds = {row["path"]: row for row in predictions()}
    turns = splits.rotated(splits.read_folds("logos"))
    monkeypatch.setattr(split, "main", lambda chosen: None)
    for number, images_of in enumerate(turns, 1):
        files.write_json(paths.split("logos"), images_of)
        run()
        alone = [row for row in predictions() if row["split"] == "test"]
        assert len(alone) == 12
        for row in alone:
            assert with_folds[row["path"]] == row | {"split": f"fold {number}"}


def test_the_head_that_is_kept_is_the_one_that_its_splits_give(run: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    run(split={"protocol": "kfold", "folds": 3})
    kept = (paths.HEAD / "head.safetensors").read_bytes()
    images_of = splits.read("logos")
    monkeypatch.setattr(split, "main", lambda chosen: None)
    files.write_json(paths.split("logos"), images_of)
    run()
    assert (paths.HEAD / "head.safetensors").read_bytes() == kept
    assert not paths.fold(1).exists()


def test_a_refit_is_one_in_every_fold(run: Make) -> None:
    run(refit="trainval", split={"protocol": "kfold", "folds": 3})
    folders = [paths.HEAD, *(paths.fold(number) for number in (1, 2, 3))]
    for folder in folders:
        assert (folder / "head.safetensors").read_bytes() != (folder / "chosen/head.safetensors").read_bytes()


def test_what_counts_as_unknown_is_told_and_changes_without_training(run: Make) -> None:
    actual = run(decide={"unknown": 0.2})
    assert 0 < actual["unknown_share"] < 1 and 0 <= actual["unknown_accuracy"] <= 1
    few = unknown.read()
    assert run(decide={"unknown": 0.6})["unknown_share"] > actual["unknown_share"]
    many = unknown.read()
    assert few and many and many.least > few.least
    assert "unknown_share" not in run(decide={"unknown": 0.0}) and unknown.read() is None


def test_with_folds_the_kept_head_knows_its_own_images(run: Make) -> None:
    actual = run(split={"protocol": "kfold", "folds": 3}, decide={"unknown": 0.2})
    known = unknown.read()
    assert known and len(known.vectors) == 24 and 0 < actual["unknown_share"] < 1


def test_views_are_averaged_where_it_is_asked_for(run: Make) -> None:
    plain, averaged = run(), run(decide={"tta": True})
    lines = (paths.PLOTS / "views.csv").read_text().split()
    assert lines[0] == "views,accuracy,map_50,mean_iou,map"
    assert float(lines[1].split(",")[1]) == pytest.approx(plain["top1"], abs=1e-6)
    assert float(lines[2].split(",")[1]) == pytest.approx(averaged["top1"], abs=1e-6)
    assert averaged["cross_entropy"] != plain["cross_entropy"]


def test_a_confident_answer_is_told_apart(run: Make) -> None:
    assert run(decide={"confidence": 0.0})["confident_share"] == 1
    actual = run(decide={"confidence": 1.0})
    assert actual["confident_share"] == 0 and actual["confident_accuracy"] == 0


def with_boxes(**changes: Any) -> None:
    """Gives every image of the index a box."""
    rows = [dataclasses.replace(row, objects=(BOX,), **changes) for row in index_file.read("logos")]
    index_file.write(paths.index("logos"), rows)


@pytest.mark.parametrize("head", ["auto", "mlp"])
def test_a_classifier_of_objects_of_one_class_is_refused_with_the_heads_that_find_them(run: Make, head: str) -> None:
    with_boxes(label="raccoon")
    with pytest.raises(UserError, match=r"image of dataset logos is of class raccoon\. Take a head .*\(grid, anchors"):
        run(head=head)


def test_auto_says_what_it_does_with_boxes(run: Make, capsys: pytest.CaptureFixture[str]) -> None:
    run(head="auto")
    assert train.BOXES not in capsys.readouterr().out
    with_boxes()
    run(head="auto")
    assert train.BOXES in capsys.readouterr().out


@pytest.mark.parametrize("head", ["ridge", "auto", "mlp"])
def test_refit_auto_trains_heads_in_closed_form_on_val_too(run: Make, head: str) -> None:
    before = run(head=head, refit="none")
    without = (paths.HEAD / "head.safetensors").read_bytes()
    after = run(head=head, refit="auto")
    described = json.loads((paths.HEAD / "head.json").read_text())
    again = registry.HEADS[described["head"]].closed_form
    assert described["params"]["refit"] == ("trainval" if again else "none")
    assert ((paths.HEAD / "head.safetensors").read_bytes() != without) == again
    assert (paths.HEAD / "chosen").is_dir() == again and after["val_top1"] == before["val_top1"]
    assert again == (head != "mlp")


def test_without_test_images_no_head_that_trained_on_val_judges_it(run: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = split.main

    def without_test(params: Any) -> None:
        draw(params)
        described = json.loads(paths.split("logos").read_text())
        described["val"], described["test"] = described["val"] + described["test"], []
        paths.split("logos").write_text(json.dumps(described))

    monkeypatch.setattr(split, "main", without_test)
    plain, again = (run(head="mlp", seeds=3, refit=refit) for refit in ("none", "trainval"))
    assert plain["n_test"] == 0 and {"ridge_top1", "val_top1", "top1_sd"} <= set(plain)
    assert again == plain


def test_heads_are_saved_all_or_none(run: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    run(head="mlp", refit="none")
    before = {path: path.read_bytes() for path in paths.HEAD.rglob("*") if path.is_file()}
    save_head, saved = train.model.save_head, list[Path]()

    def fail_at_the_second(folder: Path, *arguments: Any) -> None:
        saved.append(folder)
        if len(saved) == 2:
            raise files.Unwritable("the disk is full")
        save_head(folder, *arguments)

    monkeypatch.setattr(train.model, "save_head", fail_at_the_second)
    with pytest.raises(files.Unwritable):
        run(head="linear", refit="none")
    assert {path: path.read_bytes() for path in paths.HEAD.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(("test_images", "by_folds", "refits"), [(9, False, True), (0, False, False), (0, True, True)])
def test_refit_auto_leaves_val_alone_where_val_alone_judges_the_head(
    params: Make, test_images: int, by_folds: bool, refits: bool
) -> None:
    split_data = SplitData(torch.zeros(test_images, 1, 2), torch.zeros(test_images).long(), [])
    data = HeadData(["a", "b"], {"test": split_data}, {})
    assert train.refits(params(head="ridge", refit="auto"), data, by_folds) == refits
    assert not train.refits(params(head="mlp", refit="auto"), data, by_folds)
    assert train.refits(params(head="mlp", refit="trainval"), data, by_folds)
