"""Probabilities per class: a scale and a shift for the score of each class, fitted on validation.

Platt scaling (Platt 1999): the probability of a class is σ(a s + b) of its score s, with a and b by maximum likelihood
on softened targets, (n₊ + 1) / (n₊ + 2) for an image that has the class and 1 / (n₋ + 2) for one that has not, so that
few images make no class certain. The scale is above 0: the order of the images stays.
"""

import torch
from torch import nn

from stages.metrics.multilabel import UNKNOWN

STEPS = 100  # of Newton's method, at most
CLOSE = 1e-10  # of the gradient, where it stops
LEAST_SCALE = 1e-3  # of a class whose scores say nothing, in units of the spread of the scores
RIDGE = 1e-9


class ClassCalibration(nn.Module):
    """Scores (N, C) to logits (N, C), one scale and one shift for each class."""

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(classes))
        self.register_buffer("shift", torch.zeros(classes))

    def forward(self, scores: torch.Tensor) -> torch.Tensor:
        return scores * self.scale + self.shift

    def fit(self, scores: torch.Tensor, labels: torch.Tensor) -> None:
        """Takes the scales and shifts that fit best; a class without images on either side takes those of all together.

        Args:
            scores: (N, C) before any calibration.
            labels: (N, C) of 1, 0 and UNKNOWN.
        """
        scores, known = scores.double().cpu(), (labels != UNKNOWN).cpu()
        truth = (labels == 1).cpu()
        spread = float(scores[known].std()) if known.sum() > 1 else 0.0
        centre, unit = (float(scores[known].mean()), spread) if spread > 0 else (0.0, 1.0)
        values = (scores - centre) / unit
        all_entries = [tensor.reshape(-1, 1) for tensor in (values, truth, known)]
        slope, offset = (part.expand(scores.shape[1]).clone() for part in platt(*all_entries))
        both = (truth & known).any(0) & (~truth & known).any(0)
        if both.any():
            slope[both], offset[both] = platt(values[:, both], truth[:, both], known[:, both])
        slope = slope.clamp(min=LEAST_SCALE)
        self.scale.copy_(slope / unit)
        self.shift.copy_(offset - slope * centre / unit)


def platt(scores: torch.Tensor, truth: torch.Tensor, known: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Slope and offset (C,) of each class by Newton's method, all classes at once; float64.

    Args:
        scores: (N, C) float64, of a spread around 1.
        truth: (N, C) bool.
        known: (N, C) bool.
    """
    weight = known.double()
    positives, negatives = (truth & known).sum(0).double(), (~truth & known).sum(0).double()
    targets = torch.where(truth, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    prior = (positives + 1) / (positives + negatives + 2)
    slope, offset = torch.zeros_like(prior), torch.logit(prior)
    step = torch.ones_like(prior)

    def loss(slope: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
        logits = scores * slope + offset
        terms = nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return (terms * weight).sum(0)

    current = loss(slope, offset)
    for _ in range(STEPS):
        probabilities = (scores * slope + offset).sigmoid()
        residual, curvature = (probabilities - targets) * weight, probabilities * (1 - probabilities) * weight
        gradient = torch.stack([(residual * scores).sum(0), residual.sum(0)])
        if float(gradient.abs().max()) < CLOSE:
            break
        a, b, c = (curvature * scores.square()).sum(0) + RIDGE, (curvature * scores).sum(0), curvature.sum(0) + RIDGE
        determinant = (a * c - b * b).clamp(min=RIDGE * RIDGE)
        along = torch.stack([c * gradient[0] - b * gradient[1], a * gradient[1] - b * gradient[0]]) / determinant
        step = torch.ones_like(step)
        for _ in range(30):  # halve the step of every class whose loss would rise
            tried = loss(slope - step * along[0], offset - step * along[1])
            worse = ~(tried <= current)
            if not worse.any():
                break
            step = torch.where(worse, step / 2, step)
        step = torch.where(tried <= current, step, 0.0)
        slope, offset = slope - step * along[0], offset - step * along[1]
        current = torch.minimum(tried, current)
        if not step.any():
            break
    return slope, offset
