"""Freed memory that is kept, seen from outside: how many pages the system has to clear."""

import ctypes
import os
import subprocess
import sys

import pytest

from stages import memory

STEPS = """
import resource
import sys
import torch
from stages import memory
if sys.argv[1] == "keep":
    memory.keep_freed()
for _ in range(100):
    torch.ones(10_000_000)  # 40 MB, freed at once
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


def pages_cleared(how: str) -> int:
    """By a process of its own, since what is set stays; with pages of the usual size."""
    command = [sys.executable, "-c", STEPS, how]
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        command, env=plain | {"THP_MEM_ALLOC_ENABLE": "0"}, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="glibc's allocator is asked"
)
def test_the_pages_of_freed_tensors_are_not_cleared_again() -> None:
    all_pages = 100 * 40_000_000 // os.sysconf("SC_PAGESIZE")
    given_back, kept = (pages_cleared(how) for how in ("give back", "keep"))
    assert given_back - kept > 0.8 * all_pages


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: pytest.fail("there is no glibc"))
    memory.keep_freed()
