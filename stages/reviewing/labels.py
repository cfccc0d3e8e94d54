"""Wrong labels: what all other images say of an image, against its own label; and a guess where it has none.

Ridge regression on one-hot labels has leave-one-out predictions in closed form: with the hat matrix H of all images,
the prediction for image i by all others is y_i - (y_i - ŷ_i) / (1 - h_ii). Nothing is trained again.
https://robjhyndman.com/hyndsight/loocv-linear-models/
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from stages.reviewing.vectors import Vectors

STRENGTHS = tuple(10.0**power for power in (-3, -2.5, -2, -1.5, -1, -0.5, 0, 1))  # λ, as a multiple of the images
ASKED = 8192  # images that choose the strength
FEWEST_OF_SIDE = 3  # images that have a label, or have it not: of fewer, the others cannot tell what it looks like
LEAST_GAP = 0.25  # between the mean values of both sides, from which on a label counts as learnt
FAR = 0.75  # of the way from the mean value of its own side to that of the other side, beyond which an entry is doubted
LARGEST_LEVERAGE = 1 - 1e-4  # an image that determines its own prediction: nothing can be said without it


@dataclass(frozen=True)
class LeftOut:
    """What the other images say of each image.

    Attributes:
        own: (n,) float32: the regression value of the image's own label; 1 is certain, 0 none.
        other: (n,) int64: the class with the highest value among all others.
        other_value: (n,) float32: its value.
        accuracy: how often the own label has the highest value.
        strength: that was chosen, by that accuracy.
    """

    own: npt.NDArray[np.float32]
    other: npt.NDArray[np.int64]
    other_value: npt.NDArray[np.float32]
    accuracy: float
    strength: float

    @property
    def doubt(self) -> npt.NDArray[np.float32]:
        """(n,): how far the other class is ahead of the own label; above 0 the others contradict the label."""
        return self.other_value - self.own


@dataclass(frozen=True)
class _Regression:
    """Ridge regression in the basis of the eigenvectors of XᵀX, in which every strength is a scaling.

    Attributes:
        directions: (D, D) the eigenvectors.
        weights: (D,) 1 / (eigenvalue + penalty).
        target: (D, C) XᵀY in their basis.
        frequencies: (C,) of the classes, which are the intercept.
        strength: that was chosen.
    """

    directions: torch.Tensor
    weights: torch.Tensor
    target: torch.Tensor
    frequencies: torch.Tensor
    strength: float


def leave_one_out(vectors: Vectors, labels: npt.NDArray[np.int64], classes: int) -> LeftOut:
    """Predicts every image from all others, in two passes over the vectors: XᵀX and XᵀY, then the predictions.

    Args:
        vectors: of n images.
        labels: (n,) their classes, from 0.
        classes: how many there are.
    """
    y, fit = torch.from_numpy(labels), _fit(vectors, labels, classes)
    parts = []
    for positions, x in vectors.blocks():
        predicted = _left_out(x @ fit.directions, y[positions], fit.weights, fit.target, fit.frequencies, len(y))
        parts.append(_compared(predicted, y[positions]))
    own, other, other_value = (torch.cat(part).numpy() for part in zip(*parts, strict=True))
    return LeftOut(own, other, other_value, float((own >= other_value).mean()), fit.strength)


def leave_one_out_lists(vectors: Vectors, truth: npt.NDArray[np.int8]) -> npt.NDArray[np.float32]:
    """The regression value (n, C) of each of several labels of each image, by all other images; 1 is certain, 0 none.

    An unknown entry takes the place of the label's share, so that it pulls neither way.

    Args:
        vectors: of n images.
        truth: (n, C) of 1, 0 and -1 (unknown).
    """
    known = torch.from_numpy(truth >= 0)
    frequencies = torch.from_numpy((truth == 1).sum(0) / np.maximum((truth >= 0).sum(0), 1)).float()
    targets = torch.where(known, torch.from_numpy((truth == 1).astype(np.float32)), frequencies)
    gram, target = torch.zeros(vectors.width, vectors.width), torch.zeros(vectors.width, truth.shape[1])
    for positions, x in vectors.blocks():
        gram += x.T @ x
        target += x.T @ (targets[positions] - frequencies)
    values, directions = torch.linalg.eigh(gram.double())
    values, directions = values.clamp(min=0).float(), directions.float()
    target = directions.T @ target

    def left_out(x: torch.Tensor, positions: npt.NDArray[np.int64], strength: float) -> torch.Tensor:
        z, weights = x @ directions, 1 / (values + strength * len(targets))
        leverage = (z.square() @ weights + 1 / len(targets)).clamp(max=LARGEST_LEVERAGE)
        residual: torch.Tensor = targets[positions] - z @ (weights[:, None] * target) - frequencies
        predicted: torch.Tensor = targets[positions] - residual / (1 - leverage[:, None])
        return predicted

    asked = np.unique(np.linspace(0, len(targets) - 1, min(ASKED, len(targets))).round().astype(np.int64))
    sample = vectors.centred(asked) * vectors.scale
    errors = [float((left_out(sample, asked, strength) - targets[asked]).square().mean()) for strength in STRENGTHS]
    best = STRENGTHS[errors.index(min(errors))]
    return torch.cat([left_out(x, positions, best) for positions, x in vectors.blocks()]).numpy()


def doubted(values: npt.NDArray[np.float32], truth: npt.NDArray[np.int8]) -> npt.NDArray[np.float32]:
    """(n, C) how far a value is on the way from the mean of its own side to that of the other; 0 where not FAR.

    Args:
        values: (n, C) as `leave_one_out_lists` returns them.
        truth: (n, C) of 1, 0 and -1 (unknown).
    """
    doubt = np.zeros_like(values)
    for label in range(values.shape[1]):
        has, lacks = truth[:, label] == 1, truth[:, label] == 0
        if min(has.sum(), lacks.sum()) < FEWEST_OF_SIDE:
            continue
        high, low = values[has, label].mean(), values[lacks, label].mean()
        if (gap := high - low) < LEAST_GAP:
            continue
        way = np.where(lacks, values[:, label] - low, high - values[:, label]) / gap
        doubt[:, label] = np.where((has | lacks) & (way > FAR), way, 0)
    return doubt


def predict(known: Vectors, labels: npt.NDArray[np.int64], classes: int, asked: Vectors) -> npt.NDArray[np.float32]:
    """The regression values (k, C) of k images by those whose labels are known.

    Args:
        known: the vectors of n images.
        labels: (n,) their classes, from 0.
        classes: how many there are.
        asked: the vectors of k images, with the same mean and scale.
    """
    fit = _fit(known, labels, classes)
    solution = fit.directions @ (fit.weights[:, None] * fit.target)
    blocks = [x @ solution + fit.frequencies for _, x in asked.blocks()]
    return torch.cat(blocks).numpy() if blocks else np.empty((0, classes), np.float32)


def _fit(vectors: Vectors, labels: npt.NDArray[np.int64], classes: int) -> _Regression:
    """Solves the regression, with the strength whose leave-one-out predictions are right most often."""
    y = torch.from_numpy(labels)
    frequencies = torch.bincount(y, minlength=classes).float() / len(y)
    gram, target = torch.zeros(vectors.width, vectors.width), torch.zeros(vectors.width, classes)
    for positions, x in vectors.blocks():
        gram += x.T @ x
        target += x.T @ (_one_hot(y[positions], classes) - frequencies)
    values, directions = torch.linalg.eigh(gram.double())
    values, directions = values.clamp(min=0).float(), directions.float()
    target = directions.T @ target
    strength = _best_strength(vectors, y, values, directions, target, frequencies)
    return _Regression(directions, 1 / (values + strength * len(y)), target, frequencies, strength)


def _best_strength(
    vectors: Vectors,
    y: torch.Tensor,
    values: torch.Tensor,
    directions: torch.Tensor,
    target: torch.Tensor,
    frequencies: torch.Tensor,
) -> float:
    """The strength whose leave-one-out predictions are right most often, on images spread over the whole set."""
    asked = np.unique(np.linspace(0, len(y) - 1, min(ASKED, len(y))).round().astype(np.int64))
    z = (vectors.centred(asked) * vectors.scale) @ directions
    right = []
    for strength in STRENGTHS:
        weights = 1 / (values + strength * len(y))
        predicted = _left_out(z, y[asked], weights, target, frequencies, len(y))
        right.append(int((predicted.argmax(1) == y[asked]).sum()))
    return STRENGTHS[right.index(max(right))]


def _left_out(
    z: torch.Tensor,
    y: torch.Tensor,
    weights: torch.Tensor,
    target: torch.Tensor,
    frequencies: torch.Tensor,
    count: int,
) -> torch.Tensor:
    """(k, C): predictions for k images, each by all others.

    Args:
        z: (k, D) vectors in the basis of the eigenvectors.
        y: (k,) labels.
        weights: (D,) 1 / (eigenvalue + penalty).
        target: (D, C) XᵀY in the same basis.
        frequencies: (C,) of the classes, which are the intercept.
        count: of all images.
    """
    leverage = (z.square() @ weights + 1 / count).clamp(max=LARGEST_LEVERAGE)
    truth = _one_hot(y, len(frequencies))
    residual = truth - z @ (weights[:, None] * target) - frequencies
    return truth - residual / (1 - leverage[:, None])


def _compared(predicted: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The value of the own label, and the best other class with its value."""
    own = predicted.gather(1, y[:, None])[:, 0]
    others = predicted.scatter(1, y[:, None], -torch.inf)
    value, other = others.max(1)
    return own, other, value


def _one_hot(y: torch.Tensor, classes: int) -> torch.Tensor:
    return F.one_hot(y, classes).float()
