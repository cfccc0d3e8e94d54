"""What the evaluations of all tasks share."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from stages import files, paths
from stages.metrics import table
from stages.params import Params
from stages.training.data import HeadData
from stages.training.model import HeadModel, digest

OF_LABELS = ("ap", "recall", "f1", "threshold")  # of each class, where images have several labels
PLOTS = {  # the header of every plot in dvc.yaml; a task that has no rows for a plot writes its header alone
    "confusion": ("actual", "predicted"),
    "per_class": ("class", "n_train", "n_val", "n_test", "accuracy", "precision", "ap_50", *OF_LABELS),
    "calibration": ("confidence", "accuracy", "count"),
    "views": ("views", "accuracy", "map_50", "mean_iou", "map"),
    "precision_recall": ("class", "recall", "precision"),
}


@dataclass(frozen=True)
class JudgedHead:
    """A head with the data that it is judged on.

    Attributes:
        folder: that it was read from.
        head: on its device, in eval mode.
        described: the contents of head.json.
        data: the splits, on the device of the head.
    """

    folder: Path
    head: HeadModel
    described: Mapping[str, Any]
    data: HeadData


def scored_folder(folder: Path, split: str) -> Path:
    """Where the heads are that are scored on a split: for val those from before a refit."""
    chosen = folder / "chosen"
    return chosen if split == "val" and chosen.is_dir() else folder


def run_facts(task: str, *, params: Params, data: HeadData, described: Mapping[str, Any]) -> dict[str, Any]:
    """What was evaluated, on how many images: the first entries of metrics.json.

    Args:
        task: `classification`, `multilabel`, `detection` or `largest`.
        params: the names of dataset, backbone, cut and tap.
        data: the splits and classes.
        described: the contents of head.json.
    """
    names = {"task": task, "dataset": params.dataset, "backbone": params.backbone, "cut": params.cut}
    if source := described.get("lr_from"):  # with `lr: auto` the rate is not in params.yaml
        names |= {"lr": described["params"]["lr"], "lr_from": source}
    counts = {f"n_{name}": len(split.y) for name, split in data.splits.items()}
    return names | {"tap": params.tap, "head": described["head"], "classes": len(data.classes)} | counts


def parameter_counts(model: nn.Module, data: HeadData, described: Mapping[str, Any]) -> dict[str, int]:
    """How many parameters trunk, rest and head have together, and how many of them trained.

    Args:
        model: the head, with the rest before it.
        data: whose provenance says how many parameters the trunk has.
        described: the contents of head.json.
    """
    own = sum(parameter.numel() for parameter in model.parameters())
    return {"parameters_total": own + data.provenance["parameters"], "parameters_trainable": described["trained"]}


def write_metrics(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Writes all numbers of an evaluation to `cache/predictions`, and those to compare to `reports/metrics.json`.

    Returns:
        All of them, floats to six digits.

    Raises:
        ValueError: a number is not in the table of metrics, so that no page knows its title.
    """
    if unlisted := list(table.unlisted(metrics)):
        raise ValueError(f"Not in stages/metrics/table.py: {', '.join(unlisted)}.")
    rounded = {key: round(value, 6) if isinstance(value, float) else value for key, value in metrics.items()}
    files.write_json(paths.EVALUATION, rounded, indent=2)
    files.write_json(paths.METRICS, table.compared(metrics["task"], rounded), indent=2)
    return rounded


def write_predictions(described: Mapping[str, Any]) -> None:
    """Writes what predictions are of and how they were decided, and which head they are from.

    Args:
        described: classes, images and decisions, and what the task adds.
    """
    files.write_json(paths.PREDICTIONS / "predictions.json", {**described, "head": digest(paths.HEAD)}, sort_keys=True)


def write_plots(rows: Mapping[str, Iterable[Mapping[str, object]]]) -> None:
    """Writes every plot of PLOTS.

    Args:
        rows: name of a plot -> its rows; missing cells stay empty.
    """
    for name, header in PLOTS.items():
        files.write_csv(paths.PLOTS / f"{name}.csv", header, rows.get(name, ()))
