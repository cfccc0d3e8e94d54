"""The stage `check` as DVC runs it: its mark, its errors, and what differs from the commit."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages import check, paths
from stages.errors import UserError
from stages.params import check_name
from tests import defaults
from tests.checkout import environment


@pytest.fixture
def home(workplace: Path) -> Path:
    """A folder with a params.yaml and an empty data/none."""
    (workplace / "data/none").mkdir(parents=True)
    (workplace / "params.yaml").write_text(defaults.text())
    return workplace


def run(home: Path, repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stages.check", *arguments],
        cwd=home,
        env=environment() | {"PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        check=False,
    )


def turn(home: Path, old: str, new: str) -> None:
    path = home / "params.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def commit(home: Path) -> None:
    for words in (["init", "-q"], ["add", "params.yaml"], ["commit", "-q", "-m", "start"]):
        subprocess.run(["git", *words], cwd=home, env=environment(), check=True)


def test_it_writes_its_mark(home: Path, repository: Path) -> None:
    done = run(home, repository, "--mark", "data/checked")
    assert done.returncode == 0 and "params.yaml is well-formed" in done.stdout
    assert "differs" not in done.stdout  # there is no commit
    assert (home / "data/checked").read_text() == "params.yaml was checked\n"


@pytest.mark.parametrize("lr", ["0.001", "fast"])
def test_git_sees_a_change_that_keeps_the_length(home: Path, repository: Path, lr: str) -> None:
    """DVC updates git's index after it has written the values of -S, and git trusts the time and the size there."""
    turn(home, "\nlr: 0.001\n", f"\nlr: {lr}\n")
    os.utime(home / "params.yaml", (1, 1))
    run(home, repository)
    assert (home / "params.yaml").stat().st_mtime == 1
    run(home, repository, "--mark", "data/checked")
    assert (home / "params.yaml").stat().st_mtime > 1


def test_it_shows_no_traceback(home: Path, repository: Path) -> None:
    turn(home, "\nlr: 0.001\n", "\nlr: fast\n")
    done = run(home, repository, "--mark", "data/checked")
    assert done.returncode == 1
    assert done.stderr.startswith("error: params.yaml: `lr`") and "Traceback" not in done.stderr
    assert not (home / "data/checked").exists()


@pytest.mark.parametrize(
    ("knob", "said"),
    [
        ("dropuot=0.1", "`dropuot` is not a knob; did you mean dropout?"),
        ("+learningrate=0.1", "here it is called `lr`"),
        ("split.sed=1", "did you mean seed?"),
        ("phases.0.epocs=1", "did you mean epochs?"),
        ("sed=1", "did you mean seed"),
    ],
)
def test_names_of_knobs_alone(home: Path, knob: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        check_name(knob.lstrip("+").partition("=")[0])
    assert said in str(error.value)
    for right in ("lr", "split", "split.seed", "phases.0.epochs", "datasets.folder.exclude", "boxes"):
        check_name(right)


@pytest.mark.parametrize("dataset", ["folder", "caltech101"])
def test_a_head_for_boxes_on_a_dataset_without_any(params: Callable[..., Any], dataset: str) -> None:
    with pytest.raises(UserError, match=rf"`head` anchors finds objects, and dataset {dataset} has no boxes: .*linear"):
        params(dataset=dataset, head="anchors", cut="map")


def test_a_head_for_boxes_on_a_table_without_any(workplace: Path, params: Callable[..., Any]) -> None:
    chosen = params(dataset="csv")
    described = {"root": chosen.root, "options": chosen.options.model_dump(mode="json"), "objects": {}}
    paths.index("csv").parent.mkdir(parents=True)
    index = paths.index("csv").with_suffix(".json")
    index.write_text(json.dumps(described))
    with pytest.raises(UserError, match="dataset csv has no boxes"):
        params(dataset="csv", head="anchors", cut="map")
    index.write_text(json.dumps(described | {"objects": {"all": {"ant": {"objects": 1, "difficult": 0}}}}))
    params(dataset="csv", head="anchors", cut="map")


def test_a_module_that_the_network_lacks_is_refused_first(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turn(home, "\ncut: pooled\n", "\ncut: layer3\n")
    turn(home, "\ntap: same\n", "\ntap: pooled\n")
    with pytest.raises(
        UserError, match=r"no module 'layer3'.* Its modules are conv_stem, .*blocks.1, .*stages.backbone"
    ):
        check.main(argparse.Namespace(mark=None, overrides=[]))
    turn(home, "\ncut: layer3\n", "\ncut: blocks.3\n")
    assert check.main(argparse.Namespace(mark=None, overrides=[])) == 0


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("\n  precision: auto\n", "\n  precision: float16\n", "float16 needs a GPU"),
        ("\ndevice: auto\n", "\ndevice: cuda\n", "cuda is not available here"),
    ],
)
def test_what_this_machine_cannot_compute_is_refused_first(
    home: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, said: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    turn(home, old, new)
    with pytest.raises(UserError, match=said):
        check.main(argparse.Namespace(mark=None, overrides=[]))


def test_features_that_are_here_may_come_from_a_gpu(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    turn(home, "\n  precision: auto\n", "\n  precision: float16\n")
    features = paths.features("logos", "efficientnet_lite0", "pooled")
    features.parent.mkdir(parents=True)
    features.touch()
    assert check.main(argparse.Namespace(mark=None, overrides=[])) == 0


@pytest.mark.parametrize(
    ("backbone", "host", "file"),
    [
        ("resnet18", "download.pytorch.org", "torch/hub/checkpoints/resnet18-f37072fd.pth"),
        ("timm:vit_tiny_patch16_224", "huggingface.co", "hf/hub/models--timm--vit_tiny_patch16_224.augreg/x"),
    ],
)
def test_weights_that_are_to_come_are_told_with_their_host(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], backbone: str, host: str, file: str
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(home / "torch"))
    monkeypatch.setenv("HF_HOME", str(home / "hf"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    asked = argparse.Namespace(mark=None, overrides=[])
    check.main(asked)
    assert "they come from" not in capsys.readouterr().out  # those of the default are a package
    turn(home, "\nbackbone: efficientnet_lite0\n", f"\nbackbone: {backbone}\n")
    check.main(asked)
    assert f"has no weights of {backbone}: they come from {host}" in capsys.readouterr().out
    (home / file).parent.mkdir(parents=True)
    (home / file).touch()
    check.main(asked)
    assert "they come from" not in capsys.readouterr().out


@pytest.mark.parametrize(("views", "tells"), [("1", True), ("2", False)])
def test_averaging_over_one_view_is_told(home: Path, repository: Path, views: str, tells: bool) -> None:
    turn(home, "tta: false", "tta: true")
    turn(home, "views: 1", f"views: {views}")
    assert ("such as -S views=4" in run(home, repository).stdout) == tells


def test_it_names_what_differs_from_the_commit(home: Path, repository: Path) -> None:
    commit(home)
    assert "differs" not in run(home, repository).stdout
    turn(home, "\nhead: mlp\n", "\nhead: ridge\n")
    turn(home, "\nlr: 0.001\n", "\nlr: 0.0051\n")
    turn(home, "  dtype: float16\n", "  dtype: float32\n")
    said = run(home, repository).stdout
    assert "differs from the commit: head=ridge, lr=0.0051, extract.dtype=float32 (`git checkout params.yaml`" in said


def test_it_names_them_before_an_error_too(home: Path, repository: Path) -> None:
    commit(home)
    turn(home, "\nlr: 0.001\n", "\nlr: fast\n")
    done = run(home, repository)
    assert done.returncode == 1 and "`lr` must be" in done.stderr
    assert "differs from the commit: lr=fast" in done.stdout


def test_a_knob_that_the_commit_lacks_is_no_difference() -> None:
    assert check.differing({"a": 1, "b": {"c": 2, "d": [1]}}, {"b": {"c": 2, "d": [2]}}) == ["b.d=[1]"]


def test_a_commit_that_cannot_be_read_is_passed_over(home: Path, repository: Path) -> None:
    text = (home / "params.yaml").read_text()
    turn(home, text, "a: [")
    commit(home)
    turn(home, "a: [", text)
    done = run(home, repository)
    assert done.returncode == 0 and "differs" not in done.stdout and not done.stderr


def test_it_imports_no_torch(home: Path, repository: Path) -> None:
    script = "import sys; from stages.params import load; load(); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False\n"
