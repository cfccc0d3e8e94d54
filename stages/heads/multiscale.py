"""`multiscale`: boxes from several maps, small ones from the finest; a point predicts the distances to its box's sides.

FCOS (Tian et al. 2019) on frozen features, with an object logit beside the classes as every head here has it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from stages.boxes import dense, ops
from stages.boxes.geometry import Detections

Knobs = Mapping[str, Any]
Shapes = Sequence[tuple[int, int, int]]


class Multiscale(nn.Module):
    """Maps (N, C, H, W), the finest first, to predictions (N, H, W, numbers), one for each map."""

    def __init__(self, shapes: Shapes, numbers: int, knobs: Knobs) -> None:
        super().__init__()
        self.narrow = nn.ModuleList(dense.narrow(shape[0], knobs) for shape in shapes)
        self.fusion = knobs["fusion"]
        self.towers = nn.ModuleList()
        for _ in shapes if knobs["towers"] == "separate" else shapes[:1]:
            self.towers.append(nn.Sequential(dense.tower(knobs), dense.Predictor(knobs["hidden"], 1, numbers)))

    def forward(self, maps: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        levels = [narrow(features) for narrow, features in zip(self.narrow, maps, strict=True)]
        if self.fusion:
            for fine in reversed(range(len(levels) - 1)):
                levels[fine] = levels[fine] + F.interpolate(levels[fine + 1], levels[fine].shape[2:])
        towers = [self.towers[level % len(self.towers)] for level in range(len(levels))]
        return tuple(tower(level).squeeze(3) for tower, level in zip(towers, levels, strict=True))


def build(shape: Shapes, classes: int, knobs: Knobs) -> nn.Module:
    """Maps to predictions (N, H, W, 5 + classes) of each; with `centreness` one number more, the last.

    Each map is narrowed to `hidden` channels; with `fusion` each coarser map is added to the finer one below it
    (Lin et al. 2017). `towers` are one for all maps (shared) or one for each (separate).
    """
    return Multiscale(shape, 5 + classes + knobs["centreness"], knobs)


def targets(
    boxes: torch.Tensor, labels: torch.Tensor, knobs: Knobs, shape: Shapes, classes: int
) -> tuple[torch.Tensor, ...]:
    """(H, W, 6) for each map: 1, the distances to left, top, right and bottom in cells, class; zeros without an object.

    Args:
        boxes: (n, 4) corners in [0, 1] of the view.
        labels: (n,).
        knobs: `level_cells` and `centre_radius` of `assign`.
        shape: (C, H, W) of each map, the finest first.
        classes: not used.
    """
    made = []
    for (_, height, width), assigned in zip(shape, assign(boxes, knobs, shape), strict=True):
        codes = torch.zeros(height * width, 4)
        objects = assigned >= 0
        codes[objects] = _distances(boxes[assigned[objects]], height, width, objects)
        made.append(dense.target(assigned, codes, labels).reshape(height, width, 6))
    return tuple(made)


def loss(outputs: Sequence[torch.Tensor], targets: Sequence[torch.Tensor], knobs: Knobs) -> torch.Tensor:
    """J of `dense.loss` over the places of all maps, and with `centreness` its cross-entropy at the objects.

    Boxes are compared by their distances in cells, or with giou by their corners.
    """
    truth = _flat(targets)
    prediction, centre = _apart(_flat(outputs), knobs)
    distances = [F.softplus(output[..., 1:5]) for output in outputs], [target[..., 1:5] for target in targets]
    if knobs["box_loss"] == "giou":
        distances = [corners(each) for each in distances[0]], [corners(each) for each in distances[1]]
    total = dense.loss(prediction, truth, (_flat(distances[0]), _flat(distances[1])), knobs)
    if knobs["centreness"]:
        objects = truth[..., 0] > 0
        quality = centreness(truth[..., 1:5][objects])
        total = total + F.binary_cross_entropy_with_logits(centre[objects], quality, reduction="sum") / len(truth)
    return total


def decode(outputs: Sequence[torch.Tensor], knobs: Knobs) -> list[Detections]:
    """The boxes of each image before suppression, corners in [0, 1] of the view; centreness lowers their scores."""
    return dense.found(*places(outputs, knobs))


def places(outputs: Sequence[torch.Tensor], knobs: Knobs) -> dense.Places:
    """What each point of each map holds, as `dense.found` takes it."""
    prediction, centre = _apart(_flat(outputs), knobs)
    boxes = _flat([corners(F.softplus(output[..., 1:5])) for output in outputs])
    sure = prediction.object.sigmoid()
    if knobs["centreness"]:
        sure = (sure * centre.sigmoid()).sqrt()
    return boxes, sure, prediction.classes


def unassigned(boxes: torch.Tensor, knobs: Knobs, shape: Shapes) -> int:
    """How many of an image's boxes (n, 4) it cannot hold: no point of their map is left for them."""
    return dense.unassigned(len(boxes), assign(boxes, knobs, shape))


def assign(boxes: torch.Tensor, knobs: Knobs, shape: Shapes) -> list[torch.Tensor]:
    """For each map the box that each point is to predict, (H * W,), or dense.BACKGROUND.

    A box belongs to the finest map on which its longer side is at most `level_cells` cells, else to the coarsest. There
    it takes the points inside it that are less than `centre_radius` cells from its centre, in x and in y; a point in
    several boxes takes the smallest.
    """
    if not len(boxes):
        return [torch.full((height * width,), dense.BACKGROUND) for _, height, width in shape]
    levels = _levels(boxes, knobs["level_cells"], shape)
    area = ops.box_area(boxes)
    found = []
    for level, (_, height, width) in enumerate(shape):
        points = dense.cell_centres(height, width)[:, None]  # (P, 1, 2)
        inside = ((points > boxes[:, :2]) & (points < boxes[:, 2:])).all(2)
        away = (points - (boxes[:, :2] + boxes[:, 2:]) / 2).abs() * torch.tensor([width, height])
        fits = inside & (away < knobs["centre_radius"]).all(2) & (levels == level)
        smallest, which = torch.where(fits, area, torch.inf).min(1)
        found.append(torch.where(smallest.isfinite(), which, dense.BACKGROUND))
    return found


def corners(distances: torch.Tensor) -> torch.Tensor:
    """Corners (N, H, W, 4) in [0, 1] of the view from distances (N, H, W, 4) in cells."""
    height, width = distances.shape[1:3]
    points = dense.cell_centres(height, width).to(distances).reshape(height, width, 2)
    cells = distances.new_tensor([width, height])
    return torch.cat([points - distances[..., :2] / cells, points + distances[..., 2:] / cells], dim=-1)


def centreness(distances: torch.Tensor) -> torch.Tensor:
    """1 in the middle of a box, 0 at its border (n,): eq. 3 of the paper, from distances (n, 4)."""
    across, down = distances[:, [0, 2]], distances[:, [1, 3]]
    return (across.amin(1) / across.amax(1) * down.amin(1) / down.amax(1)).sqrt()


def _levels(boxes: torch.Tensor, most: float, shape: Shapes) -> torch.Tensor:
    """(n,) the map that each box belongs to."""
    size = boxes[:, 2:] - boxes[:, :2]
    longer = [(size * torch.tensor([width, height])).amax(1) for _, height, width in shape[:-1]]
    return sum(((cells > most).long() for cells in longer), torch.zeros(len(boxes), dtype=torch.long))


def _distances(boxes: torch.Tensor, height: int, width: int, where: torch.Tensor) -> torch.Tensor:
    """Distances (n, 4) in cells from the points of a map that a mask names to the sides of their boxes (n, 4)."""
    points, cells = dense.cell_centres(height, width)[where], torch.tensor([width, height])
    return torch.cat([(points - boxes[:, :2]) * cells, (boxes[:, 2:] - points) * cells], dim=1)


def _flat(maps: Sequence[torch.Tensor]) -> torch.Tensor:
    """All places of all maps, (N, P, …), from (N, H, W, …) each."""
    return torch.cat([each.flatten(1, 2) for each in maps], dim=1)


def _apart(raw: torch.Tensor, knobs: Knobs) -> tuple[dense.Prediction, torch.Tensor]:
    """A prediction, and the logit of its centreness, empty without one."""
    last = raw.shape[-1] - knobs["centreness"]
    return dense.split(raw[..., :last]), raw[..., last:].squeeze(-1)
