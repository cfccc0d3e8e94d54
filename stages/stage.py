"""Running a stage: checks params, does the work, keeps the seconds, and shows a user's error without a traceback."""

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
from stages.errors import told
from stages.params import Params, load

Stage = Callable[[Params], Mapping[str, object]]
KEPT = {"train": "its last checkpoint is kept", "download": "the bytes so far are kept"}  # after Ctrl-C
LEAST = 1.0  # seconds that a run must have taken to be mentioned before the next one


def run(
    name: str,
    stage: Stage,
    *,
    announce: Callable[[Params], str] | None = None,
    result_file: Path | None = None,
) -> None:
    """Runs `stage` with the params of the current folder; exits with 1 and a message on a user's error.

    What the stage returns (counts, speeds) and its seconds go to `cache/timings/<name>.json`, which nothing depends on.

    Args:
        name: of the module.
        stage: does the work.
        announce: returns what the stage is about to do, and on how much.
        result_file: written by the stage, different for every result; the seconds are also kept under its content.
    """
    arguments = _parser(name).parse_args()
    command.log_to_stderr(quiet=arguments.quiet, verbose=arguments.verbose)
    with command.no_traceback(), silence() if arguments.quiet else contextlib.nullcontext():
        live_run.claim()
        before = inputs.of(name)
        params = load()
        if announce:
            print(f"{name}: {announce(params)}{_expected(name, params)}", flush=True)
        started = time.perf_counter()
        try:
            counts = stage(params)
        except KeyboardInterrupt:
            command.stop(name, KEPT.get(name, "the results of earlier stages are kept"))
        seconds = time.perf_counter() - started
        inputs.check_unchanged(name, before)
        _keep(name, params, counts, seconds, result_file)
        print(f"{name}: {', '.join(told(*count) for count in counts.items())} in {seconds:.1f} s")
    leave()


def leave() -> None:
    """Ends the process at once: everything is written, and a normal exit takes up to a second to unload torch."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def seconds_of(name: str, result_file: Path) -> float | None:
    """The seconds of the run of a stage that wrote a file with these bytes; None if it was not on this machine."""
    try:
        seconds: float = json.loads(_timing(name, result_file).read_text())["seconds"]
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
    """Drops everything that is printed inside it, progress bars too; errors are printed outside."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield


def _expected(name: str, params: Params) -> str:
    """The seconds of the last run with the same data, features and head, in brackets; empty if there was none."""
    try:
        last = json.loads((paths.TIMINGS / f"{name}.json").read_text())
        comparable = last["of"] == _run_key(params) and last["seconds"] >= LEAST
        return f" ({last['seconds']:.0f} s the last time)" if comparable else ""
    except (OSError, ValueError, TypeError, KeyError):
        return ""


def _run_key(params: Params) -> dict[str, Any]:
    names = ("dataset", "root", "backbone", "cut", "head")
    return {name: getattr(params, name) for name in names}


def _keep(name: str, params: Params, counts: Mapping[str, object], seconds: float, result_file: Path | None) -> None:
    timing = {"of": _run_key(params), "seconds": round(seconds, 2), **counts}
    for path in (paths.TIMINGS / f"{name}.json", *([_timing(name, result_file)] if result_file else [])):
        files.write_json(path, timing)


def _timing(name: str, result_file: Path) -> Path:
    """The file with the seconds of a result: in the main checkout, by content, because caches bring results back."""
    content = hashlib.sha256(result_file.read_bytes()).hexdigest()[:16]
    return paths.main_checkout() / paths.TIMINGS / f"{name}-{content}.json"
