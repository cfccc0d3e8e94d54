"""`anchors`: at each cell of a map, k anchors of given sizes; each predicts an object, its offsets and its class.

Anchors are matched with boxes by IoU as in Faster R-CNN (Ren et al. 2015), and offsets coded as there.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from stages.boxes import dense, ops
from stages.boxes.geometry import Detections
from stages.errors import UserError

MOST_GROWTH = 4.0  # e to the power of it is the most that a box outgrows its anchor: wild weights stay finite
CLUSTER_STEPS = 100
Knobs = Mapping[str, Any]
Shape = tuple[int, int, int]


class Anchors(nn.Module):
    """(N, C, H, W) to (N, H, W, k, 5 + classes)."""

    def __init__(self, inputs: int, classes: int, knobs: Knobs) -> None:
        super().__init__()
        self.body = nn.Sequential(dense.narrow(inputs, knobs), dense.tower(knobs))
        self.predict = dense.Predictor(knobs["hidden"], len(sizes(knobs)), 5 + classes)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        predictions: torch.Tensor = self.predict(self.body(features))
        return predictions


def build(shape: Shape, classes: int, knobs: Knobs) -> nn.Module:
    """A map (N, C, H, W) to (N, H, W, k, 5 + classes): 1 x 1 to `hidden` channels, `tower_depth` of 3 x 3, 1 x 1."""
    return Anchors(shape[0], classes, knobs)


def prepare(boxes: torch.Tensor, knobs: Knobs) -> dict[str, Any]:
    """`anchor_sizes`, clustered from the boxes (n, 4) of train, and their `anchor_iou`; nothing if they are given."""
    if not knobs["anchor_count"]:
        return {}
    sizes, iou = cluster(boxes, knobs["anchor_count"])
    return {"anchor_sizes": sizes, "anchor_iou": iou}


def sizes(knobs: Knobs) -> torch.Tensor:
    """Width and height (k, 2) of the anchors, in [0, 1] of the view.

    `anchor_sizes` where they were clustered; else of each of `anchor_scales` (the side of a square of the same area)
    and each of `anchor_ratios` (height to width).
    """
    if knobs["anchor_sizes"]:
        return torch.tensor(knobs["anchor_sizes"])
    pairs = [(scale, ratio**0.5) for scale in knobs["anchor_scales"] for ratio in knobs["anchor_ratios"]]
    return torch.tensor([[scale / root, scale * root] for scale, root in pairs])


def cluster(boxes: torch.Tensor, count: int) -> tuple[list[list[float]], float]:
    """Sizes of anchors from boxes by k-means on IoU (Redmon and Farhadi 2017); the same boxes give the same sizes.

    It starts from boxes at equal steps of area and ends when no box changes its anchor.

    Args:
        boxes: (n, 4) corners in [0, 1] of the view.
        count: of anchors.

    Returns:
        `count` widths and heights, the smallest area first, and the mean over boxes of the IoU with the best anchor.

    Raises:
        UserError: there are fewer boxes of different sizes than anchors.
    """
    shapes = (boxes[:, 2:] - boxes[:, :2]).double()
    different: torch.Tensor = torch.unique(shapes, dim=0)
    if len(different) < count:
        raise UserError(
            f"`boxes.anchor_count`: {count} anchors need as many boxes of different sizes, train has {len(different)}: "
            f"-S boxes.anchor_count={len(different)}"
        )
    order = different.prod(1).argsort(stable=True)
    centres = different[order[(2 * torch.arange(count) + 1) * len(different) // (2 * count)]]
    nearest = _shape_iou(shapes, centres).argmax(1)
    for _ in range(CLUSTER_STEPS):
        means = [shapes[nearest == place].mean(0) if (nearest == place).any() else c for place, c in enumerate(centres)]
        centres = torch.stack(means)
        before, nearest = nearest, _shape_iou(shapes, centres).argmax(1)
        if torch.equal(before, nearest):
            break
    centres = centres[centres.prod(1).argsort(stable=True)]
    return centres.tolist(), float(_shape_iou(shapes, centres).max(1).values.mean())


def targets(boxes: torch.Tensor, labels: torch.Tensor, knobs: Knobs, shape: Shape, classes: int) -> torch.Tensor:
    """(H, W, k, 6): 1 object, 0 background, -1 ignored; offsets to the anchor; class.

    Args:
        boxes: (n, 4) corners in [0, 1] of the view.
        labels: (n,).
        knobs: the anchors, and `anchor_match` and `anchor_ignore` of `assign`.
        shape: (C, H, W) of the map.
        classes: not used.
    """
    height, width = shape[1:]
    places = everywhere(sizes(knobs), height, width)
    assigned = assign(boxes, places, knobs)
    codes = torch.zeros(len(places), 4)
    objects = assigned >= 0
    codes[objects] = encode(boxes[assigned[objects]], places[objects])
    return dense.target(assigned, codes, labels).reshape(height, width, -1, 6)


def loss(outputs: torch.Tensor, targets: torch.Tensor, knobs: Knobs) -> torch.Tensor:
    """J of `dense.loss`; boxes are compared by their offsets, or with giou by their corners."""
    places = everywhere(sizes(knobs), *outputs.shape[1:3]).to(outputs)
    prediction, truth = dense.split(outputs.flatten(1, 3)), targets.flatten(1, 3)
    codes = prediction.code, truth[..., 1:5]
    if knobs["box_loss"] == "giou":
        codes = offsets_to_corners(codes[0], places), offsets_to_corners(codes[1], places)
    return dense.loss(prediction, truth, codes, knobs)


def decode(outputs: torch.Tensor, knobs: Knobs) -> list[Detections]:
    """The boxes of each image before suppression, corners in [0, 1] of the view."""
    return dense.found(*places(outputs, knobs))


def places(outputs: torch.Tensor, knobs: Knobs) -> dense.Places:
    """What each anchor holds, as `dense.found` takes it."""
    anchors = everywhere(sizes(knobs), *outputs.shape[1:3]).to(outputs)
    prediction = dense.split(outputs.flatten(1, 3))
    return offsets_to_corners(prediction.code, anchors), prediction.object.sigmoid(), prediction.classes


def unassigned(boxes: torch.Tensor, knobs: Knobs, shape: Shape) -> int:
    """How many of an image's boxes (n, 4) it cannot hold: no anchor is left for them."""
    return dense.unassigned(len(boxes), [assign(boxes, everywhere(sizes(knobs), *shape[1:]), knobs)])


def everywhere(anchors: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Anchors (k, 2) at each cell of a map: (height * width * k, 4) centre and size."""
    centres = dense.cell_centres(height, width).repeat_interleave(len(anchors), dim=0)
    return torch.cat([centres, anchors.repeat(height * width, 1)], dim=1)


def assign(boxes: torch.Tensor, places: torch.Tensor, knobs: Knobs) -> torch.Tensor:
    """The box that each anchor is to predict, (P,), or dense.BACKGROUND or dense.IGNORED.

    An anchor takes the box that it overlaps most, at an IoU of `anchor_match` or more; from `anchor_ignore` on it is
    ignored. The anchor that overlaps a box most takes that box in any case, of several such boxes the largest. A box
    that lies between all anchors is no anchor's.

    Args:
        boxes: (n, 4) corners.
        places: (P, 4) centre and size.
        knobs: `anchor_match`, `anchor_ignore`.
    """
    if not len(boxes):
        return torch.full((len(places),), dense.BACKGROUND)
    iou: torch.Tensor = ops.box_iou(ops.box_convert(places, "cxcywh", "xyxy"), boxes)
    best, assigned = iou.max(1)
    assigned[best < knobs["anchor_match"]] = dense.IGNORED
    assigned[best < knobs["anchor_ignore"]] = dense.BACKGROUND
    most, favourites = iou.max(0)
    for box in ops.box_area(boxes).argsort(stable=True).tolist():  # the largest last
        if most[box] > 0:
            assigned[favourites[box]] = box
    return assigned


def encode(boxes: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Offsets (…, 4) of boxes (corners) to anchors (centre and size): shift by the anchor's size, log of growth."""
    centre_size = ops.box_convert(boxes, "xyxy", "cxcywh")
    shift = (centre_size[..., :2] - places[..., :2]) / places[..., 2:]
    return torch.cat([shift, (centre_size[..., 2:] / places[..., 2:]).log()], dim=-1)


def offsets_to_corners(offsets: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """The corners (…, 4) that `encode` made the offsets of."""
    centre = places[..., :2] + offsets[..., :2] * places[..., 2:]
    half = offsets[..., 2:].clamp(max=MOST_GROWTH).exp() * places[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def _shape_iou(shapes: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """IoU (n, k) of boxes of these widths and heights on a common centre."""
    common = torch.minimum(shapes[:, None], centres[None]).prod(2)
    iou: torch.Tensor = common / (shapes.prod(1)[:, None] + centres.prod(1)[None] - common)
    return iou
