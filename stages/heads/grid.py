"""`grid`: each cell of a map predicts one box: whether there is one, its centre in the cell, its size and its class."""

import torch
from torch import nn

from stages.boxes import dense, ops
from stages.boxes.geometry import Detections, first_occurrences
from stages.boxes.losses import OVERLAP
from stages.boxes.options import DenseOptions

Shape = tuple[int, int, int]


class Grid(nn.Module):
    """(N, C, H, W) to (N, H, W, 5 + classes)."""

    def __init__(self, inputs: int, classes: int, options: DenseOptions) -> None:
        super().__init__()
        self.body = nn.Sequential(dense.narrow(inputs, options), dense.tower(options))
        self.predict = dense.PredictionLayer(options.hidden, 1, 5 + classes)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        predictions: torch.Tensor = self.predict(self.body(features)).squeeze(3)
        return predictions


def build(shape: Shape, classes: int, options: DenseOptions) -> nn.Module:
    """A map (N, C, H, W) to (N, H, W, 5 + classes): 1 x 1 to `hidden` channels, `tower_depth` of 3 x 3, 1 x 1."""
    return Grid(shape[0], classes, options)


def targets(boxes: torch.Tensor, labels: torch.Tensor, options: DenseOptions, *, shape: Shape) -> torch.Tensor:
    """(H, W, 6): 1, centre relative to the cell, size relative to the view, class; zeros in cells without a centre.

    Args:
        boxes: (n, 4) corners in [0, 1] of the view.
        labels: (n,) the class of each box.
        options: not used.
        shape: (C, H, W) of the map.
    """
    height, width = shape[1:]
    codes = torch.zeros(height * width, 4)
    assigned = _assign(boxes, height, width)
    cells = (assigned >= 0).nonzero()[:, 0]
    centre_size = ops.box_convert(boxes[assigned[cells]], "xyxy", "cxcywh")
    corner = torch.stack([cells % width, cells // width], dim=1)
    codes[cells, :2] = centre_size[:, :2] * torch.tensor([width, height]) - corner
    codes[cells, 2:] = centre_size[:, 2:]
    return dense.target(assigned, codes, labels).reshape(height, width, 6)


def loss(outputs: torch.Tensor, targets: torch.Tensor, options: DenseOptions) -> torch.Tensor:
    """J of `dense.loss`; boxes are compared as coded, or with giou and ciou by their corners.

    Args:
        outputs: (N, H, W, 5 + classes).
        targets: (N, H, W, 6).
        options: what `dense.loss` reads.
    """
    codes = outputs[..., 1:5].sigmoid(), targets[..., 1:5]
    if options.box_loss in OVERLAP:
        codes = corners(codes[0]), corners(codes[1])
    objects = targets[..., 0] > 0
    boxes = codes[0][objects], codes[1][objects]
    return dense.loss(dense.split(outputs.flatten(1, 2)), targets.flatten(1, 2), boxes=boxes, options=options)


def decode(outputs: torch.Tensor, options: DenseOptions) -> list[Detections]:
    """The boxes of each image before suppression, corners in [0, 1] of the view."""
    return dense.detections(candidates(outputs, options))


def candidates(outputs: torch.Tensor, options: DenseOptions) -> dense.Candidates:
    """The decoded prediction of every cell."""
    prediction = dense.split(outputs.flatten(1, 2))
    boxes = corners(outputs[..., 1:5].sigmoid()).flatten(1, 2)
    return dense.Candidates(boxes, prediction.object.sigmoid(), prediction.classes)


def corners(codes: torch.Tensor) -> torch.Tensor:
    """Corners (N, H, W, 4) in [0, 1] of the view from codes (N, H, W, 4)."""
    height, width = codes.shape[1:3]
    cell = codes.new_tensor([width, height])
    corner = dense.cell_centres(height, width).to(codes).reshape(height, width, 2) - 0.5 / cell
    centre = corner + codes[..., :2] / cell
    half = codes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def unassigned(boxes: torch.Tensor, options: DenseOptions, shape: Shape) -> int:
    """How many of an image's boxes (n, 4) no cell can predict, because the centre of a larger box is in their cell."""
    return dense.unassigned(len(boxes), [_assign(boxes, *shape[1:])])


def _assign(boxes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The largest box with its centre in each cell (the first of equally large ones), or BACKGROUND: (H * W,)."""
    order = ops.box_area(boxes).argsort(descending=True, stable=True)
    centre = (boxes[order, :2] + boxes[order, 2:]) / 2
    column = (centre[:, 0] * width).long().clamp(0, width - 1)
    row = (centre[:, 1] * height).long().clamp(0, height - 1)
    cells = row * width + column
    assigned = torch.full((height * width,), dense.BACKGROUND)
    first = first_occurrences(cells)
    assigned[cells[first]] = order[first]
    return assigned
