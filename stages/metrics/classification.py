"""Scores of a classifier: pure functions of probabilities (N, C) and labels (N,)."""

from collections.abc import Iterable, Iterator
from math import sqrt
from statistics import NormalDist
from typing import NamedTuple

import torch
from torch.nn import functional as F

CALIBRATION_BINS = 15
LEVEL = 0.95
BLOCK = 4096  # images whose probabilities are computed together: those of all may take some GB


class ReliabilityBin(NamedTuple):
    """One bin of a reliability diagram."""

    confidence: float  # mean of the bin's predictions
    accuracy: float
    images: int


def scores(logits: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """top1 with its 95% interval, top5 (if there are more than five classes), macro_accuracy, cross_entropy, ece.

    The expected calibration error has 15 bins (Naeini et al. 2015).

    Args:
        logits: (N, C).
        labels: (N,).
    """
    classes, chosen = logits.shape[1], logits.argmax(1)
    top1 = float((chosen == labels).double().mean())
    low, high = interval(round(top1 * len(labels)), len(labels))
    top = {"top1": top1}
    if classes > 5:
        top["top5"] = float((logits.topk(5).indices == labels[:, None]).any(1).double().mean())
    hits = torch.bincount(labels[chosen == labels], minlength=classes)
    images = torch.bincount(labels, minlength=classes)
    bins = reliability(*choices(probabilities(logits)), labels)
    return top | {
        "macro_accuracy": float((hits / images)[images > 0].double().mean()),  # over the classes that have images here
        "cross_entropy": _cross_entropy(logits, labels),
        "ece": sum(row.images * abs(row.accuracy - row.confidence) for row in bins) / len(labels),
        "top1_low": low,
        "top1_high": high,
    }


def probabilities(logits: torch.Tensor) -> Iterator[torch.Tensor]:
    """The softmax of logits (N, C), BLOCK images at a time."""
    for block in logits.split(BLOCK):  # type: ignore[no-untyped-call]
        yield block.softmax(1)


def choices(blocks: Iterable[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """The probability (N,) of the first choice of each image, and that class (N,), from blocks (n, C)."""
    values, classes = zip(*(block.max(1) for block in blocks), strict=True)
    return torch.cat(values), torch.cat(classes)


def _cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """In float64, to the last bit what torch's function gives for all at once."""
    blocks = zip(logits.split(BLOCK), labels.split(BLOCK), strict=True)  # type: ignore[no-untyped-call]
    own = torch.cat([block.double().log_softmax(1).gather(1, y[:, None]) for block, y in blocks])
    return float(F.nll_loss(own, torch.zeros_like(labels)))


def interval(hits: int, count: int, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's score interval of the proportion hits / count (Wilson 1927); (0, 1) if `count` is 0.

    Args:
        hits: how many of them are right.
        count: how many there are.
        level: the probability that the interval holds the true proportion.
    """
    if count == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = hits / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def reliability(
    confidence: torch.Tensor, chosen: torch.Tensor, labels: torch.Tensor, bins: int = CALIBRATION_BINS
) -> Iterator[ReliabilityBin]:
    """The bins of a reliability diagram that are not empty, by the confidence of the first choice.

    Args:
        confidence: (N,) the probability of the first choice.
        chosen: (N,) that class.
        labels: (N,).
        bins: of equal width in [0, 1].
    """
    bin_numbers = (confidence * bins).ceil().long().clamp(1, bins)
    for number in range(1, bins + 1):
        inside = bin_numbers == number
        if count := int(inside.sum()):
            right = (chosen[inside] == labels[inside]).double().mean()
            yield ReliabilityBin(float(confidence[inside].mean()), float(right), count)


def confident(
    confidence: torch.Tensor, chosen: torch.Tensor, labels: torch.Tensor, threshold: float
) -> tuple[float, float]:
    """The share of images whose first choice is confident, and the accuracy on them (0 if there are none).

    Args:
        confidence: (N,) the probability of the first choice.
        chosen: (N,) that class.
        labels: (N,).
        threshold: the least probability of a confident choice.
    """
    sure = confidence >= threshold
    accuracy = float((chosen[sure] == labels[sure]).double().mean()) if sure.any() else 0.0
    return float(sure.double().mean()), accuracy
