"""Other processes, and what happens where the system has no room for their locks."""

import multiprocessing.synchronize
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest

from stages.processes import InlineExecutor, process_pool


def test_processes_are_used_where_there_are_some() -> None:
    with process_pool(1) as pool:
        assert isinstance(pool, ProcessPoolExecutor)


@pytest.mark.parametrize("error", [FileNotFoundError(2, "No such file"), OSError(28, "No space"), ImportError("none")])
def test_without_shared_memory_this_process_does_the_work(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(multiprocessing.synchronize.SemLock, "__init__", refuse)
    with process_pool(2) as pool:
        assert isinstance(pool, InlineExecutor)
        assert list(pool.map(abs, range(-3, 0))) == [3, 2, 1]
    assert "/dev/shm" in capsys.readouterr().err


def test_an_error_comes_with_the_result() -> None:
    future = InlineExecutor().submit(int, "x")
    with pytest.raises(ValueError, match="invalid literal"):
        future.result()
