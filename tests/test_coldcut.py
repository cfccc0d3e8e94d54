"""The command `coldcut`: it finds the checkout, its Python and the command, from any folder."""

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import coldcut
from stages import check, paths
from stages.overrides import hydra
from stages.prediction import image_files


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose command `show` prints how it was called; `tool` is a module that is no command."""
    home = tmp_path / "the checkout"
    (home / "stages/deep").mkdir(parents=True)
    for name in ("dvc.yaml", "params.yaml", "stages/__init__.py", "stages/tool.py"):
        (home / name).touch()
    (home / "stages/__main__.py").write_text("print('the list')")
    (home / "stages/show.py").write_text(
        "import os, shutil, sys\n"
        'if __name__ == "__main__":\n'
        "    print(sys.argv[1:], os.getcwd(), os.environ['COLDCUT_FROM'], shutil.which('python'), sep='|')\n"
    )
    return home


def call(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COLDCUT")}
    return subprocess.run(
        [sys.executable, coldcut.__file__, *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("below", [".", "stages", "stages/deep"])
def test_a_command_runs_in_the_checkout_wherever_it_is_called(checkout: Path, below: str) -> None:
    done = call(checkout / below, "show", "-x", "a b")
    arguments, folder, called_from, python = done.stdout.strip().split("|")
    assert (arguments, folder) == ("['-x', 'a b']", str(checkout))
    assert called_from == ("" if below == "." else str(checkout / below))
    assert Path(python).parent == Path(sys.executable).parent  # DVC's stages call `python`


def test_the_environment_of_the_checkout_comes_first(checkout: Path) -> None:
    assert coldcut.interpreter(checkout) == Path(sys.executable)
    python = checkout / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    assert coldcut.interpreter(checkout) == python


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_without_a_command_it_lists_them(checkout: Path, arguments: list[str]) -> None:
    assert call(checkout, *arguments).stdout == "the list\n"


def test_a_command_that_does_not_exist(checkout: Path) -> None:
    done = call(checkout, "tool")
    assert done.returncode == 1 and "coldcut has no command 'tool'. It has show, repro" in done.stderr


def test_outside_of_a_checkout(tmp_path: Path) -> None:
    done = call(tmp_path, "show")
    assert done.returncode == 1 and f"{tmp_path} is not in a checkout of coldcut" in done.stderr


def test_dvc_runs_with_the_packages_of_the_checkout(repository: Path) -> None:
    done = call(repository / "stages", "exp", "--help")
    assert done.returncode == 0 and "dvc exp" in done.stdout


def test_help_says_what_was_called(repository: Path) -> None:
    done = call(repository, "recipe", "--help")
    assert "usage: coldcut recipe" in done.stdout and "$(coldcut recipe logos-default)" in done.stdout
    assert "stages." not in done.stdout


def test_paths_are_meant_where_the_user_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    assert list(image_files.expand(["a.jpg", "photos"])) == ["a.jpg", "photos"]  # to be told as empty
    monkeypatch.setenv("COLDCUT_FROM", str(tmp_path / "photos"))
    assert list(image_files.expand(["a.jpg", "/b.jpg"])) == [str(tmp_path / "photos/a.jpg"), "/b.jpg"]
    assert paths.typed_path("x") == tmp_path / "photos/x"


@pytest.mark.parametrize("folder", ["/a (old)", "/a=b", "/näme", "/it's"])
def test_a_value_that_needs_more_quotes_is_told_with_them(repository: Path, folder: str) -> None:
    """DVC's own message would be Hydra's, such as LexerNoViableAltException."""
    done = call(repository, "exp", "run", "-S", f"root={folder}")
    assert done.returncode == 1 and f"`root`: DVC cannot read {folder!r} as it stands. Text" in done.stderr
    advised = shlex.split(done.stderr.partition("quotes: ")[2])
    assert advised == ["-S", f"root={hydra(folder)}"]
    for override in (advised[1], "lr"):  # DVC says itself that a knob alone is no override
        assert check.main(argparse.Namespace(mark=None, overrides=[override])) == 0


@pytest.mark.parametrize("knob", ["dropuot=0.1", "learningrate=0.1", "split.sed=1"])
def test_a_misspelt_knob_of_an_experiment_is_told_with_the_right_one(repository: Path, knob: str) -> None:
    right = {"dropuot": "did you mean dropout?", "learningrate": "it is called `lr`", "split.sed": "did you mean seed?"}
    done = call(repository, "exp", "run", "--set-param", knob, "-S", "lr=0.1")
    assert done.returncode == 1 and right[knob.partition("=")[0]] in done.stderr and "Invalid" not in done.stderr
    assert coldcut.overrides(["run", "-S", "a=1", f"--set-param={knob}", "-Sb=2", "--temp"]) == [
        *("-Sa=1", f"-S{knob}", "-Sb=2")
    ]


@pytest.mark.parametrize("module", ["stages.recipe", "stages.train", "stages.predict"])
def test_a_missing_package_is_a_sentence(module: str, repository: Path) -> None:
    """`-S` and `-I` leave a Python without the environment's packages."""
    script = f"import runpy, sys; sys.path.insert(0, {str(repository)!r}); runpy.run_module({module!r}, alter_sys=True)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and "Traceback" not in done.stderr
    assert "has no package '" in done.stderr and "source .venv/bin/activate" in done.stderr
