"""Scores of one box and one class an image, by hand."""

import pytest
import torch

from stages.metrics.largest import both_scores, box_scores, class_scores

TRUE = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.25, 0.25, 0.75, 0.75]])
FOUND = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.25, 0.25, 0.75, 0.5]])  # the second: the upper half


def test_boxes_by_hand() -> None:
    values = box_scores(FOUND, TRUE, 200)
    assert values["mean_iou"] == pytest.approx((1 + 0.5) / 2)
    assert values["box_l1_px"] == pytest.approx(0.25 / 8 * 200)  # one corner of eight, by a quarter of the view
    centre, height = 0.125, 0.25
    assert values["box_smooth_l1"] == pytest.approx((0.5 * centre**2 + 0.5 * height**2) / 8)  # beta 1: half the square


def test_far_from_the_truth_the_loss_is_linear() -> None:
    far = torch.tensor([[3.0, 0.0, 3.5, 0.5]])
    assert box_scores(far, TRUE[:1], 100)["box_smooth_l1"] == pytest.approx((3 - 0.5) / 4)


def test_classes_by_hand() -> None:
    assert class_scores(torch.tensor([0, 1, 2]), torch.tensor([0, 1, 1])) == {"accuracy": pytest.approx(2 / 3)}


def test_correct_takes_the_class_and_an_iou_of_a_half() -> None:
    labels = torch.tensor([4, 5])
    assert both_scores(FOUND, TRUE, labels=labels, true_labels=labels) == {"correct_at_iou50": 1}
    assert both_scores(FOUND, TRUE, labels=torch.tensor([4, 4]), true_labels=labels) == {"correct_at_iou50": 0.5}
    smaller = FOUND - torch.tensor([0, 0, 0, 0.01])
    assert both_scores(smaller, TRUE, labels=labels, true_labels=labels) == {"correct_at_iou50": 0.5}
