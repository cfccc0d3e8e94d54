"""`multiscale`: boxes from several maps, small boxes from the finest, and a second look at each of them.

In the first stage a point predicts its distances to a box's sides. Which point learns which box is as in FCOS (Tian et
al. 2019). As in generalised focal loss (GFL, Li et al. 2020), a distance is a distribution over bins, and a score says
how well the box fits. An object logit stands beside the classes, as in the other heads. In the second stage the best of
these boxes are refined (`stages.boxes.refinement`).
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from stages.boxes import dense, ops, refinement
from stages.boxes.distributions import BINS, distribution_loss, expectation
from stages.boxes.geometry import Detections
from stages.boxes.losses import OVERLAP
from stages.boxes.options import DenseOptions
from stages.heads.options import MultiscaleOptions

LEVEL_CELLS = 8.0  # the longest side of a box on a map, in its cells; the coarsest map takes boxes of all sizes
CENTRE_RADIUS = 1.5  # how far from the centre of a box its points lie at most, in cells (FCOS's centre sampling)
SIDES_WEIGHT = 0.125  # of the distributions of the sides, for a weight of 1 of the box (GFL: 0.25 to 2)
CODE = 4 * BINS + 1  # the numbers that code a box: its distributions and its quality
PROPOSALS = 3  # boxes of an image that are refined, for each object that an image of train has at most,
FEWEST_PROPOSALS, MOST_PROPOSALS = 96, 300  # within these limits
IN_SHADOW = 0.3  # by which the score of a point counts for that if one of its eight neighbours has a higher one
Shapes = Sequence[tuple[int, int, int]]


class Multiscale(nn.Module):
    """Maps (N, C, H, W), the finest first, to predictions of both stages; see `build`."""

    def __init__(self, shapes: Shapes, classes: int, options: MultiscaleOptions) -> None:
        super().__init__()
        self.options = options
        self.narrow = nn.ModuleList(dense.narrow(shape[0], options) for shape in shapes)
        self.surroundings = dense.tower(options)
        self.scene = nn.Linear(options.hidden, options.hidden)
        self.tower = nn.Sequential(dense.tower(options), dense.PredictionLayer(options.hidden, 1, 1 + CODE + classes))
        self.refine = refinement.Refinement(options.hidden, classes, options)

    def forward(self, maps: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        levels = [narrow(features) for narrow, features in zip(self.narrow, maps, strict=True)]
        levels[-1] = levels[-1] + self.surroundings(levels[-1])
        levels[-1] = levels[-1] + self.scene(levels[-1].mean((2, 3)))[..., None, None]
        for fine in reversed(range(len(levels) - 1)):
            levels[fine] = levels[fine] + F.interpolate(levels[fine + 1], levels[fine].shape[2:])
        points = tuple(self.tower(level).squeeze(3) for level in levels)
        return *points, self.refine(levels[0], propose(points, self.options).boxes)


def build(shape: Shapes, classes: int, options: MultiscaleOptions) -> nn.Module:
    """Maps to predictions (N, H, W, 1 + CODE + classes), one tensor per map, and then to those of the second stage.

    Each map is narrowed to `hidden` channels. To the coarsest one, what surrounds each point and the mean of the map
    are added. Then each coarser map is added to the next finer one (Lin et al. 2017), and one tower goes over all of
    them. The second stage looks at the finest map and gives (N, K, 1 + refinement.CODE + classes) for the K boxes of
    `propose`.
    """
    return Multiscale(shape, classes, options)


def prepare(boxes: Sequence[torch.Tensor], options: MultiscaleOptions) -> dict[str, Any]:
    """What is learned before the head is built: `proposals`.

    Args:
        boxes: (n, 4) of each image of train.
        options: not used.
    """
    wanted = PROPOSALS * max(map(len, boxes), default=0)
    return {"proposals": min(max(wanted, FEWEST_PROPOSALS), MOST_PROPOSALS)}


def targets(
    boxes: torch.Tensor, labels: torch.Tensor, options: DenseOptions, *, shape: Shapes
) -> tuple[torch.Tensor, ...]:
    """(H, W, 6) for each map: 1, the distances to left, top, right and bottom in cells, class; zeros without an object.

    Args:
        boxes: (n, 4) corners in [0, 1] of the view.
        labels: (n,) the class of each box.
        options: not used.
        shape: (C, H, W) of each map, the finest first.
    """
    levels = []
    for (_, height, width), assigned in zip(shape, assign(boxes, shape), strict=True):
        codes = torch.zeros(height * width, 4)
        objects = assigned >= 0
        codes[objects] = _distances(boxes[assigned[objects]], height, width, objects)
        levels.append(dense.target(assigned, codes, labels).reshape(height, width, 6))
    return tuple(levels)


def loss(outputs: Sequence[torch.Tensor], targets: Sequence[torch.Tensor], options: MultiscaleOptions) -> torch.Tensor:
    """The sum of the losses of both stages, `first_stage_loss` and `refinement.loss`.

    Args:
        outputs: of both stages, see `build`.
        targets: (N, H, W, 6) of each map.
        options: `proposals`, and what `dense.loss` reads.
    """
    *points, refined = outputs
    truth = _flat(targets)
    proposed, true_boxes = propose(points, options).boxes, _flat([corners(level[..., 1:5]) for level in targets])
    learned = [
        refinement.targets(boxes, true[target[:, 0] > 0], target[target[:, 0] > 0, 5])
        for boxes, true, target in zip(proposed, true_boxes, truth, strict=True)
    ]
    return first_stage_loss(points, truth, options) + refinement.loss(refined, proposed, torch.stack(learned), options)


def first_stage_loss(outputs: Sequence[torch.Tensor], truth: torch.Tensor, options: DenseOptions) -> torch.Tensor:
    """J of `dense.loss` over the points of all maps, and at objects the losses of the distributions and the quality.

    Boxes are compared by their distances in cells, or with giou and ciou as boxes around their point. The quality is
    trained to be the IoU that the predicted box has now, by cross-entropy.

    Args:
        outputs: (N, H, W, 1 + CODE + classes) of each map.
        truth: (N, P, 6) of the points of all maps.
        options: what `dense.loss` reads.
    """
    prediction = dense.split(_flat(outputs), CODE)
    objects = truth[..., 0] > 0
    sides, quality = _sides_and_quality(prediction.code[objects])
    cells = _flat([torch.full_like(level[..., :1], cells) for level, cells in _with_bins(outputs)])[objects]
    distances, true_distances = cells * expectation(sides), truth[objects][:, 1:5]
    boxes = distances, true_distances
    if options.box_loss in OVERLAP:
        boxes = _around(distances), _around(true_distances)
    parts = (
        options.box_weight * SIDES_WEIGHT * distribution_loss(sides, true_distances / cells).mean(1).sum(),
        F.binary_cross_entropy_with_logits(quality, iou(distances, true_distances).detach(), reduction="sum"),
    )
    return dense.loss(prediction, truth, boxes=boxes, options=options) + torch.stack(parts).sum() / len(truth)


def decode(outputs: Sequence[torch.Tensor], options: MultiscaleOptions) -> list[Detections]:
    """The boxes of each image before suppression, corners in [0, 1] of the view."""
    return dense.detections(candidates(outputs, options))


def candidates(outputs: Sequence[torch.Tensor], options: MultiscaleOptions) -> dense.Candidates:
    """The box of every point of every map. A score is the geometric mean of what both stages say.

    Points that are not among those of `propose` keep the box of the first stage, with the score 0.
    """
    *points, refined = outputs
    every, proposed = first_stage(points), propose(points, options)
    second, places = refinement.candidates(refined, proposed.boxes), proposed.points[..., None]
    scores = (every.objects.gather(1, proposed.points) * second.objects).sqrt()
    return dense.Candidates(
        every.boxes.scatter(1, places.expand_as(second.boxes), second.boxes),
        torch.zeros_like(every.objects).scatter(1, proposed.points, scores),
        every.classes.scatter(1, places.expand_as(second.classes), second.classes),
    )


def first_stage(points: Sequence[torch.Tensor]) -> dense.Candidates:
    """The decoded prediction of every point of every map; a score is the geometric mean of object and quality.

    Args:
        points: (N, H, W, 1 + CODE + classes) of each map.
    """
    boxes, objects, classes = [], [], []
    for level, cells in _with_bins(points):
        prediction = dense.split(level, CODE)
        sides, quality = _sides_and_quality(prediction.code)
        boxes.append(corners(cells * expectation(sides)))
        objects.append(dense.mean_probability(prediction.object, quality))
        classes.append(prediction.classes)
    return dense.Candidates(_flat(boxes), _flat(objects), _flat(classes))


class Proposals(NamedTuple):
    """What the second stage looks at, of N images.

    Attributes:
        points: (N, K) int64, of all maps together.
        boxes: (N, K, 4) corners, cut at the border of the view.
    """

    points: torch.Tensor
    boxes: torch.Tensor


@torch.no_grad()
def propose(points: Sequence[torch.Tensor], options: MultiscaleOptions) -> Proposals:
    """The boxes of the first stage with the highest scores.

    Several points find the same object, and their boxes help to place it; but with many objects in an image, the points
    of some would take all places, so that points in the shadow of a neighbour come later.

    Args:
        points: (N, H, W, 1 + CODE + classes) of each map.
        options: `proposals`, how many.
    """
    every = first_stage([level.float() for level in points])
    sizes = [level.shape[1:3] for level in points]
    maps = torch.split(every.objects, [height * width for height, width in sizes], 1)
    peaks = [
        scores == F.max_pool2d(scores.reshape(-1, *size), 3, 1, 1).flatten(1)
        for scores, size in zip(maps, sizes, strict=True)
    ]
    ranked = torch.where(torch.cat(peaks, 1), every.objects, IN_SHADOW * every.objects)
    best = ranked.topk(min(options.proposals, ranked.shape[1])).indices
    return Proposals(best, every.boxes.gather(1, best[..., None].expand(-1, -1, 4)).clamp(0, 1))


def unassigned(boxes: torch.Tensor, options: DenseOptions, shape: Shapes) -> int:
    """How many of an image's boxes (n, 4) no point of their map can predict, because smaller boxes took the points."""
    return dense.unassigned(len(boxes), assign(boxes, shape))


def assign(boxes: torch.Tensor, shape: Shapes) -> list[torch.Tensor]:
    """For each map the box that each point should predict, (H * W,), or dense.BACKGROUND.

    A box belongs to the finest map on which its longer side has at most LEVEL_CELLS cells, otherwise to the coarsest.
    On that map it takes the points inside it that are less than CENTRE_RADIUS cells from its centre, in x and in y. A
    point in several boxes takes the smallest one.

    Args:
        boxes: (n, 4) corners in [0, 1] of the view.
        shape: (C, H, W) of each map, the finest first.
    """
    if not len(boxes):
        return [torch.full((height * width,), dense.BACKGROUND) for _, height, width in shape]
    levels = _levels(boxes, shape)
    area = ops.box_area(boxes)
    assigned = []
    for level, (_, height, width) in enumerate(shape):
        points = dense.cell_centres(height, width)[:, None]  # (P, 1, 2)
        inside = ((points > boxes[:, :2]) & (points < boxes[:, 2:])).all(2)
        distance = (points - (boxes[:, :2] + boxes[:, 2:]) / 2).abs() * torch.tensor([width, height])
        fits = inside & (distance < CENTRE_RADIUS).all(2) & (levels == level)
        smallest_area, smallest = torch.where(fits, area, torch.inf).min(1)
        assigned.append(torch.where(smallest_area.isfinite(), smallest, dense.BACKGROUND))
    return assigned


def corners(distances: torch.Tensor) -> torch.Tensor:
    """Corners (N, H, W, 4) in [0, 1] of the view from distances (N, H, W, 4) in cells."""
    height, width = distances.shape[1:3]
    points = dense.cell_centres(height, width).to(distances).reshape(height, width, 2)
    cells = distances.new_tensor([width, height])
    return torch.cat([points - distances[..., :2] / cells, points + distances[..., 2:] / cells], dim=-1)


def bin_cells(sizes: Sequence[Sequence[int]]) -> list[float]:
    """How wide a bin is on each map, in cells: BINS - 1 of them are as long as the longest side that the map takes.

    Args:
        sizes: height and width of each map, the finest first.
    """
    longest = [*(LEVEL_CELLS for _ in sizes[:-1]), max(sizes[-1])]
    return [cells / (BINS - 1) for cells in longest]


def iou(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """The IoU (n,) of two boxes around the same point, from its distances (n, 4) to the sides of each."""
    common = _area(torch.minimum(first, second))
    return common / (_area(first) + _area(second) - common)


def _area(distances: torch.Tensor) -> torch.Tensor:
    return (distances[..., 0] + distances[..., 2]) * (distances[..., 1] + distances[..., 3])


def _around(distances: torch.Tensor) -> torch.Tensor:
    """Corners (n, 4) of boxes around the point 0."""
    return torch.cat([-distances[:, :2], distances[:, 2:]], dim=1)


def _with_bins(outputs: Sequence[torch.Tensor]) -> Iterator[tuple[torch.Tensor, float]]:
    return zip(outputs, bin_cells([level.shape[1:3] for level in outputs]), strict=True)


def _levels(boxes: torch.Tensor, shape: Shapes) -> torch.Tensor:
    """(n,) the map that each box belongs to."""
    size = boxes[:, 2:] - boxes[:, :2]
    longer = [(size * torch.tensor([width, height])).amax(1) for _, height, width in shape[:-1]]
    return sum(((cells > LEVEL_CELLS).long() for cells in longer), torch.zeros(len(boxes), dtype=torch.long))


def _distances(boxes: torch.Tensor, height: int, width: int, mask: torch.Tensor) -> torch.Tensor:
    """Distances (n, 4) in cells from those points of a map that are in a mask (H * W,) to the sides of their boxes."""
    points, cells = dense.cell_centres(height, width)[mask], torch.tensor([width, height])
    return torch.cat([(points - boxes[:, :2]) * cells, (boxes[:, 2:] - points) * cells], dim=1)


def _flat(maps: Sequence[torch.Tensor]) -> torch.Tensor:
    """All points of all maps, (N, P, …), from (N, H, W, …) each."""
    return torch.cat([level.flatten(1, 2) for level in maps], dim=1)


def _sides_and_quality(code: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits of the four distances (…, 4, BINS) and of the quality (…), from codes (…, CODE)."""
    return code[..., :-1].reshape(*code.shape[:-1], 4, BINS), code[..., -1]
