"""What heads are trained for: the label of an image, its labels, or the boxes of its objects; targets, loss and scores.

The training loop uses a task through the protocol `Task` alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import nn
from torch.nn import functional as F

from stages.blocks import HeadOptions
from stages.boxes.geometry import Detections
from stages.heads.contract import ObjectHead, module_of
from stages.heads.registry import HEADS
from stages.metrics import multilabel
from stages.metrics.detection import map_50
from stages.params import Params
from stages.training import losses
from stages.training.data import HeadData, SplitData
from stages.training.ground_truth import merge_views
from stages.training.model import HeadModel, batch_outputs

NMS_IOU = 0.45  # for scores while training; fixed, since no threshold of `decide` may change a head
CACHED_TARGETS = 1 << 29  # bytes; targets of a view that is seen again are computed once


class EpochScores(NamedTuple):
    """The scores of a split after an epoch; None if the task does not have a score, or `monitor` does not need it."""

    loss: float
    accuracy: float | None = None
    map_50: float | None = None
    map: float | None = None

    @property
    def choice(self) -> float:
        """What decides between heads that name classes: accuracy, or mAP where images have several labels."""
        return (self.accuracy if self.map is None else self.map) or 0.0


class Task(Protocol):
    """What the training loop needs of a task."""

    def targets(
        self, split: SplitData, images: torch.Tensor, *, views: torch.Tensor, affine: torch.Tensor | None
    ) -> Any:
        """What the outputs should be.

        Args:
            split: the images belong to it.
            images: (n,) indices of images.
            views: (n,) the view of each image.
            affine: (n, 2, 3) from pixels of each image to pixels of its view; None without ground truth.
        """

    def loss(self, outputs: Any, targets: Any) -> torch.Tensor:
        """The mean loss of a batch."""

    def correct(self, outputs: Any, targets: Any) -> torch.Tensor | None:
        """Which images of a batch have the right class, (n,) bool; None if no class per image is predicted."""

    def evaluate(self, model: nn.Module, split: SplitData) -> EpochScores:
        """The scores of a split on its evaluation views."""


class ClassificationTask:
    """Predicting the label of each image."""

    def __init__(self, params: Params, weights: torch.Tensor | None) -> None:
        self.params, self.weights = params, weights

    def targets(
        self, split: SplitData, images: torch.Tensor, *, views: torch.Tensor, affine: torch.Tensor | None
    ) -> Any:
        """The labels, (n,) int64."""
        return split.y[images.to(split.y.device)]

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Cross-entropy or focal loss."""
        return losses.loss(outputs, targets, params=self.params, weights=self.weights)

    def correct(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Whether the most probable class is the label."""
        return outputs.argmax(1) == targets

    def evaluate(self, model: nn.Module, split: SplitData) -> EpochScores:
        """Cross-entropy, without smoothing or weights, and accuracy.

        Of each image only the logarithm of the probability of its class is kept: all logits of a million images in a
        thousand classes would be 4 GB.
        """
        own, right = list[torch.Tensor](), list[torch.Tensor]()
        for images, logits in zip(split.image_batches(), batch_outputs(model, split), strict=True):
            labels = split.y[images.to(split.y.device)]
            own.append(logits.log_softmax(1).gather(1, labels[:, None]))
            right.append(logits.argmax(1) == labels)
        loss = F.nll_loss(torch.cat(own), torch.zeros_like(split.y))  # sums as cross_entropy does, to the last bit
        return EpochScores(float(loss), float(torch.cat(right).float().mean()))


class MultilabelTask:
    """Predicting which labels each image has, each with a probability of its own.

    Args:
        params: of the loss.
        weights: (2, C) of absent and of present labels, or None.
    """

    def __init__(self, params: Params, weights: torch.Tensor | None) -> None:
        self.params, self.weights = params, weights

    def targets(
        self, split: SplitData, images: torch.Tensor, *, views: torch.Tensor, affine: torch.Tensor | None
    ) -> Any:
        """The labels, (n, C) int8."""
        return split.y[images.to(split.y.device)]

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Binary cross-entropy or focal loss of the known entries."""
        return losses.labels_loss(outputs, targets, params=self.params, weights=self.weights)

    def correct(self, outputs: torch.Tensor, targets: torch.Tensor) -> None:
        """No class per image is predicted."""

    def evaluate(self, model: nn.Module, split: SplitData) -> EpochScores:
        """Binary cross-entropy, without smoothing or weights, and mAP."""
        logits = torch.cat(list(batch_outputs(model, split)))
        loss = multilabel.binary_cross_entropy(logits, split.y)
        return EpochScores(loss, map=multilabel.mean_average_precision(logits, split.y))


class DetectionTask:
    """Predicting the boxes and classes of the objects of each image.

    Args:
        head: the name of a head that finds objects.
        model: the head with its layers, for the shape of the features that it takes.
        options: of the head.
        classes: how many.
        params: `monitor`.
    """

    def __init__(self, head: str, model: HeadModel, options: HeadOptions, *, classes: int, params: Params) -> None:
        self.head, self.shape = cast("ObjectHead", module_of(head)), model.shape
        self.options, self.classes, self.params = options, classes, params
        self._target_cache: dict[tuple[int, int], Any] = {}
        self._cached_bytes = 0

    def targets(
        self, split: SplitData, images: torch.Tensor, *, views: torch.Tensor, affine: torch.Tensor | None
    ) -> Any:
        """The head's targets of each image, stacked."""
        assert affine is not None
        arguments = zip(images.tolist(), views.tolist(), affine, strict=True)
        return _to(_stack([self._targets(split, *image) for image in arguments]), split.y.device)

    def loss(self, outputs: Any, targets: Any) -> torch.Tensor:
        """The loss of the head."""
        return self.head.loss(outputs, targets, self.options)

    def correct(self, outputs: Any, targets: Any) -> torch.Tensor | None:
        """Which images have the right class, (n,) bool, if the head predicts one class per image."""
        classified = getattr(self.head, "classified", None)
        return classified(outputs, targets, self.options) if classified else None

    @torch.inference_mode()
    def evaluate(self, model: nn.Module, split: SplitData) -> EpochScores:
        """The loss; accuracy if the head predicts one class per image; map_50 if `monitor` needs it."""
        total, hits, detections = 0.0, list[torch.Tensor](), list[Detections]()
        with_map = self.params.monitor == "val_map_50"
        for images, outputs in zip(split.image_batches(), batch_outputs(model, split), strict=True):
            targets = self.targets(split, images, views=torch.zeros_like(images), affine=split.affines(images))
            total += float(self.loss(outputs, targets)) * len(images)
            if (correct := self.correct(outputs, targets)) is not None:
                hits.append(correct)
            if with_map:
                in_images = self._in_images(split, images, 0, outputs)
                detections += [merge_views([image_detections], NMS_IOU) for image_detections in in_images]
        score = self.map_50(split, detections) if with_map else None
        return EpochScores(total / len(split.y), share_of_true(hits), score)

    def map_50(self, split: SplitData, detections: Sequence[Detections]) -> float:
        """The mean over classes with objects of the average precision at an IoU of 0.5."""
        assert split.ground_truth is not None
        return map_50(split.ground_truth.truths, detections, self.classes)

    @torch.inference_mode()
    def detect(
        self, model: nn.Module, split: SplitData, *, iou: float, views: int = 1, merge: str = "nms"
    ) -> list[Detections]:
        """The detections in each image, in its pixels.

        Args:
            model: the head with its layers.
            split: the images.
            iou: of two boxes of a class that overlap by more than this, the one with the lower score is dropped.
            views: how many views of each image are merged.
            merge: `nms`, `vote` or `fusion`.
        """
        return [merge_views(found, iou, merge) for found in self.detect_views(model, split, views=views, merge=merge)]

    @torch.inference_mode()
    def detect_views(self, model: nn.Module, split: SplitData, *, views: int, merge: str) -> list[list[Detections]]:
        """The detections in each view of each image before suppression, in pixels of the image.

        Of the random views, which are crops, boxes at the border do not count, except with `fusion`, which asks in how
        many views a box is.

        Args:
            model: the head with its layers.
            split: the images.
            views: how many views of each image.
            merge: how they will be merged.
        """
        if not split.index_positions:  # a head need not take a batch of no images
            return []
        per_image = [list[Detections]() for _ in split.index_positions]
        for view in range(views):
            for images, outputs in zip(split.image_batches(), batch_outputs(model, split, view), strict=True):
                in_images = self._in_images(split, images, view, outputs, uncut=view > 0 and merge != "fusion")
                for image, detections in zip(images.tolist(), in_images, strict=True):
                    per_image[image].append(detections)
        return per_image

    def _in_images(
        self, split: SplitData, images: torch.Tensor, view: int, outputs: Any, *, uncut: bool = False
    ) -> Iterator[Detections]:
        """The detections in a view of some images, in pixels of each image, before suppression."""
        affines = split.affines(images, view)
        assert affines is not None and split.ground_truth is not None
        decoded = self.head.decode(_to(outputs, torch.device("cpu")), self.options)
        for image, detections, affine in zip(images.tolist(), decoded, affines, strict=True):
            kept = split.ground_truth.uncut(image, detections, affine) if uncut else detections
            yield split.ground_truth.to_image(image, kept, affine)

    def _targets(self, split: SplitData, image: int, view: int, affine: torch.Tensor) -> Any:
        key = split.index_positions[image], view
        if key in self._target_cache:
            return self._target_cache[key]
        assert split.ground_truth is not None
        boxes, labels = split.ground_truth.in_view(image, affine)
        targets = self.head.targets(boxes, labels, self.options, shape=self.shape)
        size = sum(tensor.nbytes for tensor in (targets if isinstance(targets, tuple) else (targets,)))
        if split.pixels is None and self._cached_bytes + size <= CACHED_TARGETS:
            self._target_cache[key] = targets
            self._cached_bytes += size
        return targets


def share_of_true(masks: Sequence[torch.Tensor]) -> float | None:
    """The share of True in some masks together; None if they are empty."""
    joined = torch.cat([torch.zeros(0, dtype=torch.bool), *(mask.cpu() for mask in masks)])
    return float(joined.double().mean()) if len(joined) else None


def task_of(head: str, model: HeadModel, knobs: Mapping[str, Any], *, data: HeadData, params: Params) -> Task:
    """The task of a head.

    Args:
        head: its name.
        model: the head with its layers.
        knobs: stored with it.
        data: the classes, and the labels of train for class weights.
        params: of the loss.
    """
    if HEADS[head].finds_objects:
        return DetectionTask(head, model, HEADS[head].read(knobs), classes=len(data.classes), params=params)
    train = data.splits["train"]
    device = next(iter(model.state_dict().values())).device
    if data.multilabel:
        return MultilabelTask(params, losses.label_weights(train.y.to(device), params.class_weights))
    weights = losses.class_weights(train.y.to(device), len(data.classes), params.class_weights)
    return ClassificationTask(params, weights)


def _stack(targets: Sequence[Any]) -> Any:
    if isinstance(targets[0], tuple):
        return tuple(torch.stack(level) for level in zip(*targets, strict=True))
    return torch.stack(list(targets))


def _to(values: Any, device: torch.device) -> Any:
    return tuple(value.to(device) for value in values) if isinstance(values, tuple) else values.to(device)
