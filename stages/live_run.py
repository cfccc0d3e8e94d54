"""The run that is at work in this checkout: while it lives, a second one is refused.

Each `dvc exp run` puts params.yaml and the branch of git aside, beneath a run that is at work already: both then end
with errors, or with a head that was trained with the knobs of the other. Experiments with `--temp` and those of the
queue run in folders of their own, so that each has its own record.
"""

import json
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from stages import files, paths
from stages.errors import UserError
from stages.overrides import argument, flatten
from stages.params import read

RECORD = paths.LIVE_RUN / "run.json"
SAME_START = 1.0  # seconds: two readings of the time at which one process started differ by less
SETTLED = 5.0  # seconds in which an experiment that is queued meanwhile has put params.yaml back
NAMED = 5  # knobs that a message names
ADVICE = (
    "Wait until it has ended, or run this one in a copy of its own (`dvc exp run --temp -S …`) or in the queue "
    "(`dvc exp run --queue -S …`, then `dvc queue start`)."
)


@dataclass(frozen=True)
class LiveRun:
    """What is known about a run while it is at work.

    Attributes:
        host: the machine; process numbers of another one mean nothing here.
        command: the command line of DVC, or of the stage where it was started by hand.
        processes: number -> seconds since 1970 at which it started, of DVC and of the stage.
        params: what params.yaml held when the run began.
    """

    host: str
    command: str
    processes: Mapping[int, float]
    params: Mapping[str, Any]

    def is_alive(self) -> bool:
        """Whether one of its processes is at work on this machine."""
        return self.host == platform.node() and any(_is_alive(*process) for process in self.processes.items())


def claim() -> None:
    """Makes this run, of which the present stage is a part, the one at work in this checkout.

    Raises:
        UserError: another one is at work, or params.yaml is not what it was when this one began.
    """
    stage = psutil.Process()
    lineage = [stage, *stage.parents()]
    dvc = next((process for process in lineage if _is_dvc(process)), None)
    last = _read_record()
    goes_on = last and dvc and _started_at(dvc, last.processes.get(dvc.pid))  # with a later stage of one run
    params = _unchanged_params(last.params) if last and goes_on else _read_params()
    with files.locked(paths.LIVE_RUN, "Another run is beginning in this checkout."):
        _refuse_another({process.pid for process in lineage})
        owner = dvc or stage
        run = LiveRun(
            host=platform.node(),
            command=_command(owner),
            processes={process.pid: process.create_time() for process in (owner, stage)},
            params=params,
        )
        files.write_json(RECORD, asdict(run))


def _refuse_another(lineage: set[int]) -> None:
    last = _read_record()
    if last and lineage.isdisjoint(last.processes) and last.is_alive():
        raise UserError(
            f"another run is active in this checkout (process {next(iter(last.processes))}: {last.command}), and DVC "
            f"mixes up two at once. {ADVICE}{_harm()}"
        )


def _harm() -> str:
    """What a second `dvc exp run` has done to the first before its first stage could say a word."""
    if "DVC_EXP_NAME" not in os.environ:
        return ""
    return (
        " DVC has already written the knobs of this run to params.yaml, so the other run may fail as well; its message "
        "then says how to go on."
    )


def _unchanged_params(before: Mapping[str, Any]) -> dict[str, Any]:
    """The params now, which are those of the beginning; waits for an experiment that is being queued.

    Raises:
        UserError: naming the knobs that differ, with both values.
    """
    deadline = time.monotonic() + SETTLED
    while changed := _changed(before, params := _read_params()):
        if time.monotonic() > deadline:
            named = [f"`{knob}` was {old!r} and is {new!r}" for knob, (old, new) in changed.items()]
            more = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
            restored = " ".join(argument(knob, old) for knob, (old, _) in changed.items())
            raise UserError(
                f"params.yaml has changed since this run began: {'; '.join(named[:NAMED])}{more}. Somebody edited it, "
                "or started another experiment in this checkout. Finished stages are kept: "
                f"`dvc exp run {restored}` goes on with the old values, `dvc repro` with the new ones."
            )
        time.sleep(SETTLED / 20)
    return params


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Knob -> its value before and now, where they differ."""
    values = dict(flatten("", now))
    return {knob: (old, values.get(knob)) for knob, old in flatten("", before) if values.get(knob) != old}


def _read_params() -> dict[str, Any]:
    """What params.yaml holds, in the types of JSON, since that is how a record keeps it."""
    params: dict[str, Any] = json.loads(json.dumps(read(), default=str))
    return params


def _is_dvc(process: psutil.Process) -> bool:
    """Whether a process is a command of DVC: `dvc …`, `python …/bin/dvc …` or `python -m dvc …`."""
    try:
        return any(Path(word).name == "dvc" for word in process.cmdline()[:4])
    except psutil.Error:  # it is gone, or of another user
        return False


def _command(process: psutil.Process) -> str:
    """The command line of a process as somebody typed it."""
    words = process.cmdline()
    first = next((i for i, word in enumerate(words[:4]) if Path(word).name == "dvc"), None)
    return " ".join(words if first is None else ["dvc", *words[first + 1 :]])


def _is_alive(number: int, started: float) -> bool:
    """Whether the process that started then is at work still; its number may be that of a later one."""
    try:
        process = psutil.Process(number)
        return bool(_started_at(process, started) and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _started_at(process: psutil.Process, seconds: float | None) -> bool:
    return seconds is not None and abs(process.create_time() - seconds) < SAME_START


def _read_record() -> LiveRun | None:
    """The run that was recorded last; None where there is no record, or none that can be read."""
    try:
        record = json.loads(RECORD.read_text(encoding="utf-8"))
        processes = {int(number): float(started) for number, started in record.pop("processes").items()}
        return LiveRun(processes=processes, **record)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
