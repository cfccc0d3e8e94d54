"""dvc.yaml as it is written, and the knobs that its stages depend on."""

import string
from collections.abc import Mapping
from typing import Any

import yaml

from stages.imports import ROOT

Stages = Mapping[str, Mapping[str, Any]]
BY_HAND = {"check"}  # depends on params.yaml as a whole


def load() -> dict[str, dict[str, Any]]:
    """The stages of dvc.yaml by name, without `check`."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    return {name: stage for name, stage in stages.items() if name not in BY_HAND}


def knobs(stage: Mapping[str, Any], dataset: str) -> set[str]:
    """The knobs and blocks of params.yaml that a stage depends on, when it runs on a dataset."""
    lists = (entry["params.yaml"] if isinstance(entry, dict) else [entry] for entry in stage.get("params", []))
    return {_filled(knob, dataset) for names in lists for knob in names}


def _filled(text: str, dataset: str) -> str:
    return string.Template(text).safe_substitute(dataset=dataset)
