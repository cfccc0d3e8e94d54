"""Commands that errors advise are run in a small workspace: afterwards what had failed must succeed.

tests/test_advice.py holds each advised command against the program that it is meant for. Here they are run.
"""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.checkout import Project
from tests.dag.toy import BASE, draw_images
from tests.test_advice import PATTERN, REPO, messages

FEATURES = "cache/features/folder/squeezenet1_1-pooled.h5"
REPAIR = ("python -m stages.store verify --repair", "dvc repro")


@dataclass(frozen=True)
class Advice:
    """A state in which a command fails, or warns, with advice.

    Attributes:
        harm: brings the state about.
        command: what fails in it.
        commands: what the message advises, in its order.
        fails: whether the command fails; otherwise it only says so.
    """

    harm: Callable[[Project], None]
    command: str
    commands: tuple[str, ...]
    fails: bool = True


def _overwrite(name: str) -> Callable[[Project], None]:
    """Damages a file in place, and so DVC's copy of it, which is the same file."""
    return lambda project: (project.home / name).write_bytes(b"damaged")


def _remove(name: str) -> Callable[[Project], None]:
    def remove(project: Project) -> None:
        path = project.home / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return remove


def _flip(project: Project) -> None:
    path = project.home / FEATURES
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def _turn(old: str, new: str) -> Callable[[Project], None]:
    def turn(project: Project) -> None:
        path = project.home / "params.yaml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return turn


def _change_an_image(project: Project) -> None:
    """One that extract must read again, as its row is gone with the store."""
    shutil.rmtree(project.home / "cache/store")
    image = next((project.images / "red").glob("*.jpg"))
    image.write_bytes((project.images / "blue" / image.name).read_bytes()[:-2] + b"\0\xff\xd9")


def _remove_experiments(project: Project) -> None:
    project.run("dvc", "exp", "remove", "--all-commits")  # other tests made them


def _break_images(project: Project) -> None:
    for number in range(5):
        (project.images / f"red/broken-{number}.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut off")


ADVICE = {
    "a damaged index": Advice(
        _overwrite("data/index/folder.jsonl"), "python -m stages.train", REPAIR
    ),
    "a damaged split": Advice(
        _overwrite("data/split/folder.json"), "python -m stages.train", REPAIR
    ),
    "damaged features": Advice(
        _flip, "python -m stages.train", REPAIR
    ),
    "a damaged head": Advice(
        _overwrite("cache/head/head.json"), "python -m stages.evaluate", REPAIR
    ),
    "no head": Advice(_remove("cache/head"), "python -m stages.predict IMAGE", ("dvc repro",)),
    "damaged predictions": Advice(
        _overwrite("cache/predictions/evaluation.json"), "python -m stages.report", REPAIR
    ),
    "other views than in the file": Advice(
        _turn("\nviews: 1\n", "\nviews: 2\n"), "python -m stages.train", ("dvc repro",)
    ),
    "an image that has changed": Advice(_change_an_image, "python -m stages.extract", ("dvc repro",)),
    "knobs that differ": Advice(
        _turn("\nepochs: 2\n", "\nepochs: 3\n"), "python -m stages.check", ("git checkout params.yaml",), fails=False
    ),
    "nothing to compare": Advice(
        _remove_experiments, "python -m stages.compare", ("dvc exp run -S lr=0.01",)
    ),
    "too many broken images": Advice(
        _break_images, "dvc repro", (r"dvc exp run -S bad_images.max_fraction=0.\d+",)
    ),
}  # fmt: skip
NOT_FOLLOWED = {  # and why
    "coldcut experiments --commits 5": "a list that tests/test_experiments.py makes",
    "dvc exp list --all-commits": "DVC's own list",
    "dvc exp pull origin --all-commits": "needs a remote: tests/test_team.py",
    "dvc exp run --allow-missing": "needs another checkout: tests/test_team.py",
    "dvc exp run": "named without its values",
    "dvc exp run --temp": "named without its values: tests/test_queue.py",
    "dvc exp run -S": "named without its values",
    "dvc exp run x": "its values are filled in: tests/test_inputs.py and tests/test_live_run.py follow them",
    "dvc exp show": "DVC's own table",
    "dvc fetch --all-commits": "needs a remote: tests/test_team.py",
    "dvc gc": "named, not advised",
    "dvc pull": "needs a remote: tests/test_team.py",
    "dvc pull code index split extract review": "needs a remote: tests/test_team.py",
    "dvc queue start": "tests/test_queue.py",
    "dvc repro -f -s index": "a linked folder: tests/datasets/test_advice.py",
    "dvc repro -f -s extract": "a head that lacks its rest: tests/training/test_unfreezing.py",
    "git commit -am 'First run on these images'": "of git alone",
    "git commit -am 'Results of this machine'": "of git alone",
    "git diff x": "of git alone",
    "git lfs pull": "needs a repository with LFS",
    "coldcut exp run": "named without its values: tests/test_coldcut.py",
    "dvc repro extract split": "tests/test_label.py",
    "git checkout x": "of git alone",
    "python -m stages.label": "tests/test_label.py",
    "python -m stages.label --apply FILE": "tests/test_label.py",
    "python -m stages.label --random": "tests/test_label.py",
    "python -m stages.review --apply FILE": "tests/test_review.py",
    "python -m stages.backbone --list": "a list: tests/test_backbone.py",
    "python -m stages.backbone x": "a list: tests/test_backbone.py",
    "python -m stages.check": "named in a sentence: tests/test_check.py",
    "python -m stages.compare HEAD~1 workspace": "an example: tests/comparing",
    "python -m stages.compare x": "its names are filled in: tests/comparing",
    "python -m stages.predict": "named without a path: tests/test_predict.py",
    "python -m stages.report --open": "opens a browser: tests/test_report.py",
    "python -m stages.store gc --dry-run": "lists, and removes nothing: tests/test_store.py",
}
OF_THE_PROJECT = re.compile(r"dvc |git |coldcut |python -m stages\.\w")


def test_every_advised_command_is_followed_here_or_elsewhere() -> None:
    sources = [*(REPO / "stages").rglob("*.py"), *(REPO / "stages").rglob("*.j2")]
    advised = {" ".join(line.split()) for path in sources for text in messages(path) for line in PATTERN.findall(text)}
    advised = {line for line in advised if OF_THE_PROJECT.match(line) and "…" not in line}
    followed = {command for advice in ADVICE.values() for command in advice.commands}
    assert advised - followed - set(NOT_FOLLOWED) == set()
    assert set(NOT_FOLLOWED) <= advised


@pytest.fixture
def workspace(project: Project) -> Project:
    """The project as it was committed, with its results and its images."""
    project.run("git", "checkout", "-q", "HEAD", "params.yaml", "dvc.lock", "reports")
    shutil.rmtree(project.images)
    draw_images(project.images, 8)
    project.run("dvc", "repro")
    project.run("git", "checkout", "-q", "HEAD", "params.yaml", "dvc.lock", "reports")
    return project


@pytest.mark.slow
@pytest.mark.parametrize("name", ADVICE)
def test_what_is_advised_helps(workspace: Project, name: str) -> None:
    advice = ADVICE[name]
    image = str(next((workspace.images / "red").glob("*.jpg")))
    command = advice.command.replace("IMAGE", image).split()
    advice.harm(workspace)
    said = workspace.run(*command, check=not advice.fails)
    position = 0
    for advised in advice.commands:
        match = re.compile(advised).search(said, position)
        assert match, f"{advised} is not in: {said}"
        position = match.end()
        workspace.run(*match[0].split())
    after = workspace.run(*command)
    assert not any(re.search(advised, after) for advised in advice.commands), after


def test_the_table_is_of_this_project() -> None:
    assert Path(FEATURES).name.startswith(str(BASE["backbone"]))
