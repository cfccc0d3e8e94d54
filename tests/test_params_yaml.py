"""params.yaml of the checkout: every knob is there, and DVC's `-S` changes the one line that it is meant to."""

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dvc.utils.hydra import apply_overrides

from stages import yaml12
from tests import defaults


@pytest.fixture
def file(repository: Path, tmp_path: Path) -> Path:
    """A copy of params.yaml; skips where somebody has other values in it."""
    text = (repository / "params.yaml").read_text()
    if yaml12.parse(text, "params.yaml") != defaults.shipped():
        pytest.skip("params.yaml holds other values than those it comes with")
    path = tmp_path / "params.yaml"
    path.write_text(text)
    return path


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every knob with its value; those in blocks with dots in their names."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


LEAVES = dict(leaves(defaults.shipped()))
LISTS = {knob: value for knob, value in LEAVES.items() if isinstance(value, list)}


def other(value: Any) -> str:
    """Another value of the same kind, as `-S` takes it."""
    if isinstance(value, bool):
        return str(not value).lower()
    return str(value / 2) if isinstance(value, float) else str(value + 1) if isinstance(value, int) else "changed"


def changes(before: str, after: str) -> list[str]:
    lines = difflib.ndiff(before.splitlines(), after.splitlines())
    return [line for line in lines if line[:1] in "+-"]


def comments(text: str) -> list[str]:
    return [line.partition("# ")[2] for line in text.splitlines() if "# " in line]


def without_values(text: str) -> list[str]:
    """Keys and comments; a value that is too long for its line stands alone on the next."""
    keys = (re.match(r" *(#.*|- .*|\w+:(?=\s|$))", line) for line in text.splitlines())
    return [*(key[0] for key in keys if key), *comments(text)]


def test_the_keys_are_those_of_params(repository: Path) -> None:
    tree = yaml12.parse((repository / "params.yaml").read_bytes(), "params.yaml")
    assert list(tree) == list(defaults.tree())
    assert set(dict(leaves(tree))) == set(LEAVES)


def test_a_value_that_stays_changes_nothing(file: Path) -> None:
    before = file.read_text()
    apply_overrides(file, ["lr=0.001"])
    assert changes(before, file.read_text()) == []


@pytest.mark.parametrize("knob", ["lr", "epochs", "head", "split.seed", "extract.dtype", "boxes.anchor_match"])
def test_a_knob_changes_one_line(file: Path, knob: str) -> None:
    before = file.read_text()
    apply_overrides(file, [f"{knob}={other(LEAVES[knob])}"])
    removed, added = changes(before, file.read_text())
    assert removed.startswith("- ") and added.startswith("+ ")
    assert removed.strip("- ").partition(":")[0] == added.strip("+ ").partition(":")[0] == knob.rpartition(".")[2]


def test_every_knob_changes_its_line_and_no_other(file: Path) -> None:
    """All at once: DVC writes the whole file anew whatever changes, and a call takes a fifth of a second."""
    before = file.read_text()
    chosen = {knob: other(value) for knob, value in LEAVES.items() if knob not in LISTS}
    apply_overrides(file, [f"{knob}={value}" for knob, value in chosen.items()])
    after = file.read_text()
    assert without_values(after) == without_values(before)
    assert {knob: str(value) for knob, value in leaves(yaml12.parse(after, ""))} == {
        knob: chosen.get(knob, str(value)).replace("true", "True").replace("false", "False")
        for knob, value in LEAVES.items()
    }


# A comment below a list that is not empty is lost: put it above the list, or behind the next value.
@pytest.mark.parametrize("knob", LISTS)
def test_comments_stay_when_a_list_changes_and_changes_back(file: Path, knob: str) -> None:
    before = file.read_text()
    longer = "[{epochs:1}]" if knob == "phases" else "[[0.1,0.2]]" if knob.endswith("_sizes") else "[0.3,0.4]"
    back = str(LISTS[knob]).replace(" ", "")
    for override in (f"{knob}={longer}", "lr=0.5", f"{knob}={back}", "lr=0.001"):
        apply_overrides(file, [override])
        assert comments(file.read_text()) == comments(before)
    assert changes(before, file.read_text()) == []
