"""Metrics of the box and class of the largest object, over the images that have an object."""

import torch
from torch.nn import functional as F

from stages.boxes import ops
from stages.boxes.geometry import paired_iou
from stages.metrics.detection import HIT


def box_scores(predicted: torch.Tensor, truth: torch.Tensor, size: int) -> dict[str, float]:
    """mean_iou, box_smooth_l1 (beta 1, of centre and size) and box_l1_px (of the corners).

    Args:
        predicted: (N, 4) corners in [0, 1] of the view.
        truth: (N, 4) as `predicted`.
        size: of the view, in pixels a side.
    """
    centres = (ops.box_convert(boxes, "xyxy", "cxcywh") for boxes in (predicted, truth))
    return {
        "mean_iou": float(paired_iou(predicted, truth).mean()),
        "box_smooth_l1": float(F.smooth_l1_loss(*centres)),
        "box_l1_px": float(F.l1_loss(predicted, truth)) * size,
    }


def class_scores(predicted: torch.Tensor, truth: torch.Tensor) -> dict[str, float]:
    """Accuracy of labels (N,)."""
    return {"accuracy": float((predicted == truth).double().mean())}


def both_scores(
    boxes: torch.Tensor, true_boxes: torch.Tensor, *, labels: torch.Tensor, true_labels: torch.Tensor
) -> dict[str, float]:
    """correct_at_iou50: the share of images with the right class and an IoU of at least 0.5.

    Args:
        boxes: (N, 4) corners.
        true_boxes: (N, 4) corners.
        labels: (N,).
        true_labels: (N,).
    """
    right = (paired_iou(boxes, true_boxes) >= HIT) & (labels == true_labels)
    return {"correct_at_iou50": float(right.double().mean())}
