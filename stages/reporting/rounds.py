"""What each round of labelling brought: `data/corrections/<dataset>.rounds.csv`, in git.

A row is the result of the run that was there when the next labels were asked for or taken over: the number of labelled
images in train, and the accuracy on val and test. The page shows them as a curve.
"""

import csv
from pathlib import Path
from typing import Any, NamedTuple

from stages import files, paths
from stages.errors import UserError


class Round(NamedTuple):
    """A result with some number of labels.

    Attributes:
        labels: labelled images in train.
        val_images, test_images: labelled images in val and test.
        val_accuracy, test_accuracy: top-1 on them; None on test where it has no image.
        backbone, head: of the run.
    """

    labels: int
    val_images: int
    test_images: int
    val_accuracy: float
    test_accuracy: float | None
    backbone: str
    head: str


def path_of(dataset: str) -> Path:
    """The file of a dataset."""
    return paths.corrections(dataset).with_suffix(".rounds.csv")


def read(dataset: str) -> list[Round]:
    """The rounds of a dataset, fewest labels first; none if it has no such file.

    Raises:
        UserError: the file is damaged.
    """
    path = path_of(dataset)
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return sorted((_round(row) for row in csv.DictReader(file)), key=lambda row: row.labels)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error!r}): `git checkout {path}`, or remove it.") from None


def so_far(dataset: str, metrics: dict[str, Any]) -> list[Round]:
    """The rounds of a dataset with the result that metrics tell, which replaces one with as many labels."""
    result = of_metrics(metrics)
    if not result:
        return read(dataset)
    others = [row for row in read(dataset) if row[:3] != result[:3]]
    return sorted([*others, result], key=lambda row: row[:3])


def add(dataset: str, metrics: dict[str, Any]) -> None:
    """Keeps the result that metrics tell."""
    if rows := so_far(dataset, metrics):
        files.write_csv(path_of(dataset), Round._fields, (row._asdict() for row in rows))


def of_metrics(metrics: dict[str, Any]) -> Round | None:
    """The result that metrics tell; None where they are not of a classifier."""
    if metrics["task"] != "classification":
        return None
    test = metrics.get("top1")
    return Round(
        metrics["n_train"],
        metrics["n_val"],
        metrics["n_test"],
        round(metrics["val_top1"], 4),
        None if test is None else round(test, 4),
        metrics["backbone"],
        metrics["head"],
    )


def _round(row: dict[str, str]) -> Round:
    return Round(
        int(row["labels"]),
        int(row["val_images"]),
        int(row["test_images"]),
        float(row["val_accuracy"]),
        float(row["test_accuracy"]) if row["test_accuracy"] else None,
        row["backbone"],
        row["head"],
    )
