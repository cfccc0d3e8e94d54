"""Counted nouns, and no message that leaves the reader to choose between one and several."""

import re
from pathlib import Path

import pytest

from stages.errors import counted


@pytest.mark.parametrize(
    ("plural", "one"),
    [
        ("images", "1 image"),
        ("classes", "1 class"),
        ("boxes", "1 box"),
        ("copies", "1 copy"),
        ("train images", "1 train image"),
        ("decisions", "1 decision"),
        ("files are", "1 file is"),
        ("annotated objects have", "1 annotated object has"),
        ("val loss", "1 val loss"),
        ("bad", "1 bad"),
    ],
)
def test_nouns_and_verbs_agree_with_their_number(plural: str, one: str) -> None:
    assert counted(1, plural) == one
    assert counted(0, plural) == f"0 {plural}"
    assert counted(1200, plural) == f"1,200 {plural}"


def test_no_text_says_image_s(repository: Path) -> None:
    """`image(s)` in a message; calls such as `str(s)` have no letter before them that ends a word in a text."""
    sources = [path for kind in ("*.py", "*.j2") for path in (repository / "stages").rglob(kind)]
    lines = [line for path in sources for line in path.read_text(encoding="utf-8").splitlines()]
    assert not [line for line in lines if re.search(r"[a-z]\((s|es|ies)\)", line)]
