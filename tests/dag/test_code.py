"""The code that a stage depends on in dvc.yaml is the code that it imports, no less and no more."""

import copy
from collections.abc import Mapping
from functools import cache

import pytest

from stages.datasets.registry import Datasets
from tests.dag import pipeline
from tests.dag.imports import chains, holds_code, modules
from tests.dag.pipeline import Stages

PARAMS = "refuses bad values; a result depends on the values, which dvc.yaml lists, not on who refuses others"
HARMLESS = {  # modules that cannot change a result, so that nobody depends on them
    "stages": "how the threads and the garbage collector of a process behave",
    "stages.blocks": PARAMS,
    "stages.command": "what a command prints when it fails",
    "stages.datasets.registry": PARAMS,
    "stages.errors": "the one user error, and the nearest valid name in its message",
    "stages.evaluation.options": PARAMS,
    "stages.features.options": PARAMS,
    "stages.files": "writes what it is told to, whole or not at all",
    "stages.images.options": PARAMS,
    "stages.params": PARAMS,
    "stages.inputs": "compares, and fails where a result would be recorded wrongly",
    "stages.live_run": "refuses a second run in one checkout",
    "stages.paths": "where things lie: dvc.yaml names the same places, and a stage fails where the two differ",
    "stages.processes": "where something is computed, not what",
    "stages.stage": "what a stage prints, and how long it took",
    "stages.tensors": "writes what it is told to, whole or not at all",
    "stages.training.options": PARAMS,
    "stages.yaml12": "reads YAML as DVC does",
}
DATASETS = tuple(Datasets.model_fields)
STAGES = pipeline.load()


@cache
def reached(stage: str, dataset: str) -> Mapping[str, tuple[str, ...]]:
    """What a stage imports when it runs on a dataset, with any head, and how it comes to."""
    chosen = {"stages.datasets": dataset, "stages.heads": None}
    return chains(f"stages.{stage}", chosen, frozenset(HARMLESS))


def missing(stages: Stages) -> list[str]:
    """What a stage imports and does not depend on: its result would be stale after a change."""
    chain_to = {}
    for name, stage in stages.items():
        for dataset in DATASETS:
            imported = reached(name, dataset)
            for module in imported.keys() - pipeline.covered(stage, dataset):
                chain_to[name, module] = (dataset, " -> ".join(imported[module]))
    return [
        f"{name} imports {module}, which its deps in dvc.yaml lack: on {dataset} {chain}"
        for (name, module), (dataset, chain) in sorted(chain_to.items())
    ]


def needless(stages: Stages) -> list[str]:
    """What a stage depends on and imports with no dataset: it would run without need after a change."""
    found = []
    for name, stage in stages.items():
        covered = {module for dataset in DATASETS for module in pipeline.covered(stage, dataset)}
        imported = {module for dataset in DATASETS for module in reached(name, dataset)}
        for module in sorted(covered - imported - HARMLESS.keys()):
            if holds_code(module):
                found.append(f"{name} depends on {module} in dvc.yaml and does not import it")
    return found


def test_a_stage_depends_on_all_that_it_imports() -> None:
    assert not missing(STAGES), "\n".join(missing(STAGES))


def test_a_stage_depends_on_nothing_that_it_does_not_import() -> None:
    assert not needless(STAGES), "\n".join(needless(STAGES))


def test_what_is_harmless_is_there() -> None:
    assert HARMLESS.keys() <= modules().keys()


CODE = [
    (name, dep)
    for name, stage in STAGES.items()
    for dep in stage["deps"]
    if dep.startswith("stages/") and not dep.endswith(".yaml")  # files that are read and not imported
]


@pytest.mark.parametrize(("name", "dep"), CODE, ids=[f"{name}-{dep}" for name, dep in CODE])
def test_a_dependency_taken_out_is_missed(name: str, dep: str) -> None:
    stage = copy.deepcopy(STAGES[name])
    stage["deps"].remove(dep)
    assert missing({name: stage})
