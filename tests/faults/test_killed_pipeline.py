"""`dvc repro` killed again and again: the features come out byte for byte, and nothing that was kept is lost.

COLDCUT_KILL_RUNS sets how many runs are made (1 without it; it was run with 10 so far).
"""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml
from PIL import Image

from stages.errors import UserError
from stages.features import h5

RUNS, KILLS = int(os.environ.get("COLDCUT_KILL_RUNS", "1")), 10
CLASSES, EACH, PART = ("red", "green", "blue"), 160, 32
KNOBS = {"dataset": "folder", "backbone": "squeezenet1_1", "weights": "random", "image_size": 160}
OUT = "cache/features/folder/squeezenet1_1-pooled.h5"


def command(project: Path) -> subprocess.Popen[bytes]:
    """`dvc repro extract` in a group of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DVC_")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    log = (project.parent / "log").open("ab")
    return subprocess.Popen(
        ["dvc", "repro", "extract"], cwd=project, env=environment, start_new_session=True, stdout=log, stderr=log
    )


def finish(project: Path) -> None:
    """A run that nobody kills, and those that lost their `dvc` but go on."""
    running = command(project)
    if running.wait(600) and half_written(project):
        running = command(project)
    assert running.wait(600) == 0, said(project)
    psutil.wait_procs([process for process in psutil.process_iter() if _works_in(process, project)], timeout=120)


def said(project: Path) -> str:
    """The end of what the runs printed."""
    return (project.parent / "log").read_text()[-3000:]


def half_written(project: Path) -> bool:
    """Whether DVC refuses dvc.lock, which it writes in place; then it is removed, as a person would do."""
    refused = "dvc.lock' validation failed" in said(project)
    if refused:
        (project / "dvc.lock").unlink(missing_ok=True)
    return refused


def _works_in(process: psutil.Process, project: Path) -> bool:
    try:
        return bool(process.cwd() == str(project))
    except psutil.Error:
        return False


def kept(project: Path) -> set[str]:
    """The images whose rows lie in the store; a run that is still at work may drop parts that it has assembled."""
    while True:
        paths = list((project / "cache/store/features").glob("*/*.h5"))
        try:
            return {image for path in paths for image in h5.read(path).sha256}
        except UserError:
            assert not all(path.exists() for path in paths), "half a file under a final name"


@pytest.fixture(scope="module")
def template(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout whose images are indexed and whose parts are small."""
    home = tmp_path_factory.mktemp("killed")
    generator = np.random.default_rng(0)
    for name in CLASSES:
        (home / "images" / name).mkdir(parents=True)
        for number in range(EACH):
            pixels = generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(home / "images" / name / f"{number}.jpg")
    project = home / "template" / "project"
    names = subprocess.check_output(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=repository)
    for name in names.decode().splitlines():
        if not name.startswith(("tests/", "reports/")) and name != "dvc.lock" and (repository / name).is_file():
            (project / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(repository / name, project / name)
    params = yaml.safe_load((project / "params.yaml").read_text()) | KNOBS | {"root": str(home / "images")}
    (project / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    module = project / "stages/features/extraction.py"
    text, changed = re.subn(r"^PART_VIEWS = \d+", f"PART_VIEWS = {PART}", module.read_text(), flags=re.MULTILINE)
    assert changed == 1
    module.write_text(text)
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    return project


@pytest.mark.slow
def test_killed_again_and_again_it_ends_the_same(template: Path) -> None:
    clean = template.parents[1] / "clean" / "project"
    shutil.copytree(template, clean)
    started = time.monotonic()
    finish(clean)
    seconds, expected = time.monotonic() - started, (clean / OUT).read_bytes()
    total, drawn = len(CLASSES) * EACH, random.Random(0)
    killed = alone = lost = rest = locks = 0
    for run in range(RUNS):
        project = template.parents[1] / f"run-{run}" / "project"
        shutil.copytree(template, project)
        before: set[str] = set()
        for _ in range(KILLS):
            running = command(project)
            time.sleep(drawn.uniform(0.2, 0.8) * seconds)
            if running.poll() is None:
                killed += 1
                if drawn.random() < 0.5:
                    alone += 1
                    os.kill(running.pid, signal.SIGKILL)
                else:
                    os.killpg(running.pid, signal.SIGKILL)
            locks += running.wait() > 0 and half_written(project)
            after = kept(project)
            lost += len(before - after)
            before = after
        rest += total - len(before)
        finish(project)
        log = (project.parent / "log").read_text()
        computed = [int(count) for count in re.findall(r"(\d+) to compute", log)]
        assert computed and max(computed) <= total
        assert (project / OUT).read_bytes() == expected, f"run {run} ends otherwise"
        assert len(list((project / "cache/store/features").glob("*/*.h5"))) == 1
        assert not list((project / "cache").rglob("*.partial"))
        shutil.rmtree(project.parent)
    print(
        f"{RUNS} runs, {killed} killed ({alone} times dvc alone), {lost} kept rows lost, {rest} left to the last runs, "
        f"{locks} times a half dvc.lock"
    )
    assert lost == 0
    assert killed
