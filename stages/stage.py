"""Running one stage: check params, do the work, keep the time it took, show a user's error without a traceback."""

import argparse
import contextlib
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from stages import command, files, inputs, live_run, paths
from stages.params import Params, load

Stage = Callable[[Params], Mapping[str, object]]
KEPT = {"train": "its last checkpoint is kept", "download": "what has come is kept"}  # after Ctrl-C
LEAST = 1.0  # seconds that are worth a word beforehand


def run(
    name: str,
    stage: Stage,
    what: Callable[[Params], str] | None = None,
    made: Path | None = None,
) -> None:
    """Runs `stage` with the params of the current folder; exits with 1 and a message on a user's error.

    What the stage returns (counts, speeds) and its seconds go to `cache/timings/<name>.json`, which nothing depends on.

    Args:
        name: of the module.
        stage: does the work.
        what: says what is about to be done, and how much.
        made: a file that tells a result of this stage from all others; the seconds are also kept for it.
    """
    arguments = _parser(name).parse_args()
    command.log_to_stderr(quiet=arguments.quiet, verbose=arguments.verbose)
    with command.no_traceback(), silence() if arguments.quiet else contextlib.nullcontext():
        live_run.claim()
        before = inputs.of(name)
        params = load()
        if what:
            print(f"{name}: {what(params)}{_expected(name, params)}", flush=True)
        started = time.perf_counter()
        try:
            found = stage(params)
        except KeyboardInterrupt:
            command.stop(name, KEPT.get(name, "what earlier stages made is kept"))
        seconds = time.perf_counter() - started
        inputs.check_unchanged(name, before)
        _keep(name, params, found, seconds, made)
        print(f"{name}: {', '.join(f'{value} {key}' for key, value in found.items())} in {seconds:.1f} s")
    leave()


def leave() -> None:
    """Ends the process as it is: all is written, and taking down what torch has loaded takes up to a second."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def seconds_of(name: str, made: Path) -> float | None:
    """What the stage took that made this file, or one of the same bytes; None where it was not on this machine."""
    try:
        seconds: float = json.loads(_timing(name, made).read_text())["seconds"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return seconds


def _parser(name: str) -> argparse.ArgumentParser:
    return command.parser(
        name,
        description=f"{sys.modules['__main__'].__doc__}\n\nparams.yaml says what to do, and `dvc repro` runs a stage "
        "when something that it depends on has changed.",
        examples=f"  python -m stages.{name} -v",
    )


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Drops what is printed, progress bars too; errors come through from outside of this."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield


def _expected(name: str, params: Params) -> str:
    """What the stage took the last time, with the same data and features."""
    try:
        last = json.loads((paths.TIMINGS / f"{name}.json").read_text())
        known = last["of"] == _run_key(params) and last["seconds"] >= LEAST
        return f" ({last['seconds']:.0f} s the last time)" if known else ""
    except (OSError, ValueError, TypeError, KeyError):
        return ""


def _run_key(params: Params) -> dict[str, Any]:
    names = ("dataset", "root", "backbone", "cut", "head")
    return {name: getattr(params, name) for name in names}


def _keep(name: str, params: Params, found: Mapping[str, object], seconds: float, made: Path | None) -> None:
    timing = {"of": _run_key(params), "seconds": round(seconds, 2), **found}
    for path in (paths.TIMINGS / f"{name}.json", *([_timing(name, made)] if made else [])):
        files.write_json(path, timing)


def _timing(name: str, made: Path) -> Path:
    """Where the seconds of a result are kept: in the main checkout and by its content, as caches bring results back."""
    content = hashlib.sha256(made.read_bytes()).hexdigest()[:16]
    return paths.main_checkout() / paths.TIMINGS / f"{name}-{content}.json"
