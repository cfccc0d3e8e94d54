"""The results of a commit, an experiment or the workspace, and its prediction for every image, from git and DVC."""

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
from stages.metrics import table
from stages.reporting import gather, words
from stages.reporting.gather import ClassRow, RunResults
from stages.reporting.predictions import BoxPredictions, ClassPredictions, LabelPredictions, LargestPredictions
from stages.stage import seconds_of

WORKSPACE = "workspace"
HEAD = "HEAD"
LOCK = "dvc.lock"
METRICS = paths.METRICS
MADE = ("cache/", "data/index/", "data/raw/", "data/split/")  # what stages make, and other stages read
AFTERWARDS = ("review", "report")  # stages whose results evaluate does not read
CODE = ("cache/code/", "data/index/")  # dependencies whose differences are listed besides those of parameters


class JudgedAnswers(NamedTuple):
    """The predictions of a head for the N images that it was evaluated on.

    Attributes:
        rows: the images with their annotations.
        mistakes: (N,) number of mistakes in each image; 0 or 1 for a head that predicts one class or box.
        texts: the N predictions in words.
        classes: the scores of each class.
    """

    rows: list[IndexRow]
    mistakes: npt.NDArray[np.int64]
    texts: list[str]
    classes: list[ClassRow]


@dataclass(frozen=True, eq=False)
class Revision:
    """The results of a commit, an experiment or the workspace.

    Attributes:
        name: as the user wrote it.
        lock: the stages of dvc.lock.
        metrics: the contents of metrics.json.
        seconds: how long training took on this machine; None where another machine trained.
        answers: the predictions; None where they are not at hand.
        why: the reason for that, and what to do.
    """

    name: str
    lock: Mapping[str, Any]
    metrics: Mapping[str, Any]
    seconds: float | None
    answers: JudgedAnswers | None
    why: str = ""

    @property
    def split(self) -> str:
        """The split that it was evaluated on: test, or val where there is no test."""
        return "test" if self.metrics.get("n_test") else "val"

    @property
    def settings(self) -> dict[str, str]:
        """The parameters of all stages by their flat names, and short checksums of the code and the index."""
        settings = dict[str, str]()
        for stage in self.lock.values():
            settings |= _flat("", stage.get("params", {}).get(str(paths.PARAMS), {}))
            checksums = {dep["path"]: str(dep.get("md5", ""))[:7] for dep in stage.get("deps", [])}
            settings |= {path: checksum for path, checksum in checksums.items() if path.startswith(CODE)}
        return settings

    @property
    def whole(self) -> bool:
        """Whether the evaluation is of what the other stages made: not where the run ended at one of them."""
        stages = {name: stage for name, stage in self.lock.items() if name not in AFTERWARDS}
        made = {out["path"]: out.get("md5") for stage in stages.values() for out in stage.get("outs", [])}
        used = (dep for stage in stages.values() for dep in stage.get("deps", []) if dep["path"].startswith(MADE))
        return all(dep.get("md5") == made.get(dep["path"]) for dep in used)

    @property
    def data(self) -> str:
        """What its data is called."""
        dataset = self.metrics["dataset"]
        own = not any(name.startswith(f"datasets.{dataset}.source.") for name in self.settings)
        return words.named_data(dataset, self.settings.get("root") if own else None)

    def score(self, name: str) -> float | None:
        """A metric on the split that it was evaluated on; None where there is none."""
        return self.metrics.get(name if self.split == "test" else f"val_{name}")


def experiments() -> list[str]:
    """The names of the experiments on top of HEAD, in the order in which they were made.

    Raises:
        UserError: the current folder is not a checkout.
    """
    with _repository() as repo:
        names = [name for experiments in repo.experiments.ls().values() for name, _ in experiments]
        time_of = {name: repo.scm.resolve_commit(resolve_rev(repo.scm, name)).commit_time for name in names}
        return sorted(names, key=lambda name: (time_of[name], name))


def read(name: str) -> Revision:
    """Reads the results of a revision.

    Args:
        name: a name or checksum that git knows, the name of an experiment, or `workspace`.

    Raises:
        UserError: there is no such revision, it has no results, or the current folder is not a checkout.
    """
    if name == WORKSPACE:
        return _read_revision(name, Path("."), lambda dataset: None)
    with _repository() as repo:
        commit = _resolve(repo, name)
    with Repo(rev=commit) as repo, tempfile.TemporaryDirectory() as folder:
        files, home = repo.dvcfs, Path(folder)
        for path in (LOCK, str(METRICS), str(paths.PLOTS), str(paths.REPORTS / "lr_sweep.json")):
            with contextlib.suppress(UserError):  # what is missing shows when it is read
                _fetch(files, path, home)
        return _read_revision(name, home, lambda dataset: _fetch_outs(files, dataset, home))


@contextlib.contextmanager
def _repository() -> Iterator[Repo]:
    try:
        with Repo() as repo:
            repo.scm.get_rev()  # of a folder without git or without a commit: an error
            yield repo
    except (NotDvcRepoError, NoSCMError, SCMError) as error:
        raise UserError(f"Run this in the root of a git checkout that has a commit ({error}).") from None


def _resolve(repo: Repo, name: str) -> str:
    try:
        commit: str = resolve_rev(repo.scm, name)
    except RevError:
        names = [item for pairs in repo.experiments.ls(all_commits=True).values() for item, _ in pairs]
        names += [*repo.scm.list_branches(), *repo.scm.list_tags(), WORKSPACE]
        raise UserError(
            f"There is no commit or experiment {name!r}; {nearest(name, names)} (`dvc exp list --all-commits`)"
        ) from None
    return commit


def _read_revision(name: str, home: Path, fetch: Callable[[str], None]) -> Revision:
    """Reads a revision whose small files lie below `home`; `fetch`, given the dataset, brings the outs there."""
    try:
        lock = yaml12.parse((home / LOCK).read_bytes(), LOCK)["stages"]
        metrics = _described(json.loads((home / METRICS).read_text(encoding="utf-8")), lock)
    except (OSError, ValueError, TypeError, LookupError, UserError) as error:
        what = "`dvc repro` makes them" if name == WORKSPACE else "commit dvc.lock and reports with the results"
        raise UserError(f"{name} has no results ({error!r} in {LOCK} or {METRICS}): {what}.") from None
    seconds = seconds_of("train", home / paths.PLOTS / "history.csv")
    try:
        fetch(metrics["dataset"])
        with contextlib.chdir(home):
            metrics |= results.read_evaluation()
            answers = _answers(gather.load(metrics["dataset"], review=False))
    except UserError as error:
        return Revision(name, lock, metrics, seconds, None, str(error))
    except (OSError, LookupError, TypeError, ValueError) as error:
        why = f"They were written by another version of the code ({error!r}): check that commit out to compare there."
        return Revision(name, lock, metrics, seconds, None, why)
    return Revision(name, lock, metrics, seconds, answers)


def _described(metrics: dict[str, Any], lock: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a metrics.json, and what they are of: the rest of the evaluation may not be at hand."""
    task = metrics.get("task") or table.task_of(metrics)
    dataset = lock["evaluate"]["params"][str(paths.PARAMS)]["dataset"]
    return {"task": task, "dataset": dataset, "n_test": int(table.headline(task, metrics) in metrics)} | metrics


def _fetch_outs(files: DVCFileSystem, dataset: str, home: Path) -> None:
    """Puts the outs with the predictions of a head below `home`: from DVC's cache, or a remote."""
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
            f"DVC's cache does not have {path} of that revision ({type(error).__name__}). If it was computed on "
            "another machine, `dvc fetch --all-commits` or `dvc exp pull origin --all-commits` gets it from a remote. "
            "To compute it here: check the commit out, `dvc repro`, and commit the result (`git commit -am 'Results of "
            "this machine'`)."
        ) from None


def _answers(run: RunResults) -> JudgedAnswers:
    """The predictions of a run for the images that it was evaluated on."""
    tasks = {"classification": _classification, "multilabel": _multilabel, "largest": _largest, "detection": _detection}
    count = tasks[run.metrics["task"]]
    mistakes, texts = count(run)
    return JudgedAnswers(run.judged, mistakes.astype(np.int64), texts, run.classes)


def _classification(run: RunResults) -> tuple[npt.NDArray[Any], list[str]]:
    predictions = ClassPredictions.load(run)
    return ~predictions.right, [run.head["classes"][label] for label in predictions.chosen]


def _multilabel(run: RunResults) -> tuple[npt.NDArray[Any], list[str]]:
    """Mistakes are labels that are missed or added."""
    predictions, names = LabelPredictions.load(run), run.head["classes"]
    said = [", ".join(names[label] for label in np.flatnonzero(of_image)) or "none" for of_image in predictions.said]
    return (predictions.missed | predictions.added).sum(1), said


def _largest(run: RunResults) -> tuple[npt.NDArray[Any], list[str]]:
    """An image without an object has nothing to get wrong."""
    predictions, nothing = LargestPredictions.load(run), [""] * len(run.judged)
    names = [run.head["classes"][label] for label in predictions.labels] if predictions.predict != "box" else nothing
    overlaps = [f"IoU {iou:.2f}" for iou in predictions.iou] if predictions.predict != "class" else nothing
    texts = [", ".join(filter(None, pair)) for pair in zip(names, overlaps, strict=True)]
    return predictions.has_object & ~predictions.right, texts


def _detection(run: RunResults) -> tuple[npt.NDArray[Any], list[str]]:
    """Mistakes are boxes at decide.confidence that are wrong, and objects that none of them finds."""
    predictions = BoxPredictions.load(run)
    shown = predictions.above(run.decide["confidence"])
    images = (predictions.images[shown.wrong], predictions.object_images[shown.missed])
    wrong, missed = (np.bincount(which, minlength=len(run.judged)) for which in images)
    return wrong + missed, [f"{w} wrong, {m} missed" for w, m in zip(wrong, missed, strict=True)]


def _flat(prefix: str, values: Mapping[str, Any]) -> dict[str, str]:
    """Nested parameters by their flat names, each value as text that is the same for equal values."""
    flat = dict[str, str]()
    for name, value in values.items():
        flat |= _flat(f"{prefix}{name}.", value) if isinstance(value, Mapping) else {f"{prefix}{name}": _text(value)}
    return flat


def _text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # 1.0 and 1 are the same setting
    return json.dumps(value) if isinstance(value, bool | list) or value is None else str(value)
