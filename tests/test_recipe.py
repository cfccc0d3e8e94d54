"""Recipes: each sets every flat knob, makes valid params, and comes out of the command as it went in."""

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages import recipe
from stages.errors import UserError
from stages.evaluation.options import Decide
from stages.heads import DETECTION
from stages.heads.options import Boxes
from stages.params import Params, load

BLOCKS = ("split", "augment", "extract", "boxes", "lr_sweep", "decide", "bad_images", "datasets")


def values(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((recipe.FOLDER / f"{name}.yaml").read_text())
    return found


def applied(tree: dict[str, Any], knobs: dict[str, Any]) -> dict[str, Any]:
    for knob, value in knobs.items():
        *path, last = knob.split(".")
        block = tree
        for part in path:
            block = block[part]
        assert last in block, f"{knob} is no parameter of params.yaml"
        block[last] = value
    return tree


def test_there_are_recipes() -> None:
    assert "logos-default" in recipe.names()
    assert recipe.names() == sorted(path.stem for path in recipe.FOLDER.iterdir())


def test_the_flat_knobs_are_those_of_params_yaml(repository: Path) -> None:
    tree = yaml.safe_load((repository / "params.yaml").read_text())
    flat = [name for name, value in tree.items() if not isinstance(value, dict)]
    assert sorted(recipe.flat_knobs()) == sorted(set(flat) - {"device"})
    assert set(BLOCKS) == {name for name, value in tree.items() if isinstance(value, dict)}
    assert set(Params.model_fields) == set(tree)


@pytest.mark.parametrize("name", recipe.names())
def test_a_recipe_sets_every_flat_knob_and_no_other(name: str) -> None:
    flat = [knob for knob in values(name) if "." not in knob]
    assert sorted(flat) == sorted(recipe.flat_knobs())


@pytest.mark.parametrize("name", [name for name in recipe.names() if values(name)["head"] in DETECTION])
def test_a_recipe_for_boxes_sets_every_knob_of_boxes_and_of_decisions(name: str) -> None:
    wanted = {f"boxes.{knob}" for knob in Boxes.model_fields} | {f"decide.{knob}" for knob in Decide.model_fields}
    assert {knob for knob in values(name) if knob.startswith(("boxes.", "decide."))} == wanted


@pytest.mark.parametrize("name", recipe.names())
def test_a_recipe_makes_valid_params(
    name: str, workplace: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = yaml.safe_load((repository / "params.yaml").read_text())
    path = workplace / "params.yaml"
    (workplace / "data/none").mkdir(parents=True)
    applied(tree, values(name))
    if tree["dataset"] == "folder":
        tree["root"] = str(workplace)
    if tree["dataset"] == "flickrlogos32":  # which people ask its owners for
        (workplace / tree["datasets"]["flickrlogos32"]["source"]["images"]["url"]).touch()
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    params = load(path).model_dump(exclude_unset=True)
    for knob, value in values(name).items():
        found: Any = params
        for part in knob.split("."):
            found = found[part]
        assert found == value or knob == "root", knob


def test_the_default_recipe_is_params_yaml(repository: Path) -> None:
    tree = yaml.safe_load((repository / "params.yaml").read_text())
    wanted = values("logos-default")
    assert {knob: tree[knob] for knob in wanted if "." not in knob} == {
        knob: value for knob, value in wanted.items() if "." not in knob
    }


@pytest.mark.parametrize("name", recipe.names())
def test_values_come_out_of_the_command_as_they_went_in(name: str, repository: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "stages.recipe", name], cwd=repository, capture_output=True, text=True, check=True
    )
    words = done.stdout.split()  # as $(…) splits
    assert words == shlex.split(done.stdout)  # no quotes, which $(…) would keep
    assert words[::2] == ["-S"] * (len(words) // 2)
    read = pytest.importorskip("dvc.utils.hydra").to_hydra_overrides(words[1::2])  # as -S does
    assert {override.key_or_group: override.value() for override in read} == values(name)


@pytest.mark.parametrize("name", recipe.names())
def test_a_recipe_opens_with_its_story(name: str) -> None:
    story = recipe.description(name)
    for part in ("Source:", f"dvc exp run $(python -m stages.recipe {name})", "Hardware:", "Expected:"):
        assert part in story


@pytest.mark.parametrize("arguments", [[], ["--list"]])
def test_the_list(repository: Path, arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "stages.recipe", *arguments], cwd=repository, capture_output=True, text=True, check=True
    )
    listed = [line for line in done.stdout.splitlines() if not line.startswith(" ")]
    assert listed == recipe.names()


def test_a_slip_in_the_name() -> None:
    with pytest.raises(UserError, match=r"There is no recipe 'logo-default'; did you mean logos-default"):
        recipe.arguments("logo-default")


def test_a_path_is_no_recipe() -> None:
    with pytest.raises(UserError, match="There is no recipe"):
        recipe.arguments("../../params")


def test_a_recipe_that_leaves_a_knob_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    knobs = values("logos-default")
    del knobs["lr"], knobs["epochs"]
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(knobs))
    monkeypatch.setattr(recipe, "FOLDER", tmp_path)
    with pytest.raises(UserError, match=r"Recipe short does not set lr, epochs: it must set every flat knob"):
        recipe.arguments("short")


def test_lists_and_nothing_as_hydra_reads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    knobs = values("logos-default") | {
        "datasets.x.exclude": ["a", "b"],
        "datasets.x.checksum": None,
        "standardize": True,
    }
    (tmp_path / "more.yaml").write_text(yaml.safe_dump(knobs))
    monkeypatch.setattr(recipe, "FOLDER", tmp_path)
    found = recipe.arguments("more")
    for word in ("datasets.x.exclude=[a,b]", "datasets.x.checksum=null", "standardize=true"):
        assert word in found
