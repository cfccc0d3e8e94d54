"""The table of metrics is complete, and what it says of a metric can be shown."""

import subprocess
import sys

import pytest
import torch

from stages.boxes.geometry import Detections, GroundTruth
from stages.metrics import classification, detection, largest, table

BOX = torch.tensor([[10.0, 10.0, 60.0, 60.0]])
NO = torch.tensor([False])


def classification_scores() -> dict[str, float]:
    return classification.scores(torch.eye(7), torch.arange(7))


def detection_scores() -> dict[str, float]:
    truth = GroundTruth(BOX, torch.tensor([0]), NO, NO)
    return detection.scores([truth], [Detections(BOX, torch.ones(1), torch.tensor([0]))], 1)


def largest_scores() -> dict[str, float]:
    labels = torch.tensor([0])
    both = largest.both_scores(BOX / 100, BOX / 100, labels=labels, true_labels=labels)
    return both | largest.class_scores(labels, labels) | largest.box_scores(BOX / 100, BOX / 100, 100)


@pytest.mark.parametrize(
    ("task", "scores"),
    [
        ("classification", classification_scores),
        ("detection", detection_scores),
        ("largest", largest_scores),
    ],
)
def test_every_score_has_a_line(task: str, scores: object) -> None:
    values = scores()  # type: ignore[operator]
    assert [*table.unlisted(values), *table.unlisted({table.VAL + name: value for name, value in values.items()})] == []
    named = {name for name in values if name in table.METRICS}
    assert named and named <= {*table.of_task(task)}
    assert table.headline(task, values) == next(iter(table.of_task(task)))


def test_what_has_no_line_is_named() -> None:
    assert list(table.unlisted({"top1": 0.5, "val_top1_low": 0.4, "f1": 0.5, "classes": 3})) == ["f1"]


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("top1", 0.8424, "84.2%"),
        ("cross_entropy", 0.50122, "0.501"),
        ("box_smooth_l1", 0.01234, "0.0123"),
        ("box_l1_px", 12.34, "12.3 px"),
        ("map_50", None, "–"),
    ],
)
def test_values_as_text(name: str, value: float | None, text: str) -> None:
    assert table.METRICS[name].text(value) == text


def test_headings_begin_with_a_capital_but_for_map() -> None:
    assert table.METRICS["top1"].heading == "Top-1 accuracy"
    assert table.METRICS["map_50"].heading == "mAP at IoU 0.5"


@pytest.mark.parametrize(
    ("task", "values", "name"),
    [
        ("largest", {"accuracy": 0.5}, "accuracy"),  # a head that predicts the class alone
        ("largest", {"val_mean_iou": 0.5}, "mean_iou"),
        ("largest", {"mean_iou": 0.5, "accuracy": 0.5, "correct_at_iou50": 0.4}, "correct_at_iou50"),
        ("detection", {}, "map_50"),
    ],
)
def test_the_headline_is_the_first_metric_that_there_is(task: str, values: dict[str, float], name: str) -> None:
    assert table.headline(task, values) == name


def test_baselines_are_of_metrics_that_exist() -> None:
    assert {metric for baseline in table.BASELINES.values() for metric in baseline.metrics} <= {*table.METRICS}


def test_the_table_needs_no_torch() -> None:
    code = "import sys, stages.metrics.table; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_console_has_the_headline_in_words() -> None:
    assert table.in_words("classification", {"top1": 0.9478, "val_top1": 0.5}) == {"top-1 accuracy": "94.8%"}
    assert table.in_words("detection", {"val_map_50": 0.51234}) == {"val mAP at IoU 0.5": "51.2%"}
