"""The knobs that a stage depends on in dvc.yaml are those that it reads while it runs, no less and no more."""

import contextlib
import functools
import zlib
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages import report
from stages.blocks import Block
from stages.heads.registry import HEADS
from stages.imports import ROOT
from stages.params import Params, load
from tests.conftest import merged
from tests.dag import pipeline
from tests.dag.pipeline import Stages
from tests.dag.recorder import Recorder, recording
from tests.datasets import miniature

# Knobs that a stage reads without its result depending on them.
PLACES = "where the images lie; which ones they are stands in the index, by content"
NOBODYS = {
    "device": "where it is computed",
    "extract.cluster": "who computes it",
    "extract.cluster_cpus": "who computes it",
    "extract.cluster_gpus": "who computes it",
}
HARMLESS = {name: NOBODYS | {"root": PLACES} for name in ("extract", "report", "review")}
STAGES = pipeline.load()
LISTS = {"train": 6, "val": 4, "test": 4}
BASE: dict[str, Any] = {
    "backbone": "shufflenet_v2_x0_5", "weights": "random", "image_size": 64, "epochs": 2, "hidden": 8, "batch_size": 8,
    "lr_sweep": {"steps": 10}, "extract": {"batch_size": 8}, "boxes": {"anchor_count": 1},
}  # fmt: skip
# Between them the runs take every head, every kind of data, and every way that makes a stage read one knob more.
RUNS: dict[str, dict[str, Any]] = {
    "linear": {"optimizer": "sgd", "schedule": "step", "loss": "focal", "class_weights": "balanced", "seeds": 2,
               "warmup": 1, "clip_grad": 1.0, "label_smoothing": 0.1},
    "mlp": {"data": "csv", "schedule": "restarts", "refit": "trainval", "views": 2, "decide": {"tta": True}},
    "auto": {},
    "ridge": {},
    "logistic": {},
    "lda": {"split": {"protocol": "kfold"}},
    "knn": {"backbone": "resnet18"},
    "attentive": {"cut": "map"},
    "squeezenet": {"cut": "map", "schedule": "plateau"},
    "lenet5": {"cut": "input"},
    "smallnet": {"cut": "input", "image_size": 32},
    "largest": {"data": "voc", "cut": "map", "schedule": "one_cycle"},
    "grid": {"data": "voc", "cut": "stage3", "tap": "map", "loss": "focal",
             "phases": [{"epochs": 1, "train_from": "head"}, {"epochs": 1}]},
    "anchors": {"data": "coco", "cut": "map@16", "resize": "squash", "views": 2,
                "decide": {"tta": True, "merge": "fusion"}},
    "multiscale": {"data": "coco", "cut": "pyramid", "resize": "squash"},
}  # fmt: skip
Reads = defaultdict[str, list[tuple[str, Recorder]]]


@pytest.fixture(scope="module")
def reads(tmp_path_factory: pytest.TempPathFactory) -> Reads:
    """What each stage read in each run, with the dataset of the run."""
    home = tmp_path_factory.mktemp("knobs")
    data, found = write_data(home), Reads(list)
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(home):
        patch.delenv("DVC_ROOT", raising=False)
        patch.setattr(report, "beside", lambda: ThreadPoolExecutor(1))  # another process would take seconds to start
        for head, knobs in RUNS.items():
            dataset = knobs.get("data", "folder")
            own = {name: value for name, value in knobs.items() if name != "data"}
            params = write_params(home, BASE, data[dataset], {"dataset": dataset, "head": head}, own)
            for stage in STAGES:
                with recording(params) as recorder:
                    import_module(f"stages.{stage}").main(params)
                found[stage].append((dataset, recorder))
    return found


def write_data(home: Path) -> dict[str, dict[str, Any]]:
    """Writes a few tiny images for each kind of dataset; the knobs that point there."""
    for label in ("ant", "bee", "cat"):
        (home / "photos" / label).mkdir(parents=True)
        for number in range(8):
            image = miniature.photograph(zlib.crc32(f"{label}{number}".encode()))
            (home / "photos" / label / f"{number}.jpg").write_bytes(image)
    names = [path.relative_to(home / "photos") for path in sorted((home / "photos").rglob("*.jpg"))]
    (home / "photos/labels.csv").write_text("\n".join(["path,label", *(f"{name},{name.parent}" for name in names), ""]))
    coco = {name: str(file) for name, file in miniature.coco(home / "coco", LISTS).items()}
    return {
        "folder": {"root": str(home / "photos")},
        "csv": {"root": str(home / "photos")},
        "voc": {"root": str(miniature.voc(home / "voc", lists=LISTS))},
        "coco": {"root": str(home / "coco"), "datasets": {"coco": {"annotations": coco}}},
    }


def write_params(home: Path, *overrides: dict[str, Any]) -> Params:
    """Params of the checkout with some knobs turned, read from a file."""
    tree = functools.reduce(merged, overrides, yaml.safe_load((ROOT / "params.yaml").read_text()))
    (home / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    return load(home / "params.yaml")


def knobs_of(block: type[Block] = Params, prefix: str = "") -> Iterator[str]:
    """Every knob of params.yaml by its dotted name."""
    for name, field in block.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Block):
            yield from knobs_of(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


KNOBS = tuple(knobs_of())


def spelt_out(names: set[str]) -> set[str]:
    """Knobs, with all knobs of a block in its place."""
    return {knob for knob in KNOBS if any(knob == name or knob.startswith(f"{name}.") for name in names)}


def undeclared(stages: Stages, reads: Reads) -> set[str]:
    """Knobs that a stage read and does not depend on: a change would leave a stale result."""
    found = set[str]()
    for name, stage in stages.items():
        harmless = HARMLESS.get(name, NOBODYS).keys()
        for dataset, recorder in reads[name]:
            lacks = spelt_out(recorder.used | recorder.stored) - spelt_out(pipeline.knobs(stage, dataset)) - harmless
            found |= {f"{name} reads {knob}, which its params in dvc.yaml lack" for knob in lacks}
    return found


def unread(stages: Stages, reads: Reads) -> set[str]:
    """Knobs that a stage depends on and never reads: a change would run it without need."""
    found = set[str]()
    for name, stage in stages.items():
        declared = {knob for dataset, _ in reads[name] for knob in spelt_out(pipeline.knobs(stage, dataset))}
        read = {knob for _, recorder in reads[name] for knob in recorder.used}
        found |= {f"{name} depends on {knob} in dvc.yaml and never reads it" for knob in declared - read}
    return found


def test_the_runs_take_every_head() -> None:
    assert RUNS.keys() == HEADS.keys()


def test_a_stage_depends_on_every_knob_that_it_reads(reads: Reads) -> None:
    lacks = sorted(undeclared(STAGES, reads))
    assert not lacks, "\n".join(lacks)


def test_a_stage_reads_every_knob_that_it_depends_on(reads: Reads) -> None:
    idle = sorted(unread(STAGES, reads))
    assert not idle, "\n".join(idle)


DECLARED = [(name, knob) for name, stage in STAGES.items() for knob in sorted(pipeline.knobs(stage, "csv"))]


@pytest.mark.parametrize(("name", "knob"), DECLARED, ids=[f"{name}-{knob}" for name, knob in DECLARED])
def test_a_knob_taken_out_is_missed(reads: Reads, name: str, knob: str) -> None:
    stage = dict(STAGES[name], params=sorted(pipeline.knobs(STAGES[name], "csv") - {knob}))
    assert any(line.startswith(f"{name} reads {knob}") for line in undeclared({name: stage}, reads))
