"""The results of a run, read once, and checked whether they belong together."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy.typing as npt
from safetensors import safe_open

from stages import paths
from stages.datasets import index_file
from stages.datasets.index_file import IndexRow
from stages.errors import REPAIR, UserError
from stages.reporting import rounds
from stages.reporting.rounds import Round
from stages.results import read_csv, read_evaluation, read_json, read_text
from stages.reviewing import suspicions
from stages.reviewing.suspicions import LabelCheck, Suspicion
from stages.training.history import Candidate, Epoch, parse

STAGES = ("download", "index", "split", "extract", "review", "lr_sweep", "train", "evaluate")  # in the order they run


@dataclass(frozen=True)
class ClassRow:
    """A row of per_class.csv.

    Attributes:
        name: the class.
        n_train, n_val, n_test: numbers of images, or of objects where the head finds objects.
        accuracy: of a classifier; None where no evaluated image is of the class.
        precision: of a classifier; None where the class is never predicted.
        ap_50: average precision of a detector; None where no object is of the class.
        ap, recall, f1, threshold: of one of several labels; None where no evaluated image has it.
    """

    name: str
    n_train: int
    n_val: int
    n_test: int
    accuracy: float | None
    precision: float | None
    ap_50: float | None
    ap: float | None = None
    recall: float | None = None
    f1: float | None = None
    threshold: float | None = None


@dataclass(frozen=True)
class RunResults:
    """The results of a finished run that all tasks have.

    Attributes:
        metrics, head, index, split, predictions: as the stages wrote them, JSON.
        part: the split that the head is evaluated on: test, or val where there is no test.
        judged: the images of that split, in the order of the predictions.
        rates: learning rate, loss and smoothed loss of each step of the range test; empty where there was none.
        suggested: `lr`, the learning rate that the range test suggests, or None and the `reason`; empty likewise.
        views: scores by name when the first one, two, … views are averaged; `views` is how many.
        undecodable: images whose pixels extraction could not read.
        suspicions: what the stage review suspects of the data.
        labels_checked: how well labels follow from all other images; None where that was not asked.
        timings: stage -> seconds and counts, of the last time it ran on this machine.
        rounds: the result with fewer labels and this one, where images are or were without a label.
        candidates: the heads that `head: auto` tried, the one that it took first; empty for a named head.
        candidate_seconds: what training each took on this machine, by its name, as far as it is known.
    """

    metrics: dict[str, Any]
    head: dict[str, Any]
    index: dict[str, Any]
    split: dict[str, Any]
    predictions: dict[str, Any]
    part: Literal["test", "val"]
    judged: list[IndexRow]
    classes: list[ClassRow]
    history: list[Epoch]
    rates: list[tuple[float, float, float]]
    suggested: dict[str, Any]
    views: list[dict[str, float]]
    rows: list[IndexRow]
    undecodable: list[dict[str, str]]
    suspicions: list[Suspicion]
    timings: dict[str, dict[str, Any]]
    labels_checked: LabelCheck | None = None
    rounds: list[Round] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)
    candidate_seconds: dict[str, float] = field(default_factory=dict)

    @property
    def bad(self) -> list[dict[str, str]]:
        """Every image that is left out because its header or its pixels cannot be read."""
        return [{"path": image["path"], "reason": image["reason"]} for image in self.index["bad"] + self.undecodable]

    @property
    def decide(self) -> dict[str, Any]:
        """The thresholds that evaluate used."""
        decide: dict[str, Any] = self.predictions["decide"]
        return decide

    def score(self, name: str) -> Any:
        """A metric on the split of the evaluation; None where there is none, such as top5 of five classes."""
        return self.metrics.get(name if self.part == "test" else f"val_{name}")

    def rows_of(self, split: str) -> list[IndexRow]:
        """The images of a split, in its order."""
        row_of = {row.sha256: row for row in self.rows}
        return [row_of[sha256] for sha256 in self.split[split]]


def load(dataset: str, *, review: bool = True) -> RunResults:
    """Reads the run whose files lie in the current folder.

    Args:
        dataset: its name.
        review: whether to read what the stage review found, which commits before that stage do not have.

    Raises:
        UserError: a file is missing or damaged, or the files do not belong together.
    """
    head = read_json(paths.HEAD / "head.json")
    knobs = head["params"]
    if knobs["dataset"] != dataset:
        raise UserError(f"`cache/head` was trained on {knobs['dataset']}, params ask for {dataset}: `dvc repro`.")
    predictions = read_json(paths.PREDICTIONS / "predictions.json")
    if predictions["classes"] != head["classes"]:
        raise UserError("`cache/predictions` has other classes than `cache/head`: `dvc repro`.")
    part: Literal["test", "val"] = "test" if predictions["images"]["test"] else "val"
    rows, index = index_file.read(dataset), read_json(paths.index(dataset).with_suffix(".json"))
    row_of = {row.sha256: row for row in rows}
    if not row_of.keys() >= {*predictions["images"][part]}:
        raise UserError("`cache/predictions` has images that are not in the index: `dvc repro`.")
    metrics = read_evaluation()
    undecodable = paths.features(dataset, knobs["backbone"], knobs["cut"]).with_suffix(".bad.json")
    return RunResults(
        metrics=metrics,
        head=head,
        index=index,
        split=read_json(paths.split(dataset)),
        predictions=predictions,
        part=part,
        judged=[row_of[sha256] for sha256 in predictions["images"][part]],
        classes=read_csv(paths.PLOTS / "per_class.csv", _class),
        history=read_csv(paths.PLOTS / "history.csv", parse),
        rates=read_csv(paths.PLOTS / "lr_sweep.csv", _rate),
        suggested=read_json(paths.REPORTS / "lr_sweep.json"),
        views=read_csv(paths.PLOTS / "views.csv", _numbers),
        rows=rows,
        undecodable=read_text(undecodable, json.loads),
        suspicions=suspicions.read(paths.REPORTS / "review.csv") if review else [],
        labels_checked=_labels_checked() if review else None,
        timings=_timings(
            {"dataset": dataset, "root": index["root"], "backbone": knobs["backbone"], "cut": knobs["cut"]}
        ),
        rounds=rounds.so_far(dataset, metrics) if "unlabelled" in index or rounds.path_of(dataset).exists() else [],
        candidates=_candidates(),
        candidate_seconds=_candidate_seconds(),
    )


def arrays(name: str, split: str) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a split in a file of `cache/predictions`, by their names without that of the split."""
    path = paths.PREDICTIONS / name
    try:
        with safe_open(path, "numpy") as file:
            loaded = {key: file.get_tensor(key) for key in file.keys() if key.startswith(split)}  # noqa: SIM118
    except Exception as error:  # safetensors has an exception of its own
        raise damaged(path, repr(error)) from None
    return {key.removeprefix(f"{split}_"): values for key, values in loaded.items()}


def damaged(path: Path, why: str) -> UserError:
    """The error for predictions that are not those of this run."""
    return UserError(f"{path} is damaged or of other images ({why}): {REPAIR}.")


def _class(row: dict[str, str]) -> ClassRow:
    train, val, test = (int(row[f"n_{part}"]) for part in ("train", "val", "test"))
    names = ("accuracy", "precision", "ap_50", "ap", "recall", "f1", "threshold")  # the last four are new
    scores = (float(row[name]) if row.get(name) else None for name in names)
    return ClassRow(row["class"], train, val, test, *scores)


def _numbers(row: dict[str, str]) -> dict[str, float]:
    return {name: float(cell) for name, cell in row.items() if cell}


def _rate(row: dict[str, str]) -> tuple[float, float, float]:
    return float(row["lr"]), float(row["loss"]), float(row["smoothed"])


def _labels_checked() -> LabelCheck | None:
    summary = read_json(paths.REPORTS / "review.json")
    known = {name: summary[name] for name in LabelCheck._fields if name in summary}
    return LabelCheck(**known) if len(known) == len(LabelCheck._fields) else None


def _candidates() -> list[Candidate]:
    if not paths.CANDIDATES.exists():
        return []
    return read_text(paths.CANDIDATES, lambda text: [Candidate(**row) for row in json.loads(text)])


def _candidate_seconds() -> dict[str, float]:
    """What each candidate took; nothing where the times are of other candidates."""
    try:
        timings = json.loads((paths.TIMINGS / paths.CANDIDATES.name).read_text())
        digest = hashlib.sha256(paths.CANDIDATES.read_bytes()).hexdigest()
        return {name: float(value) for name, value in timings["seconds"].items()} if timings["of"] == digest else {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _timings(of: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The times of this dataset and backbone; a file that is damaged or of another run is skipped."""
    timings = {}
    for stage in STAGES:
        shared = of if stage not in ("download", "index", "split") else {key: of[key] for key in ("dataset", "root")}
        try:
            values = json.loads((paths.TIMINGS / f"{stage}.json").read_text())
            recorded = values.pop("of")
            if all(recorded[key] == value for key, value in shared.items()):
                timings[stage] = {"seconds": float(values.pop("seconds")), **values}
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            continue
    return timings
