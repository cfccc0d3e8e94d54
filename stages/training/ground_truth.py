"""The true objects of images: their boxes in every view, and the way back from boxes in a view to the image."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from stages.boxes.geometry import Detections, GroundTruth, fuse, suppress, to_image, to_view, vote, whole
from stages.datasets.index_file import IndexRow
from stages.metrics.detection import MOST


@dataclass(frozen=True)
class GroundTruthBoxes:
    """The objects of the images of a split.

    Attributes:
        truths: of each of N images, boxes in its pixels.
        affine: (N, V, 2, 3) from pixels of the image to pixels of each view, or of the cached image if the cache holds
            pixels.
        extents: (N, 2) width and height in pixels.
        size: of a view, in pixels a side.
    """

    truths: list[GroundTruth]
    affine: torch.Tensor
    extents: torch.Tensor
    size: int

    def in_view(self, image: int, affine: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The objects of an image that count and are visible in a view: boxes (n, 4) in [0, 1], and labels (n,).

        Args:
            image: its position in the split.
            affine: (2, 3) from pixels of the image to pixels of the view.
        """
        truth = self.truths[image]
        counts = ~(truth.ignored | truth.crowd)
        boxes, visible = to_view(truth.boxes[counts], affine, self.size)
        return boxes[visible], truth.labels[counts][visible]

    def to_image(self, image: int, detections: Detections, affine: torch.Tensor) -> Detections:
        """Detections in pixels of the image.

        Args:
            image: its position in the split.
            detections: boxes in [0, 1] of a view.
            affine: (2, 3) from pixels of the image to pixels of the view.
        """
        width, height = self.extents[image].tolist()
        return detections._replace(boxes=to_image(detections.boxes, affine, size=self.size, width=width, height=height))

    def uncut(self, image: int, detections: Detections, affine: torch.Tensor) -> Detections:
        """The detections in a view that its border does not cut.

        Args:
            image: its position in the split.
            detections: boxes in [0, 1] of a view.
            affine: (2, 3) from pixels of the image to pixels of the view.
        """
        width, height = self.extents[image].tolist()
        return detections.pick(whole(detections.boxes, affine, size=self.size, width=width, height=height))

    def pick(self, images: Sequence[int]) -> "GroundTruthBoxes":
        """The objects of some images, by their positions in the split."""
        truths = [self.truths[image] for image in images]
        return replace(self, truths=truths, affine=self.affine[images], extents=self.extents[images])

    def join(self, other: "GroundTruthBoxes") -> "GroundTruthBoxes":
        """These images, then those of another split."""
        return replace(
            self,
            truths=self.truths + other.truths,
            affine=torch.cat([self.affine, other.affine]),
            extents=torch.cat([self.extents, other.extents]),
        )


def read_ground_truth(
    rows: Sequence[IndexRow], *, classes: Sequence[str], affine: torch.Tensor, size: int
) -> GroundTruthBoxes:
    """The objects of indexed images.

    Args:
        rows: of N images.
        classes: names, by label.
        affine: (N, V, 2, 3).
        size: of a view, in pixels a side.
    """
    number = {name: label for label, name in enumerate(classes)}
    truths = []
    for row in rows:
        boxes = torch.tensor([box.box for box in row.objects], dtype=torch.float32).reshape(-1, 4)
        labels = torch.tensor([number[box.label] for box in row.objects], dtype=torch.long)
        ignored = torch.tensor([box.difficult or box.ignore for box in row.objects], dtype=torch.bool)
        truths.append(
            GroundTruth(boxes, labels, ignored, torch.tensor([box.crowd for box in row.objects], dtype=torch.bool))
        )
    extents = torch.tensor([(row.width, row.height) for row in rows], dtype=torch.long).reshape(-1, 2)
    return GroundTruthBoxes(truths, affine, extents, size)


def merge_views(views: Sequence[Detections], iou: float, merge: str = "nms") -> Detections:
    """The detections of several views of one image, in its pixels, after class-wise non-maximum suppression.

    With `vote` the boxes that remain become means of those around them. With `fusion` each view is suppressed on its
    own, and what remains of all views is fused.

    Args:
        views: of each view, boxes in pixels of the image.
        iou: a box that overlaps a better one of its class by more than this is dropped.
        merge: `nms`, `vote` or `fusion`.
    """
    if merge == "vote":
        return vote(views, iou, MOST)
    if merge == "fusion":
        return fuse([suppress(detections, iou, MOST) for detections in views], iou, MOST)
    boxes, scores, labels = (torch.cat(tensors) for tensors in zip(*views, strict=True))
    return suppress(Detections(boxes, scores, labels), iou, MOST)
