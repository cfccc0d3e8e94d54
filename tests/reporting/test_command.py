"""The command must give DVC back the values that were recorded."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from stages.reporting import command, gather
from tests.reporting.synthetic import Made


def test_command_has_every_recorded_knob(made: Made) -> None:
    made.write()
    words = shlex.split(command.complete(gather.load("folder")).replace("\\\n", ""))
    assert words[:3] == ["dvc", "exp", "run"] and set(words[3::2]) == {"-S"}
    settings = dict(word.split("=", 1) for word in words[4::2])
    assert settings["root"] == f"'{made.root}'" and settings["lr"] == "1e-05" and settings["normalize"] == "standardize"
    assert settings["split.train"] == "0.5" and settings["extract.precision"] == "float32"
    assert settings["decide.confidence"] == "0.5" and settings["extract.batch_size"] == "32"


def test_what_a_run_did_not_use_is_set_too(made: Made) -> None:
    """Or else a value in params.yaml would change the result."""
    made.write()
    run = gather.load("folder")
    words = shlex.split(command.complete(run).replace("\\\n", ""))
    assert {"task=single", "split.groups=''", "extract.engine=torch", "extract.decoder=cpu"} <= {*words}
    short = shlex.split(command.differing(run).replace("\\\n", ""))
    assert not [word for word in short if word.startswith(("task", "split.", "extract."))]
    several = replace(run, index=run.index | {"task": "multi"})
    for text in (command.complete(several), command.differing(several)):
        assert "task=multi" in text and "task=single" not in text


def test_the_short_command_has_what_differs_from_the_defaults(made: Made) -> None:
    made.write()
    run = gather.load("folder")
    known = dict(command.settings(run)) | command.defaults() | {"extract.precision": "bfloat16", "hidden": 64}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "settings", lambda run: known.items())
        assert command.differing(run) == "dvc exp run -S hidden=64"
    words = shlex.split(command.differing(run).replace("\\\n", ""))
    assert "dataset=folder" in words and "backbone=net" in words and "lr=1e-05" in words  # not in the defaults
    assert not [word for word in words if word.startswith(("normalize", "split.", "extract.", "weights"))]


def test_the_report_depends_on_the_defaults() -> None:
    checkout = Path(__file__).parents[2]
    stages = yaml.safe_load((checkout / "dvc.yaml").read_text())["stages"]
    assert {str(path.relative_to(checkout)) for path in command.DEFAULTS} <= {*stages["report"]["deps"]}


def test_command_tells_what_views_were_drawn_from(made: Made) -> None:
    made.views = ((1, 0.7), (2, 0.8))
    made.write()
    text = command.complete(gather.load("folder"))
    for setting in ("augment.crop=0.5", "augment.flip=true", "augment.rotate=10.0", "augment.lighting=0.2"):
        assert f"-S {setting}" in text
    assert "-S extract.seed=3" in text


def test_command_has_what_training_drew_where_images_are_kept(made: Made) -> None:
    """Nothing was computed then, so that `extract` has no part in it; phases come out as they went in."""
    made.write()
    run = gather.load("folder")
    phases = [{"epochs": 2, "train_from": "layer4.0", "lr": None, "groups": {"layer4.1": 0.1}}]
    run.head["params"] |= {"cut": "input", "phases": phases, "augment": {"crop": 0.25, "flip": False}}
    kept = {"engine", "precision", "batch_size", "weights_sha256"}
    run.head["features"] = {name: value for name, value in run.head["features"].items() if name not in kept}
    words = shlex.split(command.complete(run).replace("\\\n", ""))
    parser = pytest.importorskip("hydra.core.override_parser.overrides_parser").OverridesParser.create()
    found = {override.key_or_group: override.value() for override in parser.parse_overrides(words[4::2])}
    assert found["phases"] == phases and found["augment.crop"] == 0.25 and found["augment.flip"] is False
    assert not [key for key in found if key.startswith("extract")]
