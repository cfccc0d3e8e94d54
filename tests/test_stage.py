"""How a stage is run: what it says, what it keeps, and how it fails."""

import json
import logging
import sys
from pathlib import Path

import pytest
from tqdm import tqdm

from stages import paths, stage
from stages.errors import UserError
from stages.params import Params


@pytest.fixture
def told(workplace: Path, params: object, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A workplace with a params.yaml, run as by `python -m stages.x` without arguments."""
    params(head="mlp")  # type: ignore[operator]
    monkeypatch.setattr(sys, "argv", ["x"])
    monkeypatch.setattr(stage, "leave", lambda: None)
    monkeypatch.setattr(logging.getLogger("stages"), "level", logging.getLogger("stages").level)
    return monkeypatch


def work(params: Params) -> dict[str, object]:
    print("at work")
    for _ in tqdm(range(3)):
        logging.getLogger("stages.files").debug("wrote it")
    return {"images": 7}


def test_a_stage_says_what_it_starts_and_what_came_out(told: object, capsys: pytest.CaptureFixture[str]) -> None:
    stage.run("x", work, announce=lambda params: f"{params.head} on 7 images")
    out = capsys.readouterr().out.splitlines()
    assert out[-3] == "x: mlp on 7 images" and out[-1].startswith("x: 7 images in ")


def test_one_of_a_kind_is_told_in_the_singular(told: object, capsys: pytest.CaptureFixture[str]) -> None:
    stage.run("x", lambda params: {"labels in doubt": 1, "test images in train": 1, "leaks": 2, "val accuracy": 0.5})
    assert "x: 1 label in doubt, 1 test image in train, 2 leaks, 0.5 val accuracy in " in capsys.readouterr().out


def test_the_last_time_is_told_where_it_was_of_the_same(
    told: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.run("x", work)
    kept = paths.TIMINGS / "x.json"
    timing = json.loads(kept.read_text())
    kept.write_text(json.dumps(timing | {"seconds": 41.7}))
    stage.run("x", work, announce=lambda params: "mlp")
    assert "x: mlp (42 s the last time)" in capsys.readouterr().out
    for other in ("{", json.dumps(timing | {"seconds": 41.7, "of": timing["of"] | {"head": "ridge"}})):
        kept.write_text(other)
        stage.run("x", work, announce=lambda params: "mlp")
        assert "the last time" not in capsys.readouterr().out


def test_quiet_says_nothing(told: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    told.setattr(sys, "argv", ["x", "-q"])
    stage.run("x", work, announce=lambda params: "mlp")
    assert capsys.readouterr() == ("", "")
    assert (paths.TIMINGS / "x.json").exists()


def test_verbose_says_more(told: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    stage.run("x", work)
    assert not caplog.messages
    told.setattr(sys, "argv", ["x", "-v"])
    stage.run("x", work)
    assert "wrote it" in caplog.messages


@pytest.mark.parametrize("arguments", [[], ["-q"], ["-v"]])
def test_a_users_error_is_a_sentence_and_any_other_a_traceback(
    told: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    def fail(error: Exception) -> stage.Stage:
        def main(params: Params) -> dict[str, object]:
            raise error

        return main

    told.setattr(sys, "argv", ["x", *arguments])
    with pytest.raises(SystemExit) as stopped:
        stage.run("x", fail(UserError("do this")))
    assert stopped.value.code == "error: do this"
    with pytest.raises(ZeroDivisionError):
        stage.run("x", fail(ZeroDivisionError()))
    assert not paths.TIMINGS.exists()


@pytest.mark.parametrize(
    ("name", "kept"), [("train", "its last checkpoint is kept"), ("x", "the results of earlier stages")]
)
def test_ctrl_c_is_told_what_is_kept(
    told: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, kept: str
) -> None:
    def interrupt(params: Params) -> dict[str, object]:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stopped:
        stage.run(name, interrupt)
    said = capsys.readouterr().err
    assert stopped.value.code == 130 and f"{name} was stopped: {kept}" in said and "`dvc repro` goes on" in said


def test_seconds_are_kept_by_what_was_made(told: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tmp_path / "history.csv"

    def write(text: str) -> stage.Stage:
        def main(params: Params) -> dict[str, object]:
            made.write_text(text)
            return {}

        return main

    for text in ("one", "two"):
        stage.run("x", write(text), result_file=made)
    timing = stage._timing("x", made)
    timing.write_text(json.dumps({"seconds": 2.5}))
    made.write_text("one")
    assert stage.seconds_of("x", made) not in (None, 2.5)
    made.write_text("two")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.chdir(made.parent.parent)  # as in a temporary experiment
    assert stage.seconds_of("x", made) == 2.5
    made.write_text("three")
    assert stage.seconds_of("x", made) is None
    assert stage.seconds_of("x", tmp_path / "nothing") is None
