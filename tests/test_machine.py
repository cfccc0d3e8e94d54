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


@pytest.mark.parametrize(
    ("limit", "least"), [(None, None), ("max", None), ("8000000", 8_000_000), (f"{1 << 60}", None)]
)
def test_memory_is_that_of_the_container(container: Path, limit: str | None, least: int | None) -> None:
    installed = machine.memory()
    assert installed > 100_000_000
    if limit is not None:
        (container / "memory.max").write_text(f"{limit}\n")
    assert machine.memory() == (least or installed)
