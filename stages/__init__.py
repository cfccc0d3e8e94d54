"""coldcut: the frozen part of a network runs once, heads train in seconds. `python -m stages` lists the commands."""

from __future__ import annotations  # an older Python gets as far as the message below

import gc
import os
import sys
from types import TracebackType

# Before torch is imported. OpenMP's threads spin while they wait; beside another busy process (a second experiment of
# the queue, the decoding threads) that made training 25 times and extraction 3 times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Large tensors take huge pages, where Linux has them: there are fewer pages to clear.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
# OpenVINO tells its makers of every conversion, over the network, where the package for that can be imported.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]


def _say_what_is_missing(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """A missing package is told in a sentence; the traceback of any other error is printed as always."""
    if not isinstance(error, ModuleNotFoundError) or (error.name or "stages").partition(".")[0] == "stages":
        sys.__excepthook__(kind, error, traceback)
        return
    print(
        f"error: {sys.executable} has no package {error.name!r}. Run `source .venv/bin/activate` first, or "
        "`.venv/bin/coldcut` in place of `python -m stages.…`; `make repro` makes .venv.",
        file=sys.stderr,
    )


sys.excepthook = _say_what_is_missing
if not sys.stderr.isatty():  # a log file wants a line now and then, not ten a second
    os.environ.setdefault("TQDM_MININTERVAL", "10")
# Importing torch makes a million objects: looking for garbage among them in between takes half a second.
gc.set_threshold(50_000, 20, 100)
