"""`multiscale`: boxes from several maps, small boxes from the finest; a point predicts its distances to a box's sides.

This is FCOS (Tian et al. 2019) on frozen features, with an object logit beside the classes as in the other heads.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from stages.boxes import dense, ops
from stages.boxes.geometry import Detections
from stages.heads.options import MultiscaleOptions

Shapes = Sequence[tuple[int, int, int]]


class Multiscale(nn.Module):
    """Maps (N, C, H, W), the finest first, to predictions (N, H, W, numbers), one for each map."""

    def __init__(self, shapes: Shapes, numbers: int, options: MultiscaleOptions) -> None:
        super().__init__()
        self.narrow = nn.ModuleList(dense.narrow(shape[0], options) for shape in shapes)
        self.fusion = options.fusion
        self.towers = nn.ModuleList()
        for _ in shapes if options.towers == "separate" else shapes[:1]:
            self.towers.append(nn.Sequential(dense.tower(options), dense.PredictionLayer(options.hidden, 1, numbers)))

    def forward(self, maps: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        levels = [narrow(features) for narrow, features in zip(self.narrow, maps, strict=True)]
        if self.fusion:
            for fine in reversed(range(len(levels) - 1)):
                levels[fine] = levels[fine] + F.interpolate(levels[fine + 1], levels[fine].shape[2:])
        towers = [self.towers[level % len(self.towers)] for level in range(len(levels))]
        return tuple(tower(level).squeeze(3) for tower, level in zip(towers, levels, strict=True))


def build(shape: Shapes, classes: int, options: MultiscaleOptions) -> nn.Module:
    """Maps to predictions (N, H, W, 5 + classes), one tensor per map; `centreness` adds one more number at the end.

    Each map is narrowed to `hidden` channels. With `fusion` each coarser map is added to the next finer one (Lin et al.
    2017). `towers` is `shared` (one tower for all maps) or `separate` (one per map).
    """
    return Multiscale(shape, 5 + classes + options.centreness, options)


def targets(
    boxes: torch.Tensor, labels: torch.Tensor, options: MultiscaleOptions, *, shape: Shapes
) -> tuple[torch.Tensor, ...]:
    """(H, W, 6) for each map: 1, the distances to left, top, right and bottom in cells, class; zeros without an object.

    Args:
        boxes: (n, 4) corners in [0, 1] of the view.
        labels: (n,) the class of each box.
        options: `level_cells` and `centre_radius` of `assign`.
        shape: (C, H, W) of each map, the finest first.
    """
    levels = []
    for (_, height, width), assigned in zip(shape, assign(boxes, options, shape), strict=True):
        codes = torch.zeros(height * width, 4)
        objects = assigned >= 0
        codes[objects] = _distances(boxes[assigned[objects]], height, width, objects)
        levels.append(dense.target(assigned, codes, labels).reshape(height, width, 6))
    return tuple(levels)


def loss(outputs: Sequence[torch.Tensor], targets: Sequence[torch.Tensor], options: MultiscaleOptions) -> torch.Tensor:
    """J of `dense.loss` over the points of all maps, and with `centreness` its cross-entropy at the objects.

    Boxes are compared by their distances in cells, or with giou by their corners.

    Args:
        outputs: (N, H, W, 5 + classes + centreness) of each map.
        targets: (N, H, W, 6) of each map.
        options: `centreness`, and what `dense.loss` reads.
    """
    truth = _flat(targets)
    prediction, centre = _split(_flat(outputs), options)
    distances = [F.softplus(output[..., 1:5]) for output in outputs], [target[..., 1:5] for target in targets]
    if options.box_loss == "giou":
        distances = [corners(level) for level in distances[0]], [corners(level) for level in distances[1]]
    total = dense.loss(prediction, truth, boxes=(_flat(distances[0]), _flat(distances[1])), options=options)
    if options.centreness:
        objects = truth[..., 0] > 0
        quality = centreness(truth[..., 1:5][objects])
        total = total + F.binary_cross_entropy_with_logits(centre[objects], quality, reduction="sum") / len(truth)
    return total


def decode(outputs: Sequence[torch.Tensor], options: MultiscaleOptions) -> list[Detections]:
    """The boxes of each image before suppression, corners in [0, 1] of the view; centreness lowers their scores."""
    return dense.detections(candidates(outputs, options))


def candidates(outputs: Sequence[torch.Tensor], options: MultiscaleOptions) -> dense.Candidates:
    """The decoded prediction of every point of every map."""
    prediction, centre = _split(_flat(outputs), options)
    boxes = _flat([corners(F.softplus(output[..., 1:5])) for output in outputs])
    objects = prediction.object.sigmoid()
    if options.centreness:
        objects = (objects * centre.sigmoid()).sqrt()
    return dense.Candidates(boxes, objects, prediction.classes)


def unassigned(boxes: torch.Tensor, options: MultiscaleOptions, shape: Shapes) -> int:
    """How many of an image's boxes (n, 4) no point of their map can predict, because smaller boxes took the points."""
    return dense.unassigned(len(boxes), assign(boxes, options, shape))


def assign(boxes: torch.Tensor, options: MultiscaleOptions, shape: Shapes) -> list[torch.Tensor]:
    """For each map the box that each point should predict, (H * W,), or dense.BACKGROUND.

    A box belongs to the finest map on which its longer side has at most `level_cells` cells, otherwise to the coarsest.
    On that map it takes the points inside it that are less than `centre_radius` cells from its centre, in x and in y. A
    point in several boxes takes the smallest one.

    Args:
        boxes: (n, 4) corners in [0, 1] of the view.
        options: `level_cells` and `centre_radius`.
        shape: (C, H, W) of each map, the finest first.
    """
    if not len(boxes):
        return [torch.full((height * width,), dense.BACKGROUND) for _, height, width in shape]
    levels = _levels(boxes, options.level_cells, shape)
    area = ops.box_area(boxes)
    assigned = []
    for level, (_, height, width) in enumerate(shape):
        points = dense.cell_centres(height, width)[:, None]  # (P, 1, 2)
        inside = ((points > boxes[:, :2]) & (points < boxes[:, 2:])).all(2)
        distance = (points - (boxes[:, :2] + boxes[:, 2:]) / 2).abs() * torch.tensor([width, height])
        fits = inside & (distance < options.centre_radius).all(2) & (levels == level)
        smallest_area, smallest = torch.where(fits, area, torch.inf).min(1)
        assigned.append(torch.where(smallest_area.isfinite(), smallest, dense.BACKGROUND))
    return assigned


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


def _levels(boxes: torch.Tensor, level_cells: float, shape: Shapes) -> torch.Tensor:
    """(n,) the map that each box belongs to."""
    size = boxes[:, 2:] - boxes[:, :2]
    longer = [(size * torch.tensor([width, height])).amax(1) for _, height, width in shape[:-1]]
    return sum(((cells > level_cells).long() for cells in longer), torch.zeros(len(boxes), dtype=torch.long))


def _distances(boxes: torch.Tensor, height: int, width: int, mask: torch.Tensor) -> torch.Tensor:
    """Distances (n, 4) in cells from those points of a map that are in a mask (H * W,) to the sides of their boxes."""
    points, cells = dense.cell_centres(height, width)[mask], torch.tensor([width, height])
    return torch.cat([(points - boxes[:, :2]) * cells, (boxes[:, 2:] - points) * cells], dim=1)


def _flat(maps: Sequence[torch.Tensor]) -> torch.Tensor:
    """All points of all maps, (N, P, …), from (N, H, W, …) each."""
    return torch.cat([level.flatten(1, 2) for level in maps], dim=1)


def _split(raw: torch.Tensor, options: MultiscaleOptions) -> tuple[dense.Prediction, torch.Tensor]:
    """The prediction of raw outputs (N, P, …), and the logits of centreness (N, P), or (N, P, 0) without it."""
    last = raw.shape[-1] - options.centreness
    return dense.split(raw[..., :last]), raw[..., last:].squeeze(-1)
