"""`python -m stages.report --open` shows the page of the results that lie here, and no other."""

import argparse
import webbrowser
from pathlib import Path

import pytest

from stages import paths, report
from stages.errors import UserError

NOTHING = argparse.Namespace()


@pytest.fixture
def page(workplace: Path) -> Path:
    """A page of some results."""
    for path in (paths.REPORTS / "metrics.json", paths.PREDICTIONS / "predictions.json"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    report.PAGE.write_text(f"<html></html><!-- {report.made_of()} -->")
    return report.PAGE


def test_it_opens_the_page(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    assert report.open_page(NOTHING) == 0
    assert opened == [page.resolve().as_uri()]


@pytest.mark.parametrize("changed", ["reports/metrics.json", "cache/predictions/predictions.json"])
def test_a_page_of_other_results_is_told(page: Path, changed: str) -> None:
    Path(changed).write_text('{"other": 1}')
    with pytest.raises(UserError, match="belongs to other results"):
        report.open_page(NOTHING)


def test_a_missing_page_is_told(page: Path) -> None:
    page.unlink()
    with pytest.raises(UserError, match="There is no"):
        report.open_page(NOTHING)
