"""Recipes from the archive to the page, on a miniature: random weights, small images, an epoch or two."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages import download, evaluate, extract, index, lr_sweep, paths, recipe, report, review, split, train
from stages.params import Params, load
from tests import defaults
from tests.datasets import miniature

STAGES = (index, split, extract, review, lr_sweep, train, evaluate, report)
QUICK: dict[str, Any] = {"weights": "random", "epochs": 2, "batch_size": 8, "lr_sweep.steps": 10}
PARTS = {"train": 15, "val": 9, "test": 15}  # of the miniature archive, by the notebook's protocol
COUNTS = {
    "adidas": {"train": 4, "val": 2, "test": 3},
    "hp": {"train": 4, "val": 2, "test": 3},
    "ups": {"train": 4, "val": 2, "test": 3},
    "no-logo": {"train": 3, "val": 3, "test": 6},
}
FLICKRLOGOS = ["logos32-lenet5", "logos32-resnet18-frozen"]
OTHERS = ["logos-lenet5", "logos-unfreeze"]
LARGE = ["logos32-resnet18-finetune", "logos-finetune"]


def params_of(name: str, repository: Path, workplace: Path, turned: dict[str, Any]) -> Params:
    """params.yaml after a recipe and some `-S` arguments; each phase has a single epoch."""
    tree = defaults.tree()
    knobs = recipe.knobs(name) | QUICK | turned
    knobs["phases"] = [phase | {"epochs": 1} for phase in knobs["phases"]]
    for knob, value in knobs.items():
        *blocks, last = knob.split(".")
        home = tree
        for block in blocks:
            home = home[block]
        home[last] = value
    (workplace / "data/none").mkdir(parents=True, exist_ok=True)
    (workplace / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    return load(workplace / "params.yaml")


@pytest.fixture
def on_the_archive(workplace: Path, repository: Path) -> Callable[[str], dict[str, Any]]:
    """`on_the_archive(recipe)`: the metrics of a run on the miniature of FlickrLogos-32."""

    def run(name: str) -> dict[str, Any]:
        archive = miniature.flickrlogos32(workplace / "sent.zip")
        where = {"dataset": "flickrlogos32", "datasets.flickrlogos32.source.images.url": str(archive)}
        chosen = params_of(name, repository, workplace, where | {"image_size": 64})
        for stage in (download, *STAGES):
            stage.main(chosen)
        return finished(chosen)

    return run


def finished(chosen: Params) -> dict[str, Any]:
    """The metrics; all that a run leaves is there."""
    found: dict[str, Any] = json.loads((paths.EVALUATION).read_text())
    assert [found[key] for key in ("dataset", "cut", "tap", "head")] == [
        chosen.dataset, chosen.cut, chosen.tap, chosen.head
    ]  # fmt: skip
    with (paths.PLOTS / "history.csv").open() as file:
        trained = [int(row["phase"]) for row in csv.DictReader(file)]
    assert trained == list(range(1, len(chosen.phases) + 1) or [1] * chosen.epochs)
    assert (paths.REPORTS / "report.html").stat().st_size > 10_000
    return found


def assert_counted(found: dict[str, Any]) -> None:
    assert {part: found[f"n_{part}"] for part in PARTS} == PARTS
    lines = (paths.PLOTS / "per_class.csv").read_text().splitlines()
    assert lines[0].startswith("class,n_train,n_val,n_test,")
    counted = {cells[0]: tuple(map(int, cells[1:4])) for cells in (line.split(",") for line in lines[1:])}
    assert counted == {name: tuple(parts.values()) for name, parts in COUNTS.items()}


@pytest.mark.parametrize("name", [*FLICKRLOGOS, *OTHERS])
def test_a_recipe_runs_from_the_archive_to_the_page(on_the_archive: Callable[[str], dict[str, Any]], name: str) -> None:
    assert_counted(on_the_archive(name))


@pytest.mark.parametrize("name", LARGE)
def test_a_network_is_tuned_whole_from_the_archive_to_the_page(
    on_the_archive: Callable[[str], dict[str, Any]], name: str
) -> None:
    found = on_the_archive(name)
    assert_counted(found)
    assert found["parameters_trainable"] == found["parameters_total"]


def test_a_folder_goes_through_squeezenet(
    workplace: Path, repository: Path, class_folder: Callable[[int], Path]
) -> None:
    where = {"root": str(class_folder(8)), "image_size": 64}
    chosen = params_of("folder-squeezenet", repository, workplace, where)
    for stage in STAGES:
        stage.main(chosen)
    found = finished(chosen)
    assert [found[f"n_{part}"] for part in PARTS] == [12, 6, 6]
    assert found["parameters_trainable"] == 512 * 3 + 3
