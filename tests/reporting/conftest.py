"""A run that every test here may change before it is written."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from stages import paths, report
from stages.reporting import page
from tests.reporting.synthetic import Made


@pytest.fixture(autouse=True)
def without_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """No figures as files, which take seconds a report; test_drawings is about them."""
    leave_out_files(monkeypatch)


def leave_out_files(patch: pytest.MonkeyPatch) -> None:
    """Neither the figures as files nor the process that draws them."""
    patch.setattr(page, "pngs", lambda drawn: {})
    patch.setattr(report, "beside", lambda: ThreadPoolExecutor(1))


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """A run that is yet to be written, in a folder that becomes the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return Made(tmp_path / "the images")


@pytest.fixture(scope="module")
def standard(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Page and markdown of the run as it is by default, for tests that only read."""
    return _reported(tmp_path_factory.mktemp("standard"))


@pytest.fixture(scope="module", params=["classification", "detection", "largest"])
def pages(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Page and markdown of a run of each task."""
    return _reported(tmp_path_factory.mktemp("pages"), task=request.param)


def _reported(home: Path, **changed: Any) -> tuple[str, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.delenv("DVC_ROOT", raising=False)
        leave_out_files(patch)
        report.main(Made(home / "the images", **changed).write())
    return (home / paths.REPORTS / "report.html").read_text(), (home / paths.REPORTS / "report.md").read_text()


@pytest.fixture
def reported(made: Made) -> Callable[[], tuple[str, str]]:
    """Writes the run and its report; gives the page and the markdown."""

    def main() -> tuple[str, str]:
        report.main(made.write())
        return (paths.REPORTS / "report.html").read_text(), (paths.REPORTS / "report.md").read_text()

    return main
