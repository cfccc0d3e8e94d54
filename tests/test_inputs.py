"""A stage whose knobs, code or files change while it runs fails, so that DVC records nothing."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dvc.utils.hydra import apply_overrides

from stages import inputs
from stages.errors import UserError

PIPELINE = """
stages:
  train:
    deps: [code, 'data/${dataset}.json', '${root}']
    params:
    - params.yaml: &shared [head, split]
    - dataset
    - datasets.${dataset}
  report:
    deps: [reports]
    params: [dataset]
"""


@pytest.fixture
def home(workplace: Path, params: Callable[..., Any]) -> Path:
    for name in ("code/a.py", "code/__pycache__/a.pyc", "data/csv.json", "data/other.json", "photos/x/1.jpg"):
        (workplace / name).parent.mkdir(parents=True, exist_ok=True)
        (workplace / name).write_text("1")
    params(dataset="csv", root=str(workplace / "photos"))
    (workplace / "dvc.yaml").write_text(PIPELINE)
    return workplace


def replace(home: Path, old: str, new: str) -> None:
    path = home / "params.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("head: mlp", "head: ridge", "`head` was 'mlp' when train began and is 'ridge' now"),
        ("protocol: auto", "protocol: published", "'published'"),
        ("file: labels.csv", "file: other.csv", "'other.csv'"),
    ],
    ids=["flat", "block", "dataset"],
)
def test_a_knob_that_changes_is_told_with_both_values(home: Path, old: str, new: str, message: str) -> None:
    before = inputs.of("train")
    replace(home, old, new)
    with pytest.raises(UserError) as error:
        inputs.check_unchanged("train", before)
    said = str(error.value)
    assert message in said and "DVC records nothing" in said and "`dvc repro` runs it again with what is there" in said
    knob, value = re.findall(r"To keep the old value: `dvc exp run -S ([\w.]+)=(\S+)`", said)[0]
    assert inputs.of("train") != before
    apply_overrides("params.yaml", [f"{knob}={value}"])
    assert inputs.of("train").knobs == before.knobs


@pytest.mark.parametrize("name", ["code/a.py", "data/csv.json", "photos/x/1.jpg", "photos/x/2.jpg"])
def test_a_file_that_changes_is_named(home: Path, name: str) -> None:
    before = inputs.of("train")
    (home / name).write_text("22")
    with pytest.raises(UserError, match=f"{name} changed while train ran"):
        inputs.check_unchanged("train", before)


def test_a_file_that_goes_is_named(home: Path) -> None:
    before = inputs.of("train")
    (home / "photos/x/1.jpg").unlink()
    with pytest.raises(UserError, match=r"photos/x/1.jpg changed while train ran"):
        inputs.check_unchanged("train", before)


def test_what_the_stage_does_not_depend_on_may_change(home: Path) -> None:
    before = inputs.of("train")
    replace(home, "epochs: 60", "epochs: 3")
    (home / "data/other.json").write_text("2")
    (home / "code/__pycache__/a.pyc").write_text("2")
    inputs.check_unchanged("train", before)


def test_without_a_pipeline_there_is_nothing_to_compare(home: Path) -> None:
    (home / "dvc.yaml").unlink()
    assert inputs.of("train") == inputs.Inputs({}, {})
