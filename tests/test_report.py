"""`python -m stages.report --open` shows the page of the results that lie here, and no other."""

import argparse
import re
import shlex
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages import evaluate, extract, index, lr_sweep, paths, report, review, split, train
from stages.errors import UserError
from stages.reporting import command, gather
from tests.trained import SMALL

NOTHING = argparse.Namespace()
WITHOUT_EFFECT = (  # on the result of a classifier on one view, so that the complete command leaves them out
    r"device|bad_images\.|lr_sweep\.|extract\.(cluster|compile)|boxes\.|augment\.|extract\.seed|split\.folds"
)


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


def test_the_complete_command_sets_every_knob_with_an_effect(
    workplace: Path, params: Callable[..., Any], class_folder: Callable[..., Path]
) -> None:
    chosen = params(**SMALL | {"dataset": "folder", "root": str(class_folder(8)), "head": "linear"})
    for stage in (index, split, extract, review, lr_sweep, train, evaluate):
        stage.main(chosen)
    words = shlex.split(command.complete(gather.load("folder")).replace("\\\n", ""))
    given = {word.partition("=")[0] for word in words[4::2]}
    other_datasets = re.compile(r"datasets\.(?!folder\.)")
    missing = [knob for knob in command.defaults() if knob not in given and not other_datasets.match(knob)]
    assert not [knob for knob in missing if not re.match(WITHOUT_EFFECT, knob)]
