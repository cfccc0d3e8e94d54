"""What a process may use, in and outside of a container."""

import os
from pathlib import Path

import pytest

from stages import machine


@pytest.fixture(autouse=True)
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(machine, "CONTAINER", tmp_path)
    monkeypatch.delenv("PYTHON_CPU_COUNT", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("quota", "cores"),
    [(None, 8), ("max 100000", 8), ("200000 100000", 2), ("50000 100000", 1), ("1600000 100000", 8), ("", 8)],
)
def test_cores_are_those_that_affinity_and_container_allow(container: Path, quota: str | None, cores: int) -> None:
    if quota is not None:
        (container / "cpu.max").write_text(f"{quota}\n")
    assert machine.cores() == cores


def test_a_stated_number_of_cores_goes_before_all(container: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (container / "cpu.max").write_text("200000 100000\n")
    monkeypatch.setenv("PYTHON_CPU_COUNT", "5")
    assert machine.cores() == 5
    monkeypatch.setenv("PYTHON_CPU_COUNT", "default")  # which Python takes for no number
    assert machine.cores() == 2


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(None, 3 << 30), ("max", 3 << 30), ("8000000", 8_000_000), (f"{1 << 60}", 3 << 30), ("", 3 << 30)],
)
def test_memory_is_that_of_the_container(
    container: Path, monkeypatch: pytest.MonkeyPatch, limit: str | None, expected: int
) -> None:
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 3 << 18, "SC_PAGE_SIZE": 4096}.__getitem__)
    if limit is not None:
        (container / "memory.max").write_text(f"{limit}\n")
    assert machine.memory() == expected
