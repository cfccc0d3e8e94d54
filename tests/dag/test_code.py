"""The code that a stage depends on is the code that it imports while it runs."""

import subprocess
import sys
from pathlib import Path

import pytest

from stages import paths
from stages.code import HARMLESS, STAGES, files_of
from stages.imports import ROOT, holds_code, modules
from tests.checkout import Project, environment
from tests.dag import pipeline

IMPORTED = """
import importlib, sys
import stages.stage
from stages.params import load
params, before = load(), set(sys.modules)
importlib.import_module(f"stages.{sys.argv[1]}").main(params)
print(*(name for name in sys.modules if name.startswith("stages.") and name not in before))
"""


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_imports_only_what_its_list_has(project: Project, stage: str) -> None:
    command = [sys.executable, "-c", IMPORTED, stage]
    done = subprocess.run(command, cwd=project.home, env=environment(), capture_output=True, text=True, check=True)
    imported = {name for name in done.stdout.splitlines()[-1].split() if holds_code(name)} - HARMLESS.keys()
    assert f"stages.{stage}" in imported
    assert {modules()[name].relative_to(ROOT) for name in imported} <= files_of(stage, "folder")


def test_every_stage_depends_on_its_list_and_on_no_other_code() -> None:
    stages = pipeline.load()
    del stages["code"]
    assert tuple(stages) == STAGES
    for name, stage in stages.items():
        code = {dep for dep in stage["deps"] if dep.startswith(str(paths.CODE)) or Path(dep).suffix == ".py"}
        assert code == {str(paths.code(name))}


def test_no_stage_depends_on_a_part_of_what_another_one_writes() -> None:
    stages = pipeline.load()
    outs = {Path(out) for stage in stages.values() for out in stage.get("outs", []) if isinstance(out, str)}
    deps = {Path(dep) for stage in stages.values() for dep in stage["deps"]}
    assert outs & deps
    assert not {dep for dep in deps if outs & set(dep.parents)}


def test_what_is_harmless_is_there() -> None:
    assert HARMLESS.keys() <= modules().keys()
