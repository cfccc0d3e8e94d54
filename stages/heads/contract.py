"""The functions that the module of a head has. A head is one such module and one line in the registry, of its name.

Every head has `build`. A head in closed form also has `solutions` and `solve`; a head that finds objects also has the
functions of `ObjectHead`, and may have

- `prepare(boxes, options)`: options that it learns from the boxes of each train image before it is built, e.g. anchors;
- `classified(outputs, targets, options)`: which images are right, if it predicts one class per image.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import nn
from torch.nn import functional as F

from stages.boxes.dense import Candidates
from stages.boxes.geometry import Detections

SMALLEST = 1e-30  # the least variance to multiply by, of features that are all the same


class Head(Protocol):
    """A head for any task."""

    def build(self, shape: Any, classes: int, options: Any) -> nn.Module:
        """The layers of the head, from features to logits (N, classes) or to what `loss` takes.

        Args:
            shape: of the features of one image: (D,), (C, H, W), or the shapes of several maps.
            classes: how many.
            options: of the type that the registry names.
        """


def gram_matrix(x: torch.Tensor) -> torch.Tensor:
    """The smaller one of XᵀX (D, D) and XXᵀ (N, N), of vectors (N, D)."""
    return x @ x.T if len(x) < x.shape[1] else x.T @ x


class Moments(Protocol):
    """What is known of the vectors (N, D) of a split, in memory or not, once they were read."""

    @property
    def shape(self) -> tuple[int, int]:
        """N and D."""

    @property
    def labels(self) -> torch.Tensor:
        """(N,) int64."""

    @property
    def mean(self) -> torch.Tensor:
        """Their mean (D,) in float64."""

    @property
    def gram(self) -> torch.Tensor:
        """The Gram matrix of the centred vectors in float64."""

    @property
    def variance(self) -> float:
        """The mean variance of a feature: strengths are multiples of it, so that no unit of the features matters."""

    def class_sums(self, classes: int) -> torch.Tensor:
        """(C, D) the sum of the centred vectors of each class, in float64."""


@dataclass(frozen=True)
class VectorBlocks:
    """The images of a split as a head in closed form takes them, of features that stay on the disk.

    All that is known of them comes from one pass, block by block, and is kept.

    Attributes:
        read: gives blocks (n, D) of the vectors, float32 and normalised, and their labels (n,).
        shape: N and D.
        labels: (N,) int64, in the order of the blocks.
    """

    read: Callable[[], Iterable[tuple[torch.Tensor, torch.Tensor]]]
    shape: tuple[int, int]
    labels: torch.Tensor

    @cached_property
    def _sums(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """An origin (D,) near the mean, and around it XᵀX (D, D) and the sum of each class (C, D); then the mean (D,).

        Around the mean of the first block the numbers are as small as around that of all, so that nothing is lost.
        """
        columns, classes, origin = self.shape[1], int(self.labels.max()) + 1, None
        gram = torch.zeros(columns, columns, dtype=torch.float64, device=self.labels.device)
        sums = torch.zeros(classes, columns, dtype=torch.float64, device=self.labels.device)
        for block, labels in self.read():
            origin = block.double().mean(0) if origin is None else origin
            around = block.double() - origin
            gram.addmm_(around.T, around)
            sums += _class_sums(around, labels, classes)
        assert origin is not None  # there is an image
        return origin, gram, sums, origin + sums.sum(0) / self.shape[0]

    @property
    def mean(self) -> torch.Tensor:
        """Their mean (D,) in float64."""
        return self._sums[-1]

    @cached_property
    def gram(self) -> torch.Tensor:
        """XᵀX (D, D) of the centred vectors in float64."""
        origin, gram, _, mean = self._sums
        return gram - self.shape[0] * torch.outer(mean - origin, mean - origin)

    @cached_property
    def variance(self) -> float:
        """The mean variance of a feature."""
        return max(float(self.gram.trace()) / (self.shape[0] * self.shape[1]), SMALLEST)

    def class_sums(self, classes: int) -> torch.Tensor:
        """(C, D) the sum of the centred vectors of each class, in float64."""
        origin, _, sums, mean = self._sums
        counts = torch.bincount(self.labels, minlength=classes)
        missing = classes - len(sums)  # those after the last class that has an image
        return F.pad(sums, (0, 0, 0, missing)) - counts[:, None] * (mean - origin)


@dataclass(frozen=True)
class LabelledVectors:
    """The images of a split as a head in closed form takes them.

    What is computed from them is kept, for the next head that needs it.

    Attributes:
        x: (N, D) float32, normalised.
        labels: (N,) int64; or (N, C) of 1, 0 and -1 (unknown), where images have several labels.
    """

    x: torch.Tensor
    labels: torch.Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """N and D."""
        return self.x.shape[0], self.x.shape[1]

    @property
    def multilabel(self) -> bool:
        """Whether images have several labels."""
        return self.labels.ndim == 2

    def targets(self, classes: int) -> torch.Tensor:
        """(N, C) float64: 1 where an image is of the class, else 0."""
        return (self.labels == 1).double() if self.multilabel else F.one_hot(self.labels, classes).double()

    @property
    def known(self) -> torch.Tensor:
        """(N, C) bool: which entries of several labels count."""
        return self.labels >= 0

    @cached_property
    def double(self) -> torch.Tensor:
        """The vectors in float64."""
        return self.x.double()

    @cached_property
    def mean(self) -> torch.Tensor:
        """Their mean (D,) in float64."""
        return self.double.mean(0)

    @cached_property
    def centred(self) -> torch.Tensor:
        """The vectors minus their mean, (N, D) in float64."""
        return self.double - self.mean

    @cached_property
    def gram(self) -> torch.Tensor:
        """The Gram matrix of the centred vectors in float64."""
        return gram_matrix(self.centred)

    @cached_property
    def variance(self) -> float:
        """The mean variance of a feature: strengths are multiples of it, so that no unit of the features matters."""
        return max(float(self.gram.trace()) / self.x.numel(), SMALLEST)

    def class_sums(self, classes: int) -> torch.Tensor:
        """(C, D) the sum of the centred vectors of each class, in float64."""
        return _class_sums(self.centred, self.labels, classes)

    def scores(self, weights: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """(N, C) vectors @ weights + bias, in float64."""
        return self.double @ weights + bias


def _class_sums(rows: torch.Tensor, labels: torch.Tensor, classes: int) -> torch.Tensor:
    """(C, D) the sum of the rows (N, D) of each class."""
    if rows.is_cuda:  # there index_add_ adds in any order, and no two runs are the same
        return F.one_hot(labels, classes).to(rows).T @ rows
    return rows.new_zeros(classes, rows.shape[1]).index_add_(0, labels, rows)


def best_scale(values: torch.Tensor, labels: torch.Tensor, scales: Sequence[float]) -> tuple[float, float]:
    """The scale that turns values into logits with the lowest cross-entropy, and that cross-entropy.

    Cross-entropy is convex in the scale, so bisection finds it.

    Args:
        values: (N, C) scores of the classes.
        labels: (N,).
        scales: to choose from, from low to high.
    """

    def loss(step: int) -> float:
        return float(F.cross_entropy(scales[step] * values, labels))

    best = bisect_left(range(len(scales) - 1), True, key=lambda step: loss(step + 1) >= loss(step))
    return scales[best], loss(best)


def put(layers: nn.Linear, weights: torch.Tensor, bias: torch.Tensor) -> None:
    """Writes weights (D, C) and a bias (C,) into a linear layer, in its precision."""
    with torch.no_grad():
        layers.weight.copy_(weights.T)
        layers.bias.copy_(bias)


class Solution(NamedTuple):
    """One of several solutions; its weights are in the head's layers already.

    Attributes:
        notes: stored with the head and shown on the page, e.g. the strength of a ridge.
        options: learned options, with which the layers are built when the head is loaded.
        val_loss: its cross-entropy on validation, if that is available more exactly than from float32 logits.
    """

    notes: Mapping[str, float]
    options: Mapping[str, Any] = {}
    val_loss: float | None = None


def scaled(
    layers: nn.Linear,
    val: LabelledVectors,
    solved: Iterable[tuple[torch.Tensor, torch.Tensor]],
    *,
    notes: Sequence[Mapping[str, float]],
    scales: Sequence[float],
) -> Iterator[Solution]:
    """Solutions whose scores are not logits, each with the scale that validation chooses.

    Args:
        layers: that hold each solution in its turn.
        val: chooses the scale.
        solved: weights (D, C) and a bias (C,) of each solution.
        notes: of each solution.
        scales: to choose from, from low to high. Several labels are calibrated class by class later, without them.
    """
    for known, (weights, bias) in zip(notes, solved, strict=True):
        if val.labels.ndim == 2:
            put(layers, weights, bias)
            yield Solution(known)
            continue
        scale, loss = best_scale(val.scores(weights, bias), val.labels, scales)
        put(layers, scale * weights, scale * bias)
        yield Solution({**known, "scale": scale}, val_loss=loss)


class ClosedFormHead(Head, Protocol):
    """A head that is solved without epochs; validation chooses among its solutions."""

    def solutions(self, layers: nn.Module, train: Any, val: Any) -> Iterator[Solution]:
        """Puts one solution after another into the layers; of equally good ones the first is kept.

        Args:
            layers: from `build`.
            train: what to solve for: `LabelledVectors`, or for a head that streams `Moments`.
            val: for solutions that validation tunes further, e.g. a scale of logits.
        """

    def solve(self, layers: nn.Module, train: Any, notes: Mapping[str, float]) -> Solution:
        """Puts the solution with the settings of an earlier one into the layers.

        Args:
            layers: from `build`.
            train: what to solve for, e.g. train and val together once val has chosen the settings.
            notes: of the earlier solution.
        """


class ObjectHead(Head, Protocol):
    """A head that finds objects."""

    def targets(self, boxes: torch.Tensor, labels: torch.Tensor, options: Any, *, shape: Any) -> Any:
        """What the outputs should be for one view of an image.

        Args:
            boxes: (n, 4) corners in [0, 1] of the view.
            labels: (n,) the class of each box.
            options: of the type that the registry names.
            shape: of the features of one image.
        """

    def loss(self, outputs: Any, targets: Any, options: Any) -> torch.Tensor:
        """The mean loss of a batch.

        Args:
            outputs: of the layers from `build`.
            targets: of each view, from `targets`, stacked.
            options: of the type that the registry names.
        """

    def decode(self, outputs: Any, options: Any) -> list[Detections]:
        """The boxes in each view of a batch, before non-maximum suppression."""

    def candidates(self, outputs: Any, options: Any) -> Candidates:
        """The boxes in each view of a batch as tensors of a fixed shape, as an exported file gives them."""

    def unassigned(self, boxes: torch.Tensor, options: Any, shape: Any) -> int:
        """How many of the boxes of a view the head cannot predict because of its design.

        Args:
            boxes: (n, 4) corners in [0, 1] of the view.
            options: of the type that the registry names.
            shape: of the features of one image.
        """


def module_of(head: str) -> Head:
    """The module of a head, by its name."""
    return cast("Head", import_module(f"stages.heads.{head}"))
