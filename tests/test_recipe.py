"""Recipes: each sets every flat knob, makes valid params, and comes out of the command as it went in."""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages import recipe, yaml12
from stages.errors import UserError
from stages.evaluation.options import Decide
from stages.heads.options import Boxes
from stages.images.options import Augment
from stages.params import load
from stages.training.options import LrSweep
from tests import defaults

GOLDEN = Path(__file__).parent / "golden_recipes.json"


def applied(tree: dict[str, Any], knobs: dict[str, Any]) -> dict[str, Any]:
    for knob, value in knobs.items():
        *path, last = knob.split(".")
        block = tree
        for part in path:
            block = block[part]
        assert last in block, f"{knob} is not a knob of params.yaml"
        block[last] = value
    return tree


def test_there_are_recipes() -> None:
    assert "logos-default" in recipe.names()
    assert {*recipe.names(), recipe.DEFAULTS} == {path.stem for path in recipe.FOLDER.iterdir()}


def test_the_flat_knobs_are_those_of_params_yaml(repository: Path) -> None:
    tree = defaults.tree()
    flat = [name for name, value in tree.items() if not isinstance(value, dict)]
    assert recipe.flat_knobs() == [name for name in flat if name != "device"]


def test_the_defaults_are_every_flat_knob_and_four_blocks() -> None:
    blocks = {"boxes": Boxes, "decide": Decide, "augment": Augment, "lr_sweep": LrSweep}
    inner = [f"{block}.{knob}" for block, kind in blocks.items() for knob in kind.model_fields]
    assert list(yaml12.parse((recipe.FOLDER / "defaults.yaml").read_bytes(), "")) == [*recipe.flat_knobs(), *inner]


@pytest.mark.parametrize("name", recipe.names())
def test_a_recipe_holds_only_what_differs_from_the_defaults(name: str) -> None:
    files = [yaml12.parse((recipe.FOLDER / f"{file}.yaml").read_bytes(), file) or {} for file in (name, "defaults")]
    own, defaults = files
    assert not [knob for knob, value in own.items() if knob in defaults and defaults[knob] == value]


@pytest.mark.parametrize("name", recipe.names())
def test_a_recipe_prints_what_it_always_has(name: str) -> None:
    """What the promised results were measured with; a knob that is newer is in no golden line."""
    golden = json.loads(GOLDEN.read_text())[name]
    printed = dict(word.split("=", 1) for word in recipe.arguments(name)[1::2])
    assert {knob: printed.get(knob) for knob in golden} == golden
    flat = [knob for knob in golden if "." not in knob]
    assert [knob for knob in printed if knob in flat] == flat


@pytest.mark.parametrize("name", recipe.names())
def test_a_recipe_makes_valid_params(
    name: str, workplace: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = defaults.tree()
    path = workplace / "params.yaml"
    (workplace / "data/none").mkdir(parents=True)
    applied(tree, recipe.knobs(name))
    if tree["dataset"] in ("folder", "yolo"):
        tree["root"] = str(workplace)
    if tree["dataset"] == "flickrlogos32":  # which people ask its owners for
        (workplace / tree["datasets"]["flickrlogos32"]["source"]["images"]["url"]).touch()
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    params = load(path).model_dump(exclude_unset=True)
    for knob, value in recipe.knobs(name).items():
        found: Any = params
        for part in knob.split("."):
            found = found[part]
        assert found == value or knob == "root", knob


def test_the_default_recipe_is_params_yaml(repository: Path) -> None:
    committed = subprocess.run(["git", "show", "HEAD:params.yaml"], cwd=repository, capture_output=True, check=False)
    if committed.returncode:
        pytest.skip("not a checkout of git")
    tree = yaml12.parse(committed.stdout, "params.yaml")
    assert tree == defaults.shipped()
    wanted = recipe.knobs("logos-default")
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
    assert {override.key_or_group: override.value() for override in read} == recipe.knobs(name)


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


def test_defaults_that_leave_a_knob_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (recipe.DEFAULTS, "logos-best"):
        text = (recipe.FOLDER / f"{name}.yaml").read_text()
        kept = [line for line in text.splitlines() if not line.startswith(("lr:", "epochs:"))]
        (tmp_path / f"{name}.yaml").write_text("\n".join(kept))
    monkeypatch.setattr(recipe, "FOLDER", tmp_path)
    with pytest.raises(UserError, match=r"defaults.yaml does not set lr, epochs: it must set every flat knob"):
        recipe.arguments("logos-best")
