"""What a head is asked for, and how it is judged: the label of an image, or the boxes of its objects.

The trainer knows no more of a task than `targets`, `loss`, `right` and `judge`.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import nn
from torch.nn import functional as F

from stages.blocks import HeadOptions
from stages.boxes.geometry import Detections
from stages.heads.contract import ObjectHead, module_of
from stages.heads.registry import HEADS
from stages.metrics.detection import area, curves
from stages.params import Params
from stages.training import losses
from stages.training.data import HeadData, SplitData
from stages.training.ground_truth import merge_views
from stages.training.model import HeadModel, outputs

NMS_IOU = 0.45  # of boxes that are scored while training: no threshold of `decide` may change a head
KEPT_TARGETS = 1 << 29  # bytes: targets of views that come again are computed once


class EpochScores(NamedTuple):
    """The scores of a split after an epoch; None where the task has none, or it was not asked for."""

    loss: float
    accuracy: float | None = None
    map_50: float | None = None


class Task(Protocol):
    """One of the two below."""

    def targets(self, split: SplitData, images: torch.Tensor, views: torch.Tensor, affine: torch.Tensor | None) -> Any:
        """What the head should give for some images in these views."""

    def loss(self, found: Any, targets: Any) -> torch.Tensor:
        """The mean loss of a batch."""

    def correct(self, found: Any, targets: Any) -> torch.Tensor | None:
        """Which of the images of a batch that have a class were told it: (n,) bool; None where none is predicted."""

    def evaluate(self, net: nn.Module, split: SplitData) -> EpochScores:
        """The scores of a split on its evaluation views."""


class ClassificationTask:
    """The label of each image."""

    def __init__(self, params: Params, weights: torch.Tensor | None) -> None:
        self.params, self.weights = params, weights

    def targets(self, split: SplitData, images: torch.Tensor, views: torch.Tensor, affine: torch.Tensor | None) -> Any:
        """(n,) int64."""
        return split.y[images.to(split.y.device)]

    def loss(self, found: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Cross-entropy or focal loss."""
        return losses.loss(found, targets, self.params, self.weights)

    def correct(self, found: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Whose label is the most probable class."""
        return found.argmax(1) == targets

    def evaluate(self, net: nn.Module, split: SplitData) -> EpochScores:
        """Cross-entropy, without smoothing or weights, and accuracy."""
        found = torch.cat(list(outputs(net, split)))
        loss = float(F.cross_entropy(found, split.y))
        return EpochScores(loss, float((found.argmax(1) == split.y).float().mean()))


class DetectionTask:
    """The boxes and classes of the objects of each image.

    Args:
        head: the name of a head that finds objects.
        model: the head itself, for the shape of what it takes.
        options: of the head.
        classes: how many.
        params: `monitor`.
    """

    def __init__(self, head: str, model: HeadModel, options: HeadOptions, *, classes: int, params: Params) -> None:
        self.head, self.shape = cast("ObjectHead", module_of(head)), model.shape
        self.options, self.classes, self.params = options, classes, params
        self._kept: dict[tuple[int, int], Any] = {}
        self._bytes = 0

    def targets(self, split: SplitData, images: torch.Tensor, views: torch.Tensor, affine: torch.Tensor | None) -> Any:
        """As the head's own `targets` makes them, stacked over images."""
        assert affine is not None
        each = [self._targets(split, *place) for place in zip(images.tolist(), views.tolist(), affine, strict=True)]
        return _to(_stack(each), split.y.device)

    def loss(self, found: Any, targets: Any) -> torch.Tensor:
        """The head's own."""
        return self.head.loss(found, targets, self.options)

    def correct(self, found: Any, targets: Any) -> torch.Tensor | None:
        """Of a head that names one class an image."""
        classified = getattr(self.head, "classified", None)
        return classified(found, targets, self.options) if classified else None

    @torch.inference_mode()
    def evaluate(self, net: nn.Module, split: SplitData) -> EpochScores:
        """The loss; accuracy of a head that names one class an image; map_50 where `monitor` asks for it."""
        total, right, seen = 0.0, list[torch.Tensor](), list[Detections]()
        scored = self.params.monitor == "val_map_50"
        for places, found in zip(split.image_batches(), outputs(net, split), strict=True):
            wanted = self.targets(split, places, torch.zeros_like(places), split.affines(places))
            total += float(self.loss(found, wanted)) * len(places)
            if (hits := self.correct(found, wanted)) is not None:
                right.append(hits)
            if scored:
                seen += [merge_views([one], NMS_IOU) for one in self._back(split, places, 0, found)]
        score = self.map_50(split, seen) if scored else None
        return EpochScores(total / len(split.y), share(right), score)

    def map_50(self, split: SplitData, found: Sequence[Detections]) -> float:
        """The mean over classes with objects of the average precision at an IoU of 0.5."""
        assert split.ground_truth is not None
        seen = [area(curve) for curve in curves(split.ground_truth.truths, found, self.classes) if curve.truths]
        return sum(seen) / len(seen) if seen else 0.0

    @torch.inference_mode()
    def find(self, net: nn.Module, split: SplitData, iou: float, views: int = 1, how: str = "nms") -> list[Detections]:
        """What is found in the first so many views of each image, in its pixels, merged at this IoU."""
        each = [list[Detections]() for _ in split.index_positions]
        for view in range(views):
            for places, found in zip(split.image_batches(), outputs(net, split, view), strict=True):
                for image, one in zip(places.tolist(), self._back(split, places, view, found), strict=True):
                    each[image].append(one)
        return [merge_views(found, iou, how) for found in each]

    def _back(self, split: SplitData, images: torch.Tensor, view: int, found: Any) -> Iterator[Detections]:
        """What the head found in a view of some images, in pixels of each, before suppression."""
        affine = split.affines(images, view)
        assert affine is not None and split.ground_truth is not None
        decoded = self.head.decode(_to(found, torch.device("cpu")), self.options)
        for image, one, way in zip(images.tolist(), decoded, affine, strict=True):
            yield split.ground_truth.to_image(image, one, way)

    def _targets(self, split: SplitData, image: int, view: int, affine: torch.Tensor) -> Any:
        key = split.index_positions[image], view
        if key in self._kept:
            return self._kept[key]
        assert split.ground_truth is not None
        boxes, labels = split.ground_truth.in_view(image, affine)
        made = self.head.targets(boxes, labels, self.options, shape=self.shape)
        size = sum(tensor.nbytes for tensor in (made if isinstance(made, tuple) else (made,)))
        if split.pixels is None and self._bytes + size <= KEPT_TARGETS:
            self._kept[key] = made
            self._bytes += size
        return made


def share(right: Sequence[torch.Tensor]) -> float | None:
    """The share of all that are right; None of nothing."""
    each = torch.cat([torch.zeros(0, dtype=torch.bool), *(one.cpu() for one in right)])
    return float(each.double().mean()) if len(each) else None


def of(head: str, whole: HeadModel, knobs: dict[str, Any], data: HeadData, params: Params) -> Task:
    """The task that a head is for."""
    if HEADS[head].finds_objects:
        return DetectionTask(head, whole, HEADS[head].read(knobs), classes=len(data.classes), params=params)
    train = data.splits["train"]
    device = next(iter(whole.state_dict().values())).device
    weights = losses.class_weights(train.y.to(device), len(data.classes), params.class_weights)
    return ClassificationTask(params, weights)


def _stack(each: Sequence[Any]) -> Any:
    if isinstance(each[0], tuple):
        return tuple(torch.stack(level) for level in zip(*each, strict=True))
    return torch.stack(list(each))


def _to(values: Any, device: torch.device) -> Any:
    return tuple(value.to(device) for value in values) if isinstance(values, tuple) else values.to(device)
