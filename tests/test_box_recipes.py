"""Recipes with a head for boxes, from official archives in miniature to their scores, with random weights."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages import download, evaluate, extract, index, paths, recipe, split, train
from stages.heads.registry import HEADS
from stages.params import Params
from tests.boxes import archives
from tests.test_recipe_runs import params_of

STAGES = (download, index, split, extract, train, evaluate)
SMALL: dict[str, Any] = {
    "image_size": 64,
    "boxes.anchor_count": 1,  # the boxes of a miniature are all alike
    "extract.dtype": "float32",  # what random weights give grows from block to block, in ResNet-152 beyond float16
}
Run = Callable[..., tuple[Params, dict[str, Any]]]


def recipes() -> dict[str, str]:
    """The recipes for boxes, and their datasets."""
    found = {name: recipe.knobs(name) for name in recipe.names()}
    return {name: knobs["dataset"] for name, knobs in found.items() if HEADS[knobs["head"]].finds_objects}


@pytest.fixture
def run(workplace: Path, repository: Path) -> Run:
    """`run(recipe)`: its params on a miniature, and its metrics."""

    def make(name: str) -> tuple[Params, dict[str, Any]]:
        home = workplace / "sent"
        home.mkdir()
        chosen = params_of(name, repository, workplace, archives.knobs(recipes()[name], home) | SMALL)
        for stage in STAGES:
            stage.main(chosen)
        return chosen, json.loads((paths.EVALUATION).read_text())

    return make


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_runs_from_the_archive_to_its_scores(run: Run, name: str) -> None:
    chosen, found = run(name)
    assert found["n_train"] and found["n_val"] and found["n_test"] and found["n_objects"]
    asked = {"class": "accuracy", "box": "mean_iou", "both": "correct_at_iou50"}[chosen.boxes.predict]
    score = asked if chosen.head == "largest" else "map_50"
    assert 0 <= found[score] <= 1 and 0 <= found[f"val_{score}"] <= 1
    assert all(math.isfinite(value) for value in found.values() if isinstance(value, float))


def test_another_head_or_loss_on_the_same_map_computes_no_image(run: Run, repository: Path, workplace: Path) -> None:
    chosen, _ = run("voc2012-resnet18-grid")
    kept = paths.features(chosen.dataset, chosen.backbone, chosen.cut)
    before = kept.read_bytes()
    others: list[dict[str, Any]] = [
        {"head": "largest", "monitor": "val_loss"},
        {"head": "anchors"},
        {"head": "grid", "loss": "focal", "boxes": chosen.boxes.model_copy(update={"box_loss": "l1"})},
    ]
    for change in others:
        other = chosen.model_copy(update=change)
        assert extract.main(other)["computed"] == 0
        train.main(other)
        evaluate.main(other)
        assert json.loads((paths.HEAD / "head.json").read_text())["head"] == change["head"]
    assert kept.read_bytes() == before
    stages = yaml.safe_load((repository / "dvc.yaml").read_text())["stages"]
    knobs = {knob for entry in stages["extract"]["params"] for knob in entry["params.yaml"]}
    assert not {"head", "loss", "boxes", "tap"} & knobs
