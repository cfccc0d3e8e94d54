"""`anchors`: k anchors at each cell of a map; each predicts whether there is an object, its offsets and its class.

Anchors are matched with boxes by IoU, and offsets are coded, as in Faster R-CNN (Ren et al. 2015).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from stages.boxes import dense, ops
from stages.boxes.geometry import Detections
from stages.boxes.losses import OVERLAP
from stages.errors import UserError
from stages.heads.options import AnchorsOptions

MOST_GROWTH = 4.0  # a box is at most e to this power times as large as its anchor, so that it stays finite
CLUSTER_STEPS = 100
Shape = tuple[int, int, int]


class Anchors(nn.Module):
    """(N, C, H, W) to (N, H, W, k, 5 + classes)."""

    def __init__(self, inputs: int, classes: int, options: AnchorsOptions) -> None:
        super().__init__()
        self.body = nn.Sequential(dense.narrow(inputs, options), dense.tower(options))
        self.predict = dense.PredictionLayer(options.hidden, len(options.anchor_sizes), 5 + classes)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        predictions: torch.Tensor = self.predict(self.body(features))
        return predictions


def build(shape: Shape, classes: int, options: AnchorsOptions) -> nn.Module:
    """A map (N, C, H, W) to (N, H, W, k, 5 + classes): 1 x 1 to `hidden` channels, `tower_depth` of 3 x 3, 1 x 1."""
    return Anchors(shape[0], classes, options)


def prepare(boxes: Sequence[torch.Tensor], options: AnchorsOptions) -> dict[str, Any]:
    """What is learned before the head is built: `anchor_sizes`, and `anchor_iou`, how well they fit.

    Args:
        boxes: (n, 4) of each image of train, corners in [0, 1] of the view.
        options: `anchor_count`.
    """
    sizes, iou = cluster(torch.cat(list(boxes)), options.anchor_count)
    return {"anchor_sizes": sizes, "anchor_iou": iou}


def cluster(boxes: torch.Tensor, count: int) -> tuple[list[list[float]], float]:
    """Sizes of anchors from boxes by k-means on IoU (Redmon and Farhadi 2017); the same boxes give the same sizes.

    It starts from boxes at equal steps of area, and ends when no box changes its anchor any more.

    Args:
        boxes: (n, 4) corners in [0, 1] of the view.
        count: how many anchors.

    Returns:
        `count` widths and heights, the smallest area first, and the mean over boxes of the IoU with the best anchor.

    Raises:
        UserError: there are fewer boxes of different sizes than anchors.
    """
    shapes = (boxes[:, 2:] - boxes[:, :2]).double()
    different: torch.Tensor = torch.unique(shapes, dim=0)
    if len(different) < count:
        raise UserError(
            f"`boxes.anchor_count`: {count} anchors need {count} boxes of different sizes, train has {len(different)}: "
            f"-S boxes.anchor_count={len(different)}"
        )
    order = different.prod(1).argsort(stable=True)
    centres = different[order[(2 * torch.arange(count) + 1) * len(different) // (2 * count)]]
    nearest = _shape_iou(shapes, centres).argmax(1)
    for _ in range(CLUSTER_STEPS):
        means = [shapes[nearest == i].mean(0) if (nearest == i).any() else centre for i, centre in enumerate(centres)]
        centres = torch.stack(means)
        previous, nearest = nearest, _shape_iou(shapes, centres).argmax(1)
        if torch.equal(previous, nearest):
            break
    centres = centres[centres.prod(1).argsort(stable=True)]
    return centres.tolist(), float(_shape_iou(shapes, centres).max(1).values.mean())


def targets(boxes: torch.Tensor, labels: torch.Tensor, options: AnchorsOptions, *, shape: Shape) -> torch.Tensor:
    """(H, W, k, 6): 1 object, 0 background, -1 ignored; offsets to the anchor; class.

    Args:
        boxes: (n, 4) corners in [0, 1] of the view.
        labels: (n,) the class of each box.
        options: the anchors, and `anchor_match` and `anchor_ignore` of `assign`.
        shape: (C, H, W) of the map.
    """
    height, width = shape[1:]
    anchors = at_every_cell(options, height, width)
    assigned = assign(boxes, anchors, options)
    codes = torch.zeros(len(anchors), 4)
    objects = assigned >= 0
    codes[objects] = encode(boxes[assigned[objects]], anchors[objects])
    return dense.target(assigned, codes, labels).reshape(height, width, -1, 6)


def loss(outputs: torch.Tensor, targets: torch.Tensor, options: AnchorsOptions) -> torch.Tensor:
    """J of `dense.loss`; boxes are compared by their offsets, or with giou and ciou by their corners.

    Args:
        outputs: (N, H, W, k, 5 + classes).
        targets: (N, H, W, k, 6).
        options: the anchors, and what `dense.loss` reads.
    """
    anchors = at_every_cell(options, *outputs.shape[1:3]).to(outputs)
    prediction, truth = dense.split(outputs.flatten(1, 3)), targets.flatten(1, 3)
    images, numbers = (truth[..., 0] > 0).nonzero(as_tuple=True)
    codes = prediction.code[images, numbers], truth[images, numbers, 1:5]
    if options.box_loss in OVERLAP:
        codes = offsets_to_corners(codes[0], anchors[numbers]), offsets_to_corners(codes[1], anchors[numbers])
    return dense.loss(prediction, truth, boxes=codes, options=options)


def decode(outputs: torch.Tensor, options: AnchorsOptions) -> list[Detections]:
    """The boxes of each image before suppression, corners in [0, 1] of the view."""
    return dense.detections(candidates(outputs, options))


def candidates(outputs: torch.Tensor, options: AnchorsOptions) -> dense.Candidates:
    """The decoded prediction of every anchor."""
    anchors = at_every_cell(options, *outputs.shape[1:3]).to(outputs)
    prediction = dense.split(outputs.flatten(1, 3))
    boxes = offsets_to_corners(prediction.code, anchors)
    return dense.Candidates(boxes, prediction.object.sigmoid(), prediction.classes)


def unassigned(boxes: torch.Tensor, options: AnchorsOptions, shape: Shape) -> int:
    """How many of an image's boxes (n, 4) no anchor can predict, because other boxes took all anchors near them."""
    return dense.unassigned(len(boxes), [assign(boxes, at_every_cell(options, *shape[1:]), options)])


def at_every_cell(options: AnchorsOptions, height: int, width: int) -> torch.Tensor:
    """The k anchors at each cell of a map: (height * width * k, 4), centre and size in [0, 1] of the view."""
    anchors = torch.tensor(options.anchor_sizes)
    centres = dense.cell_centres(height, width).repeat_interleave(len(anchors), dim=0)
    return torch.cat([centres, anchors.repeat(height * width, 1)], dim=1)


def assign(boxes: torch.Tensor, anchors: torch.Tensor, options: AnchorsOptions) -> torch.Tensor:
    """The box that each anchor should predict, (P,), or dense.BACKGROUND or dense.IGNORED.

    An anchor takes the box that it overlaps most, if their IoU is at least `anchor_match`; if it is less, but at least
    `anchor_ignore`, the anchor is ignored. The anchor that overlaps a box most takes that box in any case; if there are
    several such boxes, the largest. A box that overlaps no anchor is not assigned.

    Args:
        boxes: (n, 4) corners.
        anchors: (P, 4) centre and size.
        options: `anchor_match`, `anchor_ignore`.
    """
    if not len(boxes):
        return torch.full((len(anchors),), dense.BACKGROUND)
    iou: torch.Tensor = ops.box_iou(ops.box_convert(anchors, "cxcywh", "xyxy"), boxes)
    best, assigned = iou.max(1)
    assigned[best < options.anchor_match] = dense.IGNORED
    assigned[best < options.anchor_ignore] = dense.BACKGROUND
    best_iou, best_anchor = iou.max(0)
    for box in ops.box_area(boxes).argsort(stable=True).tolist():  # the largest comes last and replaces the others
        if best_iou[box] > 0:
            assigned[best_anchor[box]] = box
    return assigned


def encode(boxes: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
    """Offsets (…, 4) of boxes (…, 4; corners) to anchors (…, 4; centre and size).

    The first two are the shift of the centre, divided by the anchor's size; the others the logarithm of the growth.
    """
    centre_size = ops.box_convert(boxes, "xyxy", "cxcywh")
    shift = (centre_size[..., :2] - anchors[..., :2]) / anchors[..., 2:]
    return torch.cat([shift, (centre_size[..., 2:] / anchors[..., 2:]).log()], dim=-1)


def offsets_to_corners(offsets: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
    """The corners (…, 4) of boxes from their offsets (…, 4): the reverse of `encode`."""
    centre = anchors[..., :2] + offsets[..., :2] * anchors[..., 2:]
    half = offsets[..., 2:].clamp(max=MOST_GROWTH).exp() * anchors[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def _shape_iou(shapes: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """IoU (n, k) of boxes of these widths and heights on a common centre."""
    common = torch.minimum(shapes[:, None], centres[None]).prod(2)
    iou: torch.Tensor = common / (shapes.prod(1)[:, None] + centres.prod(1)[None] - common)
    return iou
