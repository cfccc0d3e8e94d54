"""What DVC runs again: nothing, what comes back from the cache, what is new; and what bad params leave behind."""

import json
import platform
import re
import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from stages import files, live_run
from stages.live_run import LiveRun
from tests.checkout import Project, clone, environment, ran
from tests.dag.toy import CLASSES, FROM_INDEX, digests


def test_a_second_run_runs_nothing(project: Project) -> None:
    project.run("dvc", "repro")
    assert ran(project.run("dvc", "repro")) == set()


def test_switching_back_runs_the_report_at_most(project: Project) -> None:
    before = digests(project.home)
    backbone = project.params()["backbone"]
    other = "squeezenet1_1" if backbone != "squeezenet1_1" else "resnet18"
    project.experiment({"backbone": other})
    stages, output = project.experiment({"backbone": backbone})
    assert stages <= {"report"}, output
    assert digests(project.home) | {"reports/report.html": ""} == before | {"reports/report.html": ""}


def test_the_page_comes_back_with_its_results(project: Project) -> None:
    project.run("dvc", "repro")
    page = project.home / "reports/report.html"
    made_of = page.read_text().rpartition("<!--")[2]
    page.unlink()
    assert ran(project.run("dvc", "repro")) <= {"report"}
    assert page.read_text().rpartition("<!--")[2] == made_of


def test_ten_images_more_are_ten_computed(project: Project) -> None:
    project.experiment({"dataset": "folder", "root": project.images})
    generator = np.random.default_rng(9)
    for image in range(10):
        pixels = generator.integers(0, 255, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(project.images / CLASSES[0] / f"new-{image}.png")
    output = project.run("dvc", "repro")
    assert " 10 to compute" in output, output
    assert ran(output) == FROM_INDEX


def test_a_clone_without_the_cache_can_go_back_and_run_again(project: Project, tmp_path: Path) -> None:
    project.commit("what a colleague has run")
    colleague = clone(project, tmp_path / "clone")
    images = shutil.copytree(project.images, tmp_path / "images")
    names = [path.relative_to(images) for path in sorted(images.rglob("*.jpg"))]
    (images / "labels.csv").write_text("path,label\n" + "".join(f"{name},{name.parent}\n" for name in names))
    other = {"dataset": "csv", "root": images}
    colleague.experiment(other, "split")
    colleague.run("git", "checkout", "params.yaml", "dvc.lock")
    colleague.experiment(other, "split")


def test_a_temporary_run_reuses_the_store(project: Project) -> None:
    project.run("dvc", "repro")
    project.commit("before --temp")
    _, output = project.experiment({"lr": 0.017, "extract.seed": 3, "views": 1}, "--temp")
    assert " 0 to compute" in output, output


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("lr: fast", "`lr` must be auto or a valid number, found 'fast'"),
        ("lrr: 0.1", "`lrr` is not a knob; did you mean lr?"),
        ("backbone: resnet81", "did you mean resnet18"),
        ("cut: map@4", "`cut` must be pooled, cls, "),
        ("root: /nowhere", "there is no folder '/nowhere'"),
        ("weights: IMAGENET1K_V7", "has no weights 'IMAGENET1K_V7'"),
        ("dataset: logo", "did you mean logos"),
    ],
)
def test_bad_params_leave_the_results_alone(project: Project, line: str, said: str) -> None:
    project.run("dvc", "repro")
    params, before = project.home / "params.yaml", digests(project.home)
    text = params.read_text()
    key = line.partition(":")[0]
    pattern = re.compile(rf"^{key}: .*$", re.MULTILINE)
    params.write_text(pattern.sub(line, text) if pattern.search(text) else f"{text}{line}\n")
    try:
        output = project.run("dvc", "repro", check=False)
    finally:
        params.write_text(text)
    assert said in output
    assert "Traceback" not in output
    assert digests(project.home) == before


@pytest.mark.parametrize(
    ("module", "importing"),
    [
        ("stages/images/decode.py", {"extract", "report"}),
        ("stages/training/schedules.py", {"lr_sweep", "train"}),
        ("stages/heads/knn.py", {"lr_sweep", "train", "evaluate"}),
        ("stages/datasets/splits.py", {"split", "review", "lr_sweep", "train", "evaluate"}),
        ("stages/datasets/caltech101.py", set()),
        ("stages/sweeping/many_heads.py", set()),
    ],
)
def test_a_comment_makes_stale_what_imports_the_module(project: Project, module: str, importing: set[str]) -> None:
    project.run("dvc", "repro")
    path = project.home / module
    text = path.read_text()
    path.write_text(f"{text}# a comment\n")
    try:
        project.run("dvc", "repro", "code")
        status = json.loads(project.run("dvc", "status", "--json"))
    finally:
        path.write_text(text)
    assert status.keys() == importing


def start_until(project: Project, beginning: str, *command: str) -> subprocess.Popen[str]:
    """Starts a command; returns once it has printed a line that begins so."""
    process = subprocess.Popen(
        command,
        cwd=project.home,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout
    for line in process.stdout:
        if line.startswith(beginning):
            break
    return process


@pytest.mark.slow
def test_params_that_change_while_a_stage_runs_are_not_recorded(project: Project) -> None:
    project.experiment({"epochs": 200, "early_stopping_patience": 200, "lr": 0.002})
    params = project.home / "params.yaml"
    params.write_text(params.read_text().replace("lr: 0.002\n", "lr: 0.003\n"))
    process = start_until(project, "train: ", "dvc", "repro")
    params.write_text(params.read_text().replace("lr: 0.003\n", "lr: 0.5\n"))
    output, _ = process.communicate()
    assert process.returncode != 0
    assert "`lr` was 0.003 when train began and is 0.5 now" in output, output
    assert "train" in json.loads(project.run("dvc", "status", "--json"))
    params.write_text(params.read_text().replace("lr: 0.5\n", "lr: 0.002\n"))
    project.run("dvc", "repro")


@pytest.mark.slow
def test_of_two_experiments_at_once_the_second_is_refused(project: Project) -> None:
    project.commit("before two at once")
    branch = project.run("git", "symbolic-ref", "HEAD")
    long = ("-S", "epochs=2000", "-S", "early_stopping_patience=2000")
    first = start_until(project, "train: ", "dvc", "exp", "run", "-n", "first", *long)
    _, output = project.experiment({"lr": 0.0124}, check=False)
    assert "another run is active in this checkout" in output and "dvc exp run -n first" in output, output
    first.communicate()
    assert first.returncode != 0
    assert project.run("git", "symbolic-ref", "HEAD") == branch
    project.run("git", "checkout", "params.yaml", "dvc.lock", "reports")
    project.run("dvc", "repro")


@pytest.mark.slow
def test_an_experiment_in_a_copy_runs_while_another_is_at_work(project: Project) -> None:
    project.commit("before --temp")
    with subprocess.Popen(["sleep", "600"]) as other:
        started = psutil.Process(other.pid).create_time()
        live = LiveRun(host=platform.node(), command="dvc repro", processes={other.pid: started}, params={})
        files.write_json(project.home / live_run.RECORD, asdict(live))
        _, output = project.experiment({"lr": 0.0123, "epochs": 1}, "--temp")
        other.kill()
    assert "Ran experiment(s)" in output, output
