"""The Makefile's recipes are commands that a shell can read, with and without CUDA."""

import subprocess
from pathlib import Path

import pytest


@pytest.mark.parametrize("cpu", ["1", "0"])
@pytest.mark.parametrize("target", [".venv/installed", "repro", "test", "lint", "lock", "help"])
def test_every_recipe_is_a_command(repository: Path, target: str, cpu: str) -> None:
    make = ["make", "--always-make", "--dry-run", target, f"CPU={cpu}"]
    recipe = subprocess.run(make, cwd=repository, capture_output=True, text=True, check=True).stdout
    assert recipe.strip()
    checked = subprocess.run(["sh", "-n"], input=recipe, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
