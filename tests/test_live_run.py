"""A second run in one checkout is refused while the first is at work, and only then."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from stages import live_run
from stages.errors import UserError
from tests.checkout import REPO, environment

STAGE = f"{sys.executable} -c 'from stages import live_run; live_run.claim()'"
FAKE_DVC = """
import subprocess, sys
for command in sys.argv[1:]:  # each is a stage, or a step between two
    if subprocess.run(command, shell=True).returncode:
        sys.exit(1)
"""


@pytest.fixture
def home(workplace: Path, params: Callable[..., Any]) -> Path:
    """A workplace with a params.yaml, and a program named dvc that runs the commands it is given."""
    params(head="mlp", lr=0.001)
    (workplace / "dvc").write_text(FAKE_DVC)
    return workplace


@pytest.fixture
def sleeper() -> Iterator[psutil.Popen]:
    """A process that is at work on something."""
    process = psutil.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


def record(process: psutil.Process, **changes: Any) -> None:
    """Records a process as the run that is at work here."""
    run = {
        "host": live_run.platform.node(),
        "command": "dvc exp run -n other",
        "processes": {process.pid: process.create_time()},
        "params": {},
    }
    live_run.RECORD.parent.mkdir(parents=True, exist_ok=True)
    live_run.RECORD.write_text(json.dumps(run | changes))


def run_dvc(*commands: str) -> subprocess.CompletedProcess[str]:
    """Runs commands under a process that looks like DVC."""
    return subprocess.run(
        [sys.executable, "dvc", *commands],
        env=environment() | {"PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_another_run_is_refused_with_both_ways_out(home: Path, sleeper: psutil.Popen) -> None:
    record(sleeper)
    with pytest.raises(UserError) as error:
        live_run.claim()
    message = str(error.value)
    assert f"process {sleeper.pid}: dvc exp run -n other" in message
    assert "--temp" in message and "--queue" in message and "dvc queue start" in message
    assert "params.yaml" not in message


def test_an_experiment_that_is_refused_tells_what_became_of_the_other(
    home: Path, sleeper: psutil.Popen, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(sleeper)
    monkeypatch.setenv("DVC_EXP_NAME", "mine")
    with pytest.raises(UserError, match=r"already written the knobs of this run to params\.yaml"):
        live_run.claim()


def test_a_run_that_has_ended_is_none(home: Path, sleeper: psutil.Popen) -> None:
    record(sleeper)
    sleeper.kill()
    while sleeper.status() != psutil.STATUS_ZOMBIE:  # nobody has waited for it yet
        time.sleep(0.01)
    live_run.claim()
    record_now = json.loads(live_run.RECORD.read_text())
    assert list(record_now["processes"]) == [str(os.getpid())]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"host": "another-machine"}, id="on another machine"),
        pytest.param({"processes": {"1": 5.0}}, id="a number that another process has now"),
        pytest.param({"processes": {str(2**22 + 1): 5.0}}, id="a number that nobody has"),
        pytest.param({"processes": ["?"]}, id="unreadable"),
    ],
)
def test_a_record_that_says_nothing_of_a_live_run_is_passed_over(
    home: Path, sleeper: psutil.Popen, changes: dict[str, Any]
) -> None:
    record(sleeper, **changes)
    live_run.claim()


def test_the_stages_of_one_run_follow_each_other(home: Path) -> None:
    done = run_dvc(STAGE, STAGE)
    assert done.returncode == 0, done.stderr
    run = json.loads(live_run.RECORD.read_text())
    assert run["command"].startswith("dvc ") and len(run["processes"]) == 2


def test_a_run_follows_one_that_has_ended_with_other_params(home: Path) -> None:
    assert run_dvc(STAGE).returncode == 0
    change_head(home)
    assert run_dvc(STAGE).returncode == 0


def test_stages_by_hand_follow_each_other(home: Path) -> None:
    live_run.claim()
    change_head(home)
    live_run.claim()


def change_head(home: Path) -> None:
    path = home / "params.yaml"
    path.write_text(path.read_text().replace("head: mlp", "head: linear"))


def test_params_that_change_between_two_stages_of_a_run_are_named(home: Path) -> None:
    done = run_dvc(STAGE, "sed -i.old 's/head: mlp/head: linear/' params.yaml", STAGE)
    assert done.returncode == 1
    assert "`head` was 'mlp' and is 'linear'" in done.stderr
    assert "`dvc exp run -S head=mlp` goes on" in done.stderr


def test_params_that_are_put_aside_for_a_moment_are_waited_for(home: Path) -> None:
    aside = "sed -i.old 's/head: mlp/head: linear/' params.yaml; (sleep 1; mv params.yaml.old params.yaml) &"
    done = run_dvc(STAGE, aside, STAGE)
    assert done.returncode == 0, done.stderr
