"""Scores of a head for several labels: pure functions of scores (N, C) and labels (N, C) of 1, 0 and UNKNOWN.

An entry that is UNKNOWN counts neither way, as `difficult` in Pascal VOC's classification task. Means over classes are
over those that some image has.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch.nn import functional as F

UNKNOWN = -1
LEVEL = 0.95
RESAMPLES = 1000  # of the bootstrap
BLOCK = 1 << 24  # numbers of a block of resamples
CALIBRATION_BINS = 15


class Curve(NamedTuple):
    """Precision and recall of one class at each of its n different scores, the highest first.

    Attributes:
        order: (m,) images whose entry is known, the highest score first.
        last: (n,) for each score, the last place of it in `order`.
        hits: (m,) float64: whether the image has the class, in that order.
    """

    order: torch.Tensor
    last: torch.Tensor
    hits: torch.Tensor

    @property
    def positives(self) -> int:
        """How many images have the class."""
        return int(self.hits.sum())

    @property
    def recall(self) -> torch.Tensor:
        """(n,) float64."""
        return self.hits.cumsum(0)[self.last] / max(1, self.positives)

    @property
    def precision(self) -> torch.Tensor:
        """(n,) float64."""
        return self.hits.cumsum(0)[self.last] / (self.last + 1)


class F1(NamedTuple):
    """How often a class is said rightly, wrongly and not, at its threshold: (C,) each, float64."""

    hits: torch.Tensor
    added: torch.Tensor
    missed: torch.Tensor

    @property
    def per_class(self) -> torch.Tensor:
        """(C,) 2 hits / (2 hits + added + missed); 0 where a class is neither there nor said."""
        return 2 * self.hits / (2 * self.hits + self.added + self.missed).clamp(min=1)

    @property
    def micro(self) -> float:
        """Of all entries together."""
        hits, mistakes = float(self.hits.sum()), float((self.added + self.missed).sum())
        return 2 * hits / max(1.0, 2 * hits + mistakes)


def curves(scores: torch.Tensor, labels: torch.Tensor) -> list[Curve]:
    """Precision and recall of every class; images of one score count together, as in scikit-learn."""
    scores, labels = scores.double().cpu(), labels.cpu()
    all_curves = []
    for of_class, truth in zip(scores.T, labels.T, strict=True):
        known = (truth != UNKNOWN).nonzero()[:, 0]
        order = known[of_class[known].argsort(descending=True, stable=True)]
        values = of_class[order]
        ends = torch.ones(len(order), dtype=torch.bool)
        ends[:-1] = values[:-1] != values[1:]
        all_curves.append(Curve(order, ends.nonzero()[:, 0], (truth[order] == 1).double()))
    return all_curves


def area(curve: Curve) -> float:
    """Average precision: the sum of precision times the step of recall, without interpolation; 0 without positives."""
    if not curve.positives:
        return 0.0
    recall = curve.recall
    return float((torch.diff(recall, prepend=torch.zeros(1, dtype=torch.float64)) * curve.precision).sum())


def eleven(curve: Curve) -> float:
    """Average precision as in VOC 2007: the mean of the best precisions at a recall of at least 0, 0.1 … 1."""
    if not curve.positives:
        return 0.0
    best = torch.cat([curve.precision.flip(0).cummax(0).values.flip(0), torch.zeros(1, dtype=torch.float64)])
    levels = torch.arange(11, dtype=torch.float64) / 10
    places = torch.searchsorted(curve.recall, levels - 1e-12)  # 3 of 10 is a recall of 0.3, whatever its last bit
    return float(best[places].mean())


def average_precisions(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(C,) the area under each class's curve; nan for a class that no image has."""
    return stacked_average_precisions(scores.T[None], labels)[0]


def stacked_average_precisions(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(heads, C) float64: the area under the curve of each class, for the scores of many heads at once; else nan.

    Args:
        scores: (heads, C, N).
        labels: (N, C).
    """
    values, order = scores.sort(dim=2, descending=True, stable=True)
    of_order = labels.T[None].expand_as(scores).gather(2, order)
    hits, known = (of_order == 1).double(), (of_order != UNKNOWN).double()
    places = torch.arange(scores.shape[2], device=scores.device).expand_as(order)
    ends = torch.ones_like(of_order, dtype=torch.bool)
    ends[..., :-1] = values[..., :-1] != values[..., 1:]
    last = places.where(ends, scores.shape[2]).flip(2).cummin(2).values.flip(2)  # of the images of one score
    precision = (hits.cumsum(2) / known.cumsum(2).clamp(min=1)).gather(2, last)
    return (hits * precision).sum(2) / hits.sum(2)


def mean_average_precision(scores: torch.Tensor, labels: torch.Tensor) -> float:
    """The mean over classes, as scikit-learn's average_precision_score with average="macro"; 0 without any."""
    return _mean(average_precisions(scores, labels).cpu())


def bootstrap(scores: torch.Tensor, labels: torch.Tensor, *, seed: int = 0) -> tuple[float, float]:
    """The 95% interval of mAP over images: the percentiles of RESAMPLES draws of N images with replacement.

    A draw is a weight for each image, so every class is sorted once. A draw without any image of a class has no average
    precision of it, and its mean is over the others.

    Args:
        scores: (N, C).
        labels: (N, C).
        seed: of the draws.
    """
    seen = [curve for curve in curves(scores, labels) if curve.positives]
    count = len(scores)
    if not seen:
        return 0.0, 1.0
    generator, means = torch.Generator().manual_seed(seed), list[torch.Tensor]()
    block = max(1, BLOCK // max(1, count))
    for first in range(0, RESAMPLES, block):
        size = min(block, RESAMPLES - first)
        drawn = torch.randint(count, (size, count), generator=generator)
        weights = torch.zeros(size, count, dtype=torch.float64).scatter_add_(1, drawn, torch.ones_like(drawn).double())
        areas = torch.stack([_weighted_area(curve, weights) for curve in seen], 1)
        means.append(areas.nanmean(1))
    tails = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    low, high = torch.cat(means).nan_to_num().quantile(tails).tolist()
    return low, high


def _weighted_area(curve: Curve, weights: torch.Tensor) -> torch.Tensor:
    """The average precision (B,) of a class with weights (B, N) of the images; nan where no positive has any weight."""
    ordered = weights[:, curve.order]
    images, hits = ordered.cumsum(1)[:, curve.last], (ordered * curve.hits).cumsum(1)[:, curve.last]
    positives = hits[:, -1:]
    precision = hits / images.clamp(min=1)
    steps = torch.diff(hits, dim=1, prepend=torch.zeros(len(hits), 1, dtype=torch.float64)) / positives
    return (steps * precision).sum(1)


def thresholds(probabilities: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(C,) the probability from which on each class is said, with the highest F1; 0.5 for a class that no image has.

    It lies halfway between the lowest probability that is said and the next one.
    """
    chosen = torch.full((probabilities.shape[1],), 0.5, dtype=torch.float64)
    for label, curve in enumerate(curves(probabilities, labels)):
        if not curve.positives:
            continue
        hits = curve.hits.cumsum(0)[curve.last]
        best = int((2 * hits / (curve.last + 1 + curve.positives)).argmax())
        values = probabilities[:, label].double().cpu()[curve.order][curve.last]
        below = values[best + 1] if best + 1 < len(values) else values[best].new_zeros(())
        chosen[label] = (values[best] + below) / 2
    return chosen


def counts(said: torch.Tensor, labels: torch.Tensor) -> F1:
    """The hits and mistakes of every class, from what is said (N, C) bool and the labels."""
    hits = (said & (labels == 1)).sum(0).double()
    return F1(hits, (said & (labels == 0)).sum(0).double(), (~said & (labels == 1)).sum(0).double())


def right(said: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(N,) bool: whether all known labels of an image are said as they are."""
    return (said == (labels == 1)).logical_or(labels == UNKNOWN).all(1)


def coverage(scores: torch.Tensor, labels: torch.Tensor) -> float:
    """How many classes one must go down the list of an image, on average, to have all that it has.

    scikit-learn's coverage_error over the images that have a label. Unknown entries are not on the list.
    """
    positive, known = labels == 1, labels != UNKNOWN
    with_labels = positive.any(1)
    if not with_labels.any():
        return 0.0
    lowest = scores.masked_fill(~positive, torch.inf).amin(1, keepdim=True)
    return float(((scores >= lowest) & known).sum(1)[with_labels].double().mean())


def binary_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """The mean over all known entries, in nats."""
    known = labels != UNKNOWN
    targets = (labels == 1).to(logits.dtype)[known]
    return float(F.binary_cross_entropy_with_logits(logits[known].double(), targets.double())) if known.any() else 0.0


def reliability(
    probabilities: torch.Tensor, labels: torch.Tensor, bins: int = CALIBRATION_BINS
) -> Iterator[tuple[float, float, int]]:
    """Mean probability, share of entries that are there, and number of entries, of each bin that is not empty."""
    known = labels != UNKNOWN
    values, truth = probabilities[known].double(), (labels[known] == 1).double()
    numbers = (values * bins).ceil().long().clamp(1, bins)
    for number in range(1, bins + 1):
        inside = numbers == number
        if count := int(inside.sum()):
            yield float(values[inside].mean()), float(truth[inside].mean()), count


def scores_of(
    logits: torch.Tensor, labels: torch.Tensor, threshold: torch.Tensor, *, interval: bool = True
) -> dict[str, float]:
    """All scores of a split by their names in the table of metrics.

    Args:
        logits: (N, C).
        labels: (N, C).
        threshold: (C,) the probability from which on each class is said.
        interval: with `map_low` and `map_high`, which take a moment.
    """
    all_curves = curves(logits, labels)
    seen = [curve for curve in all_curves if curve.positives]
    said = logits.sigmoid() >= threshold.to(logits.device)
    f1 = counts(said, labels)
    is_seen = torch.tensor([curve.positives > 0 for curve in all_curves])
    values = {
        "map": _mean(torch.tensor([area(curve) for curve in seen], dtype=torch.float64)),
        "map_voc07": _mean(torch.tensor([eleven(curve) for curve in seen], dtype=torch.float64)),
        "micro_f1": f1.micro,
        "macro_f1": _mean(f1.per_class.cpu()[is_seen]),
        "exact_match": float(right(said, labels).double().mean()),
        "coverage": coverage(logits, labels),
        "binary_cross_entropy": binary_cross_entropy(logits, labels),
    }
    if interval:
        values["map_low"], values["map_high"] = bootstrap(logits, labels)
    return values


def _mean(values: torch.Tensor) -> float:
    """The mean of what is not nan; 0 of nothing."""
    values = values[~values.isnan()]
    return float(values.mean()) if len(values) else 0.0
