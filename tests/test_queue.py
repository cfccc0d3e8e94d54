"""Queued experiments from a fresh clone: two at a time end as one after the other, and features are computed once."""

import itertools
import re
import time
from pathlib import Path

import pytest
import yaml

from tests import checkout
from tests.checkout import Project

SMALL = {  # 33 classes of 4 scenes
    "datasets.logos.scenes": 4,
    "datasets.logos.size": 128,
    "weights": "random",
    "image_size": 64,
    "epochs": 2,
    "lr_sweep.steps": 10,
    "extract.engine": "torch",
}
IMAGES = 33 * 4
AXES = {"backbone": ("squeezenet1_1", "resnet18"), "head": ("mlp", "ridge"), "lr": ("0.001", "0.01")}
LIMIT = 900.0  # seconds for the queue
STAGES = ("extract", "lr_sweep", "train", "evaluate")  # whose outs tell a result


def results(project: Project) -> dict[tuple[str, ...], dict[str, str]]:
    """The knobs of each experiment, and the checksums of all that came out of it."""
    found = {}
    for commit in project.run("dvc", "exp", "list", "--sha-only").split():
        files = (project.run("git", "show", f"{commit}:{file}") for file in ("params.yaml", "dvc.lock"))
        params, lock = map(yaml.safe_load, files)
        outs = {out["path"]: out["md5"] for stage in STAGES for out in lock["stages"][stage]["outs"]}
        found[tuple(str(params[knob]) for knob in AXES)] = outs
    return found


def wait(project: Project) -> None:
    """Until nothing is queued or running."""
    started = time.monotonic()
    while re.search(r"Queued|Running", status := project.run("dvc", "queue", "status")):
        assert time.monotonic() - started < LIMIT, status
        time.sleep(2)


@pytest.mark.slow
def test_a_queue_ends_as_one_experiment_after_the_other(tmp_path: Path) -> None:
    queued = checkout.fresh(tmp_path / "queued")
    grid = {knob: ",".join(values) for knob, values in AXES.items()}
    queued.experiment({**SMALL, **grid}, "--queue")
    queued.run("dvc", "queue", "start", "-j", "2")
    wait(queued)
    assert queued.run("dvc", "queue", "status").count("Success") == 8
    names = queued.run("dvc", "exp", "list", "--name-only").split()
    logs = [queued.run("dvc", "queue", "logs", name) for name in names]
    computed = re.findall(r"images, \d+ in the store, (\d+) to compute", "\n".join(logs))
    assert sum(map(int, computed)) == len(AXES["backbone"]) * IMAGES, computed
    assert sum(log.count("unpacking ") for log in logs) == 1

    one_by_one = checkout.fresh(tmp_path / "one_by_one")
    for chosen in itertools.product(*AXES.values()):
        one_by_one.experiment({**SMALL, **dict(zip(AXES, chosen, strict=True))})
    expected = results(one_by_one)
    assert len(expected) == 8
    assert results(queued) == expected
