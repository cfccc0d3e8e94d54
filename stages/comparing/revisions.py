"""What git and DVC keep of a commit, an experiment or the workspace: its results, and its answer on every image."""

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from dvc.exceptions import NotDvcRepoError
from dvc.fs.dvc import DVCFileSystem
from dvc.repo import Repo
from dvc.scm import NoSCMError, RevError, SCMError, resolve_rev

from stages import paths, results, yaml12
from stages.datasets.index_file import IndexRow
from stages.errors import UserError, nearest
from stages.reporting import gather
from stages.reporting.gather import ClassRow, RunResults
from stages.reporting.predictions import BoxPredictions, ClassPredictions, LargestPredictions
from stages.stage import seconds_of

WORKSPACE = "workspace"
LOCK = "dvc.lock"
METRICS = paths.REPORTS / "metrics.json"
CODE = ("stages/", "data/index/")  # dependencies that are told of, beside parameters, where they differ


class JudgedAnswers(NamedTuple):
    """What a head says of the N judged images.

    Attributes:
        rows: the images, with what is true of them.
        mistakes: (N,) how many it makes in each: 0 is right. Of a head that gives an image one answer, 0 or 1.
        said: the answer on each, in words; empty where it is several boxes.
        classes: the score of each class.
    """

    rows: list[IndexRow]
    mistakes: npt.NDArray[np.int64]
    said: list[str]
    classes: list[ClassRow]


@dataclass(frozen=True, eq=False)
class Revision:
    """The results of a commit, an experiment or the workspace.

    Attributes:
        name: as it was asked for.
        lock: what dvc.lock says of the stages that made them.
        metrics: as evaluate wrote them.
        seconds: what training took on this machine; None where it was trained on another.
        answers: on every judged image; None where they are not to be had.
        why: the reason for that.
    """

    name: str
    lock: Mapping[str, Any]
    metrics: Mapping[str, Any]
    seconds: float | None
    answers: JudgedAnswers | None
    why: str = ""

    @property
    def part(self) -> str:
        """What it was judged on: test, or val where there is no test."""
        return "test" if self.metrics.get("n_test") else "val"

    @property
    def settings(self) -> dict[str, str]:
        """The parameters of all stages by their flat names, and short checksums of the code and the index."""
        found = dict[str, str]()
        for stage in self.lock.values():
            found |= _flat("", stage.get("params", {}).get(str(paths.PARAMS), {}))
            deps = {dep["path"]: str(dep.get("md5", ""))[:7] for dep in stage.get("deps", [])}
            found |= {path: checksum for path, checksum in deps.items() if path.startswith(CODE)}
        return found

    def score(self, name: str) -> float | None:
        """A metric of the judged part; None where there is none."""
        return self.metrics.get(name if self.part == "test" else f"val_{name}")


def experiments() -> list[str]:
    """The names of the experiments on top of HEAD, in the order they were made.

    Raises:
        UserError: the current folder is no checkout.
    """
    with _repository() as repo:
        found = [name for names in repo.experiments.ls().values() for name, _ in names]
        made = {name: repo.scm.resolve_commit(resolve_rev(repo.scm, name)).commit_time for name in found}
        return sorted(found, key=lambda name: (made[name], name))


def read(name: str) -> Revision:
    """The results of a revision: a name or checksum that git knows, an experiment's name, or `workspace`.

    Raises:
        UserError: there is no such revision, it has no results, or the current folder is no checkout.
    """
    if name == WORKSPACE:
        return _described(name, Path("."), lambda dataset: None)
    with _repository() as repo:
        commit = _resolve(repo, name)
    with Repo(rev=commit) as repo, tempfile.TemporaryDirectory() as folder:
        files, home = repo.dvcfs, Path(folder)
        for path in (LOCK, str(METRICS), str(paths.PLOTS), str(paths.REPORTS / "lr_sweep.json")):
            with contextlib.suppress(UserError):  # what is missing shows when it is read
                _fetch(files, path, home)
        return _described(name, home, lambda dataset: _fetch_outs(files, dataset, home))


@contextlib.contextmanager
def _repository() -> Iterator[Repo]:
    try:
        with Repo() as repo:
            repo.scm.get_rev()  # of a folder without git or without a commit: an error
            yield repo
    except (NotDvcRepoError, NoSCMError, SCMError) as error:
        raise UserError(f"Run this in the root of a checkout that has a commit ({error}).") from None


def _resolve(repo: Repo, name: str) -> str:
    try:
        commit: str = resolve_rev(repo.scm, name)
    except RevError:
        known = [one for names in repo.experiments.ls(all_commits=True).values() for one, _ in names]
        known += [*repo.scm.list_branches(), *repo.scm.list_tags(), WORKSPACE]
        raise UserError(
            f"There is no commit or experiment {name!r}; {nearest(name, known)} (`dvc exp list --all-commits`)"
        ) from None
    return commit


def _described(name: str, home: Path, fetch: Callable[[str], None]) -> Revision:
    """A revision whose small files lie below `home`; `fetch` brings the outs there."""
    try:
        lock = yaml12.parse((home / LOCK).read_bytes(), LOCK)["stages"]
        metrics = json.loads((home / METRICS).read_text(encoding="utf-8"))
        dataset, _ = metrics["dataset"], metrics["task"]
    except (OSError, ValueError, TypeError, KeyError, UserError) as error:
        what = "`dvc repro` makes them" if name == WORKSPACE else "commit dvc.lock and reports with the results"
        raise UserError(f"{name} has no results ({error!r} in {LOCK} or {METRICS}): {what}.") from None
    seconds = seconds_of("train", home / paths.PLOTS / "history.csv")
    try:
        fetch(dataset)
        with contextlib.chdir(home):
            answers = _answers(gather.load(dataset))
    except UserError as error:
        return Revision(name, lock, metrics, seconds, None, str(error))
    except (OSError, LookupError, TypeError, ValueError) as error:
        return Revision(name, lock, metrics, seconds, None, f"Other code has written them, which has {error!r}.")
    return Revision(name, lock, metrics, seconds, answers)


def _fetch_outs(files: DVCFileSystem, dataset: str, home: Path) -> None:
    """Puts the outs that say what a head answered below `home`: from DVC's cache, or a remote."""
    index, head = paths.index(dataset), paths.HEAD / "head.json"
    _fetch(files, str(head), home)
    knobs = results.read_json(home / head)["params"]
    undecodable = paths.features(dataset, knobs["backbone"], knobs["cut"]).with_suffix(".bad.json")
    for path in (paths.PREDICTIONS, index, index.with_suffix(".json"), paths.split(dataset), undecodable):
        _fetch(files, str(path), home)


def _fetch(files: DVCFileSystem, path: str, home: Path) -> None:
    """Puts a file or a folder of a revision below `home`.

    Raises:
        UserError: the revision does not have it, or neither DVC's cache nor a remote does.
    """
    (home / path).parent.mkdir(parents=True, exist_ok=True)
    try:
        files.get(path, str(home / path), recursive=files.isdir(path))
    except Exception as error:  # DVC has an exception of its own for each kind of storage
        raise UserError(
            f"{path} of that revision is not in DVC's cache ({type(error).__name__}): `dvc fetch --all-commits` or "
            "`dvc exp pull` gets it from a remote, `git checkout` or `dvc exp apply` and `dvc repro` make it anew."
        ) from None


def _answers(run: RunResults) -> JudgedAnswers:
    """What the head of a run says of the judged images."""
    judge = {"classification": _labels, "largest": _largest, "detection": _detected}[run.metrics["task"]]
    mistakes, said = judge(run)
    return JudgedAnswers(run.judged, mistakes.astype(np.int64), said, run.classes)


def _labels(run: RunResults) -> tuple[npt.NDArray[Any], list[str]]:
    found = ClassPredictions.load(run)
    return ~found.right, [run.head["classes"][label] for label in found.chosen]


def _largest(run: RunResults) -> tuple[npt.NDArray[Any], list[str]]:
    """Where an image has no object, there is nothing to get wrong."""
    found = LargestPredictions.load(run)
    named = [run.head["classes"][label] for label in found.labels] if found.predict != "box" else [""] * len(run.judged)
    overlaps = [f"IoU {iou:.2f}" for iou in found.iou] if found.predict != "class" else [""] * len(run.judged)
    return found.there & ~found.right, [", ".join(filter(None, pair)) for pair in zip(named, overlaps, strict=True)]


def _detected(run: RunResults) -> tuple[npt.NDArray[Any], list[str]]:
    """Boxes that are shown and wrong, and objects that none of those shown finds."""
    found = BoxPredictions.load(run)
    shown = found.above(run.decide["confidence"])
    images = (found.images[shown.wrong], found.object_images[shown.missed])
    wrong, missed = (np.bincount(which, minlength=len(run.judged)) for which in images)
    return wrong + missed, [f"{w} wrong, {m} missed" for w, m in zip(wrong, missed, strict=True)]


def _flat(prefix: str, values: Mapping[str, Any]) -> dict[str, str]:
    found = dict[str, str]()
    for name, value in values.items():
        found |= _flat(f"{prefix}{name}.", value) if isinstance(value, Mapping) else {f"{prefix}{name}": _text(value)}
    return found


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool | list) or value is None else str(value)
