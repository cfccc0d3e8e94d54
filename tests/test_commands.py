"""What `python -m stages` lists: every command is there, and each has `--help` with an example."""

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from stages.__main__ import text
from stages.command import EPILOG

NAMED = sorted(set(re.findall(r"python -m stages\.(\w+)", text("python -m stages."))))


def test_every_command_is_listed(repository: Path) -> None:
    sources = {path.stem: path.read_text() for path in (repository / "stages").glob("*.py")}
    assert {name for name, text in sources.items() if "command.parser(" in text} - {"stage"} == set(NAMED)


@pytest.mark.parametrize("name", NAMED)
def test_help_has_an_example(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        import_module(f"stages.{name}").run()
    said = capsys.readouterr().out
    assert ended.value.code == 0 and f"python -m stages.{name}" in said.partition(EPILOG)[2]
    assert "--quiet" in said and "--verbose" in said


def test_nobody_reads_the_output(repository: Path) -> None:
    listing = [sys.executable, "-m", "stages.recipe", "--list"]
    with subprocess.Popen(listing, cwd=repository, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.close()  # as `| head` does when it has enough
        _, said = process.communicate()
    assert (process.returncode, said) == (1, b"")


def test_arguments_are_read_in_one_way(repository: Path) -> None:
    files = (repository / "stages").rglob("*.py")
    assert [path.name for path in files if "ArgumentParser(" in path.read_text()] == ["command.py"]
