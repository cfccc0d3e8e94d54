"""A checkout of this project in which tests run DVC."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tests import defaults

REPO = Path(__file__).parents[1]
RESULTS = ("dvc.lock", "reports/")


class Project:
    """A checkout, and beside it a folder for images."""

    def __init__(self, home: Path) -> None:
        self.home, self.images = home, home.parent / "images"

    def run(self, *command: str, check: bool = True) -> str:
        """What a command printed; it runs in the checkout with this interpreter first on PATH."""
        done = subprocess.run(command, cwd=self.home, env=environment(), capture_output=True, text=True, check=False)
        output = done.stdout + done.stderr
        assert not check or done.returncode == 0, output
        assert check or done.returncode != 0, output
        return output

    def params(self) -> dict[str, Any]:
        """What params.yaml holds now."""
        found: dict[str, Any] = yaml.safe_load((self.home / "params.yaml").read_text())
        return found

    def experiment(self, knobs: dict[str, object], *arguments: str, check: bool = True) -> tuple[set[str], str]:
        """`dvc exp run` with some knobs turned: the stages that ran, and what was printed."""
        settings = [part for name, value in knobs.items() for part in ("-S", f"{name}={value}")]
        output = self.run("dvc", "exp", "run", *arguments, *settings, check=check)
        return ran(output), output

    def commit(self, message: str) -> None:
        """Commits all that git does not ignore."""
        self.run("git", "add", "-A")
        self.run("git", "commit", "-q", "--allow-empty", "-m", message)


def fresh(home: Path) -> Project:
    """The files of this checkout in a repository of their own, without results."""
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=REPO, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in tracked.stdout.splitlines():
        left_out = name.startswith(("tests/", *RESULTS)) and not name.endswith(".gitkeep")
        if not left_out and (REPO / name).is_file():
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPO / name, home / name)
    (home / "params.yaml").write_text(defaults.text())
    made = Project(home)
    made.run("git", "init", "-q", "-b", "main")
    made.commit("start")
    return made


def clone(project: Project, home: Path) -> Project:
    """What a colleague gets from git."""
    subprocess.run(["git", "clone", "-q", str(project.home), str(home)], check=True)
    return Project(home)


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DVC_")}
    interpreter = Path(sys.executable).parent
    identity = {f"GIT_{who}_{what}": "test@test" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    return kept | identity | {"PATH": f"{interpreter}{os.pathsep}{os.environ['PATH']}"}


def ran(output: str) -> set[str]:
    return set(re.findall(r"Running stage '(\w+)", output))
