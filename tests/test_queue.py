"""Queued experiments from a fresh clone: two at a time end as one after the other, and features are computed once."""

import itertools
import json
import re
import time
from pathlib import Path
from typing import Any

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
SAME = ("extract", "lr_sweep", "train", "evaluate")  # stages whose outs tell a result


def result(project: Project, name: str) -> tuple[tuple[Any, ...], Any]:
    """The knobs of an experiment, and all that came out of it."""
    params, lock = (
        yaml.safe_load(project.run("git", "show", f"{name}:{file}")) for file in ("params.yaml", "dvc.lock")
    )
    metrics = json.loads(project.run("git", "show", f"{name}:reports/metrics.json"))
    outs = {out["path"]: out["md5"] for stage in SAME for out in lock["stages"][stage]["outs"]}
    return tuple(str(params[knob]) for knob in AXES), (metrics, outs)


def names(project: Project) -> list[str]:
    return project.run("dvc", "exp", "list", "--name-only").split()


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
    logs = [queued.run("dvc", "queue", "logs", name) for name in names(queued)]
    computed = re.findall(r"images, \d+ in the store, (\d+) to compute", "\n".join(logs))
    assert sum(map(int, computed)) == len(AXES["backbone"]) * IMAGES, computed
    assert sum(log.count("unpacking ") for log in logs) == 1

    one_by_one = checkout.fresh(tmp_path / "one_by_one")
    for chosen in itertools.product(*AXES.values()):
        one_by_one.experiment({**SMALL, **dict(zip(AXES, chosen, strict=True))})
    expected = dict(result(one_by_one, name) for name in names(one_by_one))
    assert len(expected) == 8
    assert dict(result(queued, name) for name in names(queued)) == expected
