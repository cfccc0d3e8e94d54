"""Revisions side by side: the test, the pairs, the page, and what is read from git and DVC's cache."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from math import comb
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from dvc.repo import Repo
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from stages import compare, paths
from stages.comparing import comparison, revisions
from stages.comparing.comparison import Comparison, mcnemar
from stages.comparing.revisions import WORKSPACE
from stages.errors import UserError
from tests import defaults
from tests.reporting.synthetic import HOSTILE, Made

CHECKOUT = Path(__file__).parents[2]
STAGES = {  # those that matter here, with the names of dvc.yaml; nothing runs them
    "index": {"outs": ["data/index/folder.jsonl", "data/index/folder.json"], "params": ["root"]},
    "split": {"outs": ["data/split/folder.json"], "params": ["split"]},
    "extract": {"outs": ["cache/features/folder/net-pooled.bad.json"]},
    "train": {"outs": ["cache/head"], "params": ["lr", "hidden", "root"]},
    "evaluate": {
        "deps": ["data/index/folder.jsonl", "data/split/folder.json"],
        "outs": ["cache/predictions"],
        "metrics": [{"reports/metrics.json": {"cache": False}}],
        "params": ["dataset"],
    },
}


ONCE = pytest.mark.parametrize("task", ["classification"], indirect=True)  # what does not depend on the task


def answer(task: str, wrong: Sequence[int]) -> None:
    """The head in the workspace is wrong on these test images alone."""
    if task == "classification":
        path = paths.PREDICTIONS / "probabilities.safetensors"
        found = load_file(path)
        images, classes = found["test"].shape
        each = images // classes
        chosen = (np.arange(images) // each + np.isin(np.arange(images), wrong)) % classes
        found["test"] = np.eye(classes, dtype=np.float32)[chosen]
    else:
        path = paths.PREDICTIONS / "boxes.safetensors"
        found = load_file(path)
        bad = np.isin(found["test_images"], wrong)
        found["test_kinds"] = np.where(bad, 0, -1)
        found["test_meant"] = np.zeros_like(found["test_meant"])
        found["test_boxes"] = np.tile(np.array([2, 3, 20, 21], np.float32), (len(bad), 1))
        found["test_scores"] = np.full(len(bad), 0.9, np.float32)
        right = np.repeat(np.arange(len(HOSTILE)), len(bad) // len(HOSTILE))
        found["test_labels"] = np.where(bad, (right + 1) % len(HOSTILE), right)
    path.unlink()  # DVC keeps its copy read-only, and linked
    save_file(found, path)


def turn(**knobs: object) -> None:
    tree = yaml.safe_load(paths.PARAMS.read_text()) | knobs
    paths.PARAMS.write_text(yaml.safe_dump(tree, sort_keys=False))


def git(*arguments: str) -> None:
    identity = ("-c", "user.name=test", "-c", "user.email=test@test")
    subprocess.run(["git", *identity, *arguments], check=True, capture_output=True)


def commit(message: str) -> None:
    """The workspace as it is, for DVC and git."""
    with Repo() as repo:
        repo.commit(force=True)
    git("add", "-A")
    git("commit", "-q", "-m", message)


def checkout(home: Path, task: str) -> None:
    """A checkout with a commit `start`, an experiment `better` on it, and a workspace that is worse."""
    made = Made(home / "the images", task=task)
    made.write()
    paths.PARAMS.write_text(defaults.text())
    turn(dataset="folder", root=str(made.root))
    Path(".gitignore").write_text("/cache/\n/data/\n/the images/\n/reports/compare.html\n")
    Path("dvc.yaml").write_text(
        yaml.safe_dump({"stages": {name: {"cmd": "false", **stage} for name, stage in STAGES.items()}})
    )
    git("init", "-q", "-b", "main")
    Repo.init().close()
    answer(task, [0, 1, 2, 3, 4, 5])
    commit("start")
    git("tag", "start")
    git("config", "user.name", "test")
    git("config", "user.email", "test@test")
    answer(task, [0])
    turn(hidden=64)
    with Repo() as repo:
        repo.commit(force=True)
        repo.experiments.save(name="better")
    answer(task, [0, 1, 2, 3, 4, 5, 6, 7])
    turn(hidden=512, lr=0.1)
    with Repo() as repo:
        repo.commit(force=True)


@pytest.fixture(scope="module", params=["classification", "detection", "largest"])
def task(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A checkout of a run of each task, which becomes the current folder; tests leave it as it was."""
    home = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.delenv("DVC_ROOT", raising=False)
        checkout(home, request.param)
        yield request.param


def test_mcnemar_is_what_counting_coins_gives() -> None:
    for better, worse in product(range(8), range(8)):
        count = better + worse
        as_far = [heads for heads in range(count + 1) if abs(2 * heads - count) >= abs(better - worse)]
        assert mcnemar(better, worse) == pytest.approx(sum(comb(count, heads) for heads in as_far) / 2**count)


@pytest.mark.parametrize(("better", "worse", "p"), [(0, 0, 1), (1, 0, 1), (10, 0, 2 / 1024), (15, 5, 0.04138947)])
def test_mcnemar_of_known_counts(better: int, worse: int, p: float) -> None:
    assert mcnemar(better, worse) == pytest.approx(p)


@given(better=st.integers(0, 3000), worse=st.integers(0, 3000))
def test_mcnemar_is_a_probability_and_knows_no_sides(better: int, worse: int) -> None:
    assert 0 <= mcnemar(better, worse) == mcnemar(worse, better) <= 1


def test_images_that_changed_are_found_across_revisions(task: str) -> None:
    found = Comparison([revisions.read(name) for name in ("start", "better", WORKSPACE)])
    better, worse = found.pairs
    assert (better.better, better.worse) == ([1, 2, 3, 4, 5], [])
    assert (worse.better, worse.worse) == ([], [6, 7])
    assert better.p == 2 / 32
    said = "makes fewer mistakes than start in 5 images, and more in 0" if task == "detection" else (
        "right on 5 images where start is wrong, and wrong on 0 where start is right"
    )  # fmt: skip
    assert said in better.sentence and "p = 0.062, chance alone may well do that" in better.sentence


@ONCE
def test_parameters_are_those_that_the_stages_ran_with(task: str) -> None:
    found = compare.compare([])
    assert [one.name for one in found.revisions] == ["HEAD", WORKSPACE, "better"]
    assert found.settings == {"lr": ["0.001", "0.1", "0.001"], "hidden": ["512", "512", "64"]}
    assert found.changes(found.revisions[2]) == "hidden=64"


@ONCE
def test_the_experiment_in_the_workspace_is_not_told_twice(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revisions, "experiments", lambda: ["better", "start"])
    lock = Path("dvc.lock").read_bytes()
    try:
        Path("dvc.lock").write_bytes(subprocess.check_output(["git", "show", "start:dvc.lock"]))
        assert [one.name for one in compare.compare([]).revisions] == [f"{WORKSPACE} (HEAD, start)", "better"]
        monkeypatch.setattr(revisions, "experiments", lambda: ["start"])
        with pytest.raises(UserError, match="nothing to compare the workspace with"):
            compare.compare([])
    finally:
        Path("dvc.lock").write_bytes(lock)


@ONCE
def test_runs_on_other_images_are_left_out(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "same_images", lambda workspace, other: other.name != "HEAD")
    assert [one.name for one in compare.compare([]).revisions] == [WORKSPACE, "better"]
    monkeypatch.setattr(compare, "same_images", lambda workspace, other: False)
    with pytest.raises(
        UserError, match=r"HEAD and better were evaluated on other images.*Commit this run \(`git commit -am"
    ):
        compare.compare([])


@ONCE
def test_an_experiment_without_results_is_left_out_with_the_reason(
    task: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(revisions, "experiments", lambda: ["lost", "better"])
    monkeypatch.setattr(compare.LOG, "propagate", True)
    assert [revision.name for revision in compare.compare([]).revisions] == ["HEAD", WORKSPACE, "better"]
    assert "left out: There is no commit or experiment 'lost'" in caplog.text


@ONCE
@pytest.mark.parametrize("changed", [{"md5": "0" * 32}, {"path": "data/index/voc.jsonl"}])
def test_an_experiment_that_ended_before_evaluate_is_left_out(
    task: str, changed: dict[str, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """`dvc exp run … index` leaves the metrics of the run before it."""
    read = revisions.read

    def ended_at_index(name: str) -> revisions.Revision:
        lock = json.loads(json.dumps(read(name).lock))
        (out,) = [out for out in lock["index"]["outs"] if out["path"].endswith(".jsonl")]
        out |= changed if name == "better" else {}
        return replace(read(name), lock=lock)

    monkeypatch.setattr(revisions, "read", ended_at_index)
    monkeypatch.setattr(compare.LOG, "propagate", True)
    assert [revision.name for revision in compare.compare([]).revisions] == ["HEAD", WORKSPACE]
    assert "left out: better ended before evaluate" in caplog.text


@ONCE
def test_without_the_predictions_of_head_the_workspace_is_the_baseline(task: str) -> None:
    """A fresh clone on another machine: what HEAD predicted is nowhere, what was run here is."""
    compared = compare.compare([])
    head = compared.base
    assert head.name == "HEAD" and len(compared.pairs) == 2
    with pytest.MonkeyPatch.context() as patch:
        read = revisions.read
        patch.setattr(
            revisions,
            "read",
            lambda name: replace(read(name), answers=None, why="gone") if name == "HEAD" else read(name),
        )
        compared = compare.compare([])
    assert [revision.name for revision in compared.revisions] == [WORKSPACE, "HEAD", "better"]
    assert [paired.other.name for paired in compared.pairs] == ["better"]
    assert "HEAD: no p-value, because its predictions are not at hand. gone" in compared.caveats()


def test_only_what_differs_is_a_difference() -> None:
    """Another head reads other parameters, and 1.0 is 1."""
    locks = [
        {"train": {"params": {"params.yaml": values}}}
        for values in ({"dropout": 1.0, "lr": 0.1, "strength": 3}, {"dropout": 1, "lr": 0.2, "boxes": {"cells": 2}})
    ]
    metrics = {"task": "classification", "top1": 0.5, "n_test": 9}
    named = zip("ab", locks, strict=True)
    compared = Comparison([revisions.Revision(name, lock, metrics, None, None) for name, lock in named])
    assert compared.settings == {"lr": ["0.1", "0.2"]}
    assert compared.changes(compared.revisions[1]) == "lr=0.2"


@pytest.mark.parametrize(
    ("options", "called"),
    [({"task": "auto"}, "ants (toy)"), ({"datasets.toy": {"source": {"images": {"url": "a"}}}}, "toy")],
)
def test_a_users_own_data_is_called_by_its_folder(options: dict[str, Any], called: str) -> None:
    lock = {"index": {"params": {"params.yaml": {"dataset": "toy", "root": "/home/me/ants", **options}}}}
    assert revisions.Revision("a", lock, {"dataset": "toy"}, None, None).data == called


def test_the_page_holds_every_image_as_text_and_loads_nothing(task: str) -> None:
    compare.compare(["start", "better", WORKSPACE])
    text = compare.PAGE.read_text()
    assert "<title>3 revisions on the images (folder)</title>" in text
    assert "<script>alert" not in text and "<img onerror" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert set(re.findall(r'(?:src|href)="([^"]{5})', text)) <= {"data:", "#resu", "#para", "#imag", "#clas"}
    script = text.split("<script>")[1].split("</script>")[0]
    assert f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}" in text
    assert text.count("data:image/jpeg") == 5 + 2
    assert ("Exact sign test" in text or "exact sign test" in text) == (task == "detection")


@ONCE
def test_a_table_is_printed(task: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["compare", "start", "better"])
    with pytest.raises(SystemExit) as ended:
        compare.run()
    assert ended.value.code == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].split()[0] == "revision" and out[1].split()[:2] == ["*", "start"] and "0.062" in out[2]
    assert "hidden=64" in out[2] and out[-1] == "reports/compare.html shows the images."


@ONCE
def test_one_revision_is_set_against_the_workspace(task: str) -> None:
    assert [one.name for one in compare.compare(["better"]).revisions] == ["better", WORKSPACE]


@ONCE
def test_an_unknown_revision_is_told_with_the_nearest(task: str) -> None:
    with pytest.raises(UserError, match="no commit or experiment 'beter'; did you mean better"):
        revisions.read("beter")


@ONCE
def test_lost_outs_leave_the_metrics_and_say_what_to_do(task: str) -> None:
    shutil.move(".dvc/cache", "aside")
    try:
        found = compare.compare([WORKSPACE, "better"])
    finally:
        shutil.move("aside", ".dvc/cache")
    assert found.pairs == [] and found.alike and found.best
    (caveat,) = found.caveats()
    assert caveat.startswith("better: no p-value, because its predictions are not at hand. DVC's cache does not have")
    assert "dvc fetch --all-commits" in caveat and "git commit -am" in caveat


@ONCE
def test_other_test_images_are_not_paired(task: str) -> None:
    kept = {path: path.read_bytes() for path in (paths.PREDICTIONS / "predictions.json", paths.index("folder"))}
    try:
        for path, text in kept.items():
            path.unlink()
            path.write_bytes(
                text.replace(json.loads(kept[paths.index("folder")].splitlines()[0])["sha256"].encode(), b"0" * 64)
            )
        found = compare.compare(["start", WORKSPACE])
    finally:
        for path, text in kept.items():
            path.write_bytes(text)
    assert found.pairs == [] and found.best is None
    assert "not evaluated on the same images" in found.answer()
    assert "neither their metrics nor their predictions" in found.caveats()[0]


def test_a_folder_that_is_no_checkout_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="root of a git checkout"):
        revisions.experiments()
    with pytest.raises(UserError, match=r"workspace has no results .*`dvc repro` makes them"):
        revisions.read(WORKSPACE)


@ONCE
def test_time_is_drawn_where_two_are_known(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([1.5, 30.0])
    monkeypatch.setattr(revisions, "seconds_of", lambda name, made: next(seconds))
    compare.compare(["start", "better"])
    assert "against seconds of training: start: " in compare.PAGE.read_text()
    monkeypatch.setattr(revisions, "seconds_of", lambda name, made: None)
    compare.compare(["start", "better"])
    assert "against seconds of training" not in compare.PAGE.read_text()


def test_compare_needs_no_torch() -> None:
    code = "import sys, stages.compare; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=CHECKOUT)


@ONCE
def test_works_in_a_browser(task: str) -> None:
    sync = pytest.importorskip("playwright.sync_api")
    browser = shutil.which("chromium") or pytest.skip("no chromium here")
    compare.compare(["start", "better", WORKSPACE])
    wrong: list[str] = []
    with sync.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        for width in (360, 400, 1400):
            page = chromium.new_page(viewport={"width": width, "height": 800})
            page.on("console", lambda message: wrong.append(message.text))
            page.on("pageerror", lambda error: wrong.append(str(error)))
            page.on("request", lambda request: wrong.append(request.url) if request.url.startswith("http") else None)
            page.goto(compare.PAGE.absolute().as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") == width
            assert page.evaluate("[...document.images].every((one) => one.naturalWidth > 0)")
            for title in ("top-1 accuracy", "val", "p"):  # what one compares by is there without scrolling
                box = page.locator(".results th", has_text=re.compile(f"^{title}")).first.bounding_box()
                assert box and box["x"] + box["width"] <= width, (title, width)
            page.locator("th button", has_text="revision").first.click()
            assert page.locator("tbody th").first.inner_text() == "better"
        chromium.close()
    assert wrong == []


def test_revisions_that_can_be_compared_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def revision(name: str, images: int) -> Any:
        return SimpleNamespace(
            name=name, images=images, metrics={"task": "classification", "top1": 0.5}, score=lambda _: 0.5
        )

    monkeypatch.setattr(comparison, "same_images", lambda one, other: one.images == other.images)
    revisions = [revision("HEAD", 0), revision("workspace (b)", 1), revision("a", 1)]
    answer = comparison.Comparison(revisions).answer()
    assert answer.endswith("These can be compared: `python -m stages.compare workspace a`.")
    assert comparison.Comparison(revisions[:2]).answer().endswith("none can be called the best.")


def test_the_choice_of_validation_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def revision(name: str, val: float | None) -> Any:
        metrics = {"task": "classification", "top1": 0.5, **({} if val is None else {"val_top1": val})}
        return SimpleNamespace(name=name, metrics=metrics, split="test", answers=[], score=metrics.get)

    monkeypatch.setattr(comparison, "same_images", lambda one, other: True)
    values = {"HEAD": 0.8, "a": 0.9, "b": 0.9}
    (caveat,) = comparison.Comparison([revision(name, val) for name, val in values.items()]).caveats()
    assert "choose by val (a, b) and report test" in caveat
    (caveat,) = comparison.Comparison([*map(revision, values, values.values()), revision("c", None)]).caveats()
    assert "choose by val and report test" in caveat
