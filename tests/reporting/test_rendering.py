"""Text in pages stays text."""

import pytest

from stages.reporting import rendering


@pytest.mark.parametrize("letter", ["`", "|", "\\", "*", "<", "[", "\x1b", "\u2028"])
def test_markdown_escapes(letter: str) -> None:
    text = rendering.escaped(f"a{letter}b")
    assert text in {f"a\\{letter}b", "a&lt;b", "a b"}
    assert rendering.escaped("snake_case and _this_") == "snake_case and \\_this\\_"


def test_fence_is_longer_than_any_in_the_text() -> None:
    assert rendering.fence("a") == "```" and rendering.fence("a````b") == "`````"
