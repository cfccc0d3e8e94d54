"""How much of the machine this process may use."""

import os
from pathlib import Path

CONTAINER = Path("/sys/fs/cgroup")  # the limits of a container, as it sees them itself (cgroup v2)


def cores() -> int:
    """How many cores this process may use: those of its affinity, or fewer where its container has a quota.

    A number in PYTHON_CPU_COUNT, which Python itself obeys from 3.13 on, goes before both.
    """
    if (stated := os.environ.get("PYTHON_CPU_COUNT", "")).isdigit():
        return int(stated)
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, *period = _limit("cpu.max")
    if not (quota.isdigit() and period):
        return allowed
    return max(1, min(allowed, round(int(quota) / int(period[0]))))


def memory() -> int:
    """Bytes of memory that this process may use: all of the machine's, or those of its container."""
    installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    (limit, *_) = _limit("memory.max")
    return min(installed, int(limit)) if limit.isdigit() else installed


def _limit(name: str) -> list[str]:
    """The words of a limit; a single empty one where there is none."""
    try:
        return (CONTAINER / name).read_text().split() or [""]
    except OSError:
        return [""]
