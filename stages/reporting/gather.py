"""Everything that a run left behind, read once and checked against itself."""

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

from stages import paths
from stages.datasets import listing
from stages.datasets.listing import Row
from stages.errors import UserError
from stages.training.history import Epoch, parse

Result = TypeVar("Result")
STAGES = ("download", "index", "split", "extract", "lr_sweep", "train", "evaluate")  # in the order they run


@dataclass(frozen=True)
class Judged:
    """The images that the head is judged on, with what it says of them.

    Attributes:
        part: test, or val where there is no test.
        rows: (N,) from the index.
        labels: (N,) positions in the list of classes.
        probabilities: (N, C) softmax.
    """

    part: Literal["test", "val"]
    rows: list[Row]
    labels: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]

    @cached_property
    def chosen(self) -> npt.NDArray[np.int64]:
        """(N,) the most probable class."""
        chosen: npt.NDArray[np.int64] = self.probabilities.argmax(1)
        return chosen

    @cached_property
    def confidence(self) -> npt.NDArray[np.float32]:
        """(N,) the probability of the chosen class."""
        confidence: npt.NDArray[np.float32] = self.probabilities.max(1)
        return confidence

    @cached_property
    def right(self) -> npt.NDArray[np.bool_]:
        """(N,) whether the chosen class is the label."""
        right: npt.NDArray[np.bool_] = self.chosen == self.labels
        return right

    def confusion(self) -> npt.NDArray[np.int64]:
        """(C, C) counts: a row an actual class, a column a predicted one."""
        classes = self.probabilities.shape[1]
        counts = np.zeros((classes, classes), np.int64)
        np.add.at(counts, (self.labels, self.chosen), 1)
        return counts


@dataclass(frozen=True)
class Class:
    """A row of per_class.csv; no accuracy where the judged part has no image of it, no precision if never predicted."""

    name: str
    n_train: int
    n_val: int
    n_test: int
    accuracy: float | None
    precision: float | None


@dataclass(frozen=True)
class Bin:
    """A row of calibration.csv: mean confidence, accuracy and number of images."""

    confidence: float
    accuracy: float
    count: int


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        metrics, head, ridge, index, split, decide: as the stages wrote them, JSON.
        rates: learning rate, loss and smoothed loss of each step of the range test; none for a head that is solved.
        suggested: learning rates that the range test suggests.
        views: how many views were averaged, and the accuracy of that.
        undecodable: images whose pixels extraction could not read.
        timings: stage -> seconds and counts, of the last time it ran on this machine.
    """

    metrics: dict[str, Any]
    head: dict[str, Any]
    ridge: dict[str, Any]
    index: dict[str, Any]
    split: dict[str, Any]
    decide: dict[str, Any]
    classes: list[Class]
    history: list[Epoch]
    bins: list[Bin]
    rates: list[tuple[float, float, float]]
    suggested: dict[str, float]
    views: list[tuple[int, float]]
    rows: list[Row]
    judged: Judged
    undecodable: list[dict[str, str]]
    timings: dict[str, dict[str, Any]]

    @property
    def bad(self) -> list[dict[str, str]]:
        """Every image that is left out because it cannot be read, by its header or by its pixels."""
        return [{"path": image["path"], "reason": image["reason"]} for image in self.index["bad"] + self.undecodable]

    def score(self, name: str) -> Any:
        """A metric of the judged part; None where there is none, e.g. top5 of five classes."""
        return self.metrics.get(name if self.judged.part == "test" else f"val_{name}")

    def rows_of(self, part: str) -> list[Row]:
        """The rows of a part, in its order."""
        row_of = {row.sha256: row for row in self.rows}
        return [row_of[sha256] for sha256 in self.split[part]]


def load(dataset: str) -> Run:
    """The run whose files lie in the current folder.

    Raises:
        UserError: a file is missing or damaged, or the files do not belong together.
    """
    head = _json(paths.HEAD / "head.json")
    knobs = head["params"]
    if knobs["dataset"] != dataset:
        raise UserError(f"`cache/head` was trained on {knobs['dataset']}, params ask for {dataset}: `dvc repro`.")
    predictions = _json(paths.PREDICTIONS / "predictions.json")
    if predictions["classes"] != head["classes"]:
        raise UserError("`cache/predictions` has other classes than `cache/head`: `dvc repro`.")
    rows, index = listing.read(dataset), _json(paths.index(dataset).with_suffix(".json"))
    undecodable = paths.features(dataset, knobs["backbone"], knobs["cut"]).with_suffix(".bad.json")
    return Run(
        metrics=_json(paths.REPORTS / "metrics.json"),
        head=head,
        ridge=_json(paths.HEAD / "ridge" / "head.json"),
        index=index,
        split=_json(paths.split(dataset)),
        decide=predictions["decide"],
        classes=_csv(paths.PLOTS / "per_class.csv", _class),
        history=_csv(paths.PLOTS / "history.csv", parse),
        bins=_csv(paths.PLOTS / "calibration.csv", _bin),
        rates=_csv(paths.PLOTS / "lr_sweep.csv", _rate),
        suggested=_json(paths.REPORTS / "lr_sweep.json"),
        views=_csv(paths.PLOTS / "views.csv", lambda row: (int(row["views"]), float(row["accuracy"]))),
        rows=rows,
        judged=_judged(predictions, rows),
        undecodable=_read(undecodable, json.loads),
        timings=_timings(
            {"dataset": dataset, "root": index["root"], "backbone": knobs["backbone"], "cut": knobs["cut"]}
        ),
    )


def _judged(predictions: dict[str, Any], rows: list[Row]) -> Judged:
    path = paths.PREDICTIONS / "probabilities.safetensors"
    try:
        probabilities = load_file(path)
        part: Literal["test", "val"] = "test" if len(probabilities["test"]) else "val"
        row_of, number = {row.sha256: row for row in rows}, {name: n for n, name in enumerate(predictions["classes"])}
        judged = [row_of[sha256] for sha256 in predictions["images"][part]]
        labels = np.array([number[row.label] for row in judged], np.int64)
        if probabilities[part].shape != (len(judged), len(number)):
            raise ValueError(f"{probabilities[part].shape} probabilities for {len(judged)} images")
    except Exception as error:  # safetensors has an exception of its own
        raise UserError(f"{path} is damaged or of other images ({error!r}): `dvc repro -f evaluate`.") from None
    return Judged(part, judged, labels, probabilities[part])


def _read(path: Path, parse: Callable[[str], Result]) -> Result:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} cannot be read ({error!r}): `dvc repro` makes it anew.") from None


def _json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = _read(path, json.loads)
    return found


def _csv(path: Path, parse: Callable[[dict[str, str]], Result]) -> list[Result]:
    """Rows of a CSV file; split by the reader and not by lines, as a class name may hold a newline."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [parse(row) for row in csv.DictReader(file)]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} cannot be read ({error!r}): `dvc repro` makes it anew.") from None


def _class(row: dict[str, str]) -> Class:
    train, val, test = (int(row[f"n_{part}"]) for part in ("train", "val", "test"))
    accuracy, precision = (float(row[name]) if row[name] else None for name in ("accuracy", "precision"))
    return Class(row["class"], train, val, test, accuracy, precision)


def _bin(row: dict[str, str]) -> Bin:
    return Bin(float(row["confidence"]), float(row["accuracy"]), int(row["count"]))


def _rate(row: dict[str, str]) -> tuple[float, float, float]:
    return float(row["lr"]), float(row["loss"]), float(row["smoothed"])


def _timings(of: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What is there of this dataset and backbone; a damaged file, or one of another run, is passed over."""
    found = {}
    for stage in STAGES:
        shared = of if stage not in ("download", "index", "split") else {key: of[key] for key in ("dataset", "root")}
        try:
            values = json.loads((paths.TIMINGS / f"{stage}.json").read_text())
            made = values.pop("of")
            if all(made[key] == value for key, value in shared.items()):
                found[stage] = {"seconds": float(values.pop("seconds")), **values}
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            continue
    return found
