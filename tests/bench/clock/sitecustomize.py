"""Clocks a stage from outside: Python runs this file first where its folder is on PYTHONPATH (tests.bench.experiment).

When the process ends, the seconds that it took to start, to import, to read and to write go to the folder that
COLDCUT_CLOCK names.
"""

import atexit
import builtins
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TIMED = {  # module -> functions, and what their time counts as
    "stages.datasets.index_file": (("read",), "reading"),
    "stages.features.h5": (("read",), "reading"),
    "stages.results": (("read_text", "read_csv"), "reading"),
    "stages.files": (("write_bytes", "write_text", "write_json", "write_json_lines", "write_csv"), "writing"),
}
seconds = {"imports": 0.0, "reading": 0.0, "writing": 0.0}
depth = dict.fromkeys(seconds, 0)


def timed(function: Callable[..., Any], kind: str) -> Callable[..., Any]:
    """The function, whose time is added to one kind; a call within another of that kind counts once."""

    def call(*arguments: Any, **options: Any) -> Any:
        depth[kind] += 1
        started = time.perf_counter()
        try:
            return function(*arguments, **options)
        finally:
            depth[kind] -= 1
            if not depth[kind]:
                seconds[kind] += time.perf_counter() - started
                if kind == "imports":
                    wrap()

    return call


def wrap() -> None:
    """Wraps the functions of modules that were imported meanwhile."""
    for module in TIMED.keys() & sys.modules.keys():
        names, kind = TIMED.pop(module)
        for name in names:
            setattr(sys.modules[module], name, timed(getattr(sys.modules[module], name), kind))


def leave(code: int) -> None:
    """Writes the seconds, and ends the process."""
    note()
    plain_exit(code)


def note() -> None:
    """Writes the seconds."""
    stage = Path(sys.argv[0]).stem
    lived = time.time() - created
    values = {"stage": stage, "start": begun - created, **seconds, "all": lived}
    Path(os.environ["COLDCUT_CLOCK"], f"{stage}-{os.getpid()}.json").write_text(json.dumps(values))


if "COLDCUT_CLOCK" in os.environ and "stages." in " ".join(sys.orig_argv[1:3]):
    begun, ticks = time.time(), int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    created = time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
    plain_exit, os._exit = os._exit, leave  # type: ignore[assignment]
    atexit.register(note)  # check ends in the usual way
    builtins.__import__ = timed(builtins.__import__, "imports")
