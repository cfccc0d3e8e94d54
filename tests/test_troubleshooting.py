"""docs/troubleshooting.md quotes messages word for word: each is in the code, but for those of other programs."""

import ast
import re
from collections.abc import Iterator

import pytest

from tests.checkout import REPO

NOT_OURS = {  # a quote: whose message it is
    "python: command not found": "the shell's",
    "No module named 'stages'": "Python's",
    "[Errno 2] No such file or directory": "DVC's",
    "Could not override …": "DVC's",
    "LexerNoViableAltException: …": "Hydra's",
    "mismatched input …": "Hydra's",
    "Sweep overrides can't be used …": "DVC's",
    "Unable to acquire lock.": "DVC's",
    "'./dvc.lock' validation failed.": "DVC's",
    "'./dvc.lock' is invalid.": "DVC's",
}
ANY = "…"


def quotes() -> list[str]:
    """What stands in backticks in the bold part of each entry."""
    page = (REPO / "docs/troubleshooting.md").read_text()
    entries = [" ".join(bold.split()) for bold in re.findall(r"^\*\*(.+?)\*\* —", page, re.DOTALL | re.MULTILINE)]
    return [double or single for bold in entries for double, single in re.findall(r"`` (.+?) ``|`([^`]+)`", bold)]


def strings() -> Iterator[str]:
    """Every string in the code, with ANY where an f-string has a value, and the lines of the Makefile."""
    for path in [REPO / "coldcut.py", *sorted((REPO / "stages").rglob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                yield "".join(str(part.value) if isinstance(part, ast.Constant) else ANY for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
    yield from (REPO / "Makefile").read_text().splitlines()


def is_in_the_code(quote: str) -> bool:
    """Whether a string has the parts of a quote between its ANY, in order. The name of a knob may be a value."""
    parts = _without_knobs(quote).split(ANY)
    return any(_has(parts, text) for text in STRINGS)


def _has(parts: list[str], text: str) -> bool:
    end = 0
    for part in parts:
        if (start := text.find(part, end)) < 0:
            return False
        end = start + len(part)
    return True


def _without_knobs(text: str) -> str:
    return re.sub(rf"`([\w.]+|{ANY})`", ANY, text)


STRINGS = list(map(_without_knobs, strings()))


@pytest.mark.parametrize("quote", quotes())
def test_a_quoted_message_is_in_the_code(quote: str) -> None:
    assert quote in NOT_OURS or is_in_the_code(quote)


def test_a_message_that_nobody_has_is_not_found() -> None:
    assert not is_in_the_code("`head` … finds nothing at all")
    assert NOT_OURS.keys() <= set(quotes())
