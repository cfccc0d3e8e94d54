"""dvc.yaml as it is written, and what its stages depend on."""

import string
from collections.abc import Mapping
from functools import cache
from typing import Any

import yaml

from tests.dag.imports import ROOT, modules

Stages = Mapping[str, Mapping[str, Any]]
BY_HAND = {"check"}  # depends on params.yaml as a whole


def load() -> dict[str, dict[str, Any]]:
    """The stages of dvc.yaml by name, without `check`."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    return {name: stage for name, stage in stages.items() if name not in BY_HAND}


def covered(stage: Mapping[str, Any], dataset: str) -> set[str]:
    """The modules that a stage depends on, by itself or as one of a folder, when it runs on a dataset."""
    found = set[str]()
    for dep in stage["deps"]:
        if dep.startswith("stages/"):
            found |= _modules_of(_filled(dep, dataset))
    return found


def knobs(stage: Mapping[str, Any], dataset: str) -> set[str]:
    """The knobs and blocks of params.yaml that a stage depends on, when it runs on a dataset."""
    lists = (entry["params.yaml"] if isinstance(entry, dict) else [entry] for entry in stage.get("params", []))
    return {_filled(knob, dataset) for names in lists for knob in names}


@cache
def _modules_of(dep: str) -> frozenset[str]:
    """The modules that a file or a folder holds."""
    path = ROOT / dep
    assert path.exists(), f"dvc.yaml depends on {dep}, which is not there"
    return frozenset(module for module, file in modules().items() if path in (file, *file.parents))


def _filled(text: str, dataset: str) -> str:
    return string.Template(text).safe_substitute(dataset=dataset)
