"""Commands that messages, the README and docs/ advise: each is one that DVC, git, pip, make or this project has."""

import ast
import importlib
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from dvc.cli.parser import get_main_parser

from stages import command
from tests.dag import pipeline

REPO = Path(__file__).parents[1]
TOOLS = ("dvc", "git", "python", "coldcut", "pip", "make", "source")
PATTERN = re.compile(rf"`(?:\.venv/bin/)?((?:{'|'.join(TOOLS)}) [^`]+)`")
ALWAYS = {"dvc repro -f -s index", "dvc repro -f -s extract", "dvc exp run -S lr=0.01"}  # at least these must be found


def messages(path: Path) -> Iterator[str]:
    """The texts of a module, what is filled into them as `x`; a template or a page as a whole."""
    if path.suffix != ".py":
        yield path.read_text()
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "x" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def advised() -> list[str]:
    """Every command in backticks below `stages` and in the pages, and every line of the pages' shell blocks."""
    pages = [REPO / "README.md", *(REPO / "docs").glob("*.md")]
    paths = [*(REPO / "stages").rglob("*.py"), *(REPO / "stages").rglob("*.j2"), *pages]
    found = {" ".join(words.split()) for path in paths for text in messages(path) for words in PATTERN.findall(text)}
    for block in [block for page in pages for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)]:
        lines = block.replace("\\\n", " ").splitlines()
        found |= {line for line in lines if line.startswith(tuple(f"{tool} " for tool in TOOLS))}
    return sorted(line for line in found if not re.search(r"[….]{3}|…", line))


def words_of(line: str) -> list[str]:
    """The words of a command as a shell splits them, without comment, redirection and what follows it."""
    line = re.sub(r"\$\([^)]*\)", "-S lr=0.1", line)
    return shlex.split(re.split(r" [|>]| && |;", line)[0], comments=True)


ADVISED = advised()


def test_commands_are_found() -> None:
    assert set(ADVISED) >= ALWAYS
    assert len(ADVISED) > 40


@pytest.mark.parametrize("line", [line for line in ADVISED if line.startswith("dvc ")])
def test_dvc_has_it(line: str, repository: Path) -> None:
    words = words_of(line)[1:]
    if words in (["exp", "run", "-S"], ["exp", "apply"]):
        return  # named without its value, in a sentence
    options = get_main_parser().parse_args(words)
    if options.cmd == "repro" and options.targets:
        assert options.single_item or not options.force, "-f alone runs every stage before it as well"
        assert set(options.targets) <= set(pipeline.load())


@pytest.mark.parametrize("line", [line for line in ADVISED if re.match(r"python -m stages\.\w|coldcut ", line)])
def test_this_project_has_it(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = words_of(line)
    name, arguments = (words[1], words[2:]) if words[0] == "coldcut" else (words[2].partition(".")[2], words[3:])
    if name in ("repro", "exp"):  # DVC's
        get_main_parser().parse_args([name, *arguments])
        return
    module = importlib.import_module(f"stages.{name}")
    parsed = []
    monkeypatch.setattr(command, "run", lambda main, options: parsed.append(options))
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    if not hasattr(module, "run") or module.run.__module__ == "stages.stage":
        assert set(arguments) <= {"-v", "-q"}  # a stage
        return
    try:
        module.run()
    except SystemExit:
        assert not arguments, f"{line} is not understood"  # named alone, in a sentence
    else:
        assert parsed


@pytest.mark.parametrize("line", [line for line in ADVISED if line.startswith("git ")])
def test_git_has_it(line: str) -> None:
    listed = subprocess.run(
        ["git", "--list-cmds=main,others"], capture_output=True, text=True, check=True
    ).stdout.split()
    assert words_of(line)[1] in {*listed, "lfs"}


@pytest.mark.parametrize("line", [line for line in ADVISED if line.startswith(("make ", "pip "))])
def test_make_and_pip_have_it(line: str, repository: Path) -> None:
    words = words_of(line)
    if words[0] == "make":
        targets = re.findall(r"(?m)^(\w[\w-]*):", (repository / "Makefile").read_text())
        assert {word for word in words[1:] if "=" not in word} <= set(targets)
        return
    extras = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    asked = {extra for word in words for extra in re.findall(r"^\.\[([\w,-]+)\]$", word)}
    assert {extra for group in asked for extra in group.split(",")} <= set(extras)
