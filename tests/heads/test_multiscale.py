"""The head on a pyramid: which point of which map predicts which box, and back."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from stages.boxes import dense, ops, refinement
from stages.boxes.distributions import BINS, distribution_loss, expectation
from stages.heads import multiscale
from tests.boxes.distributions import logits_of
from tests.boxes.drawing import boxes_at_random, plain_iou
from tests.boxes.options import options_of

OPTIONS = options_of("multiscale")

CLASSES = 4
SHAPES = [(6, 32, 24), (7, 16, 12), (8, 8, 6)]


def drawn(seed: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return boxes_at_random(count, generator), torch.randint(CLASSES, (count,), generator=generator)


def as_outputs(targets: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Raw outputs of an image that say exactly what targets (H, W, 6) of each map say, and are sure of it.

    The second stage moves no box.
    """
    points = [
        torch.cat(
            [
                40 * level[..., :1] - 20,
                logits_of(level[..., 1:5] / bin_cells).flatten(-2),
                torch.full_like(level[..., :1], 20),
                20 * F.one_hot(level[..., 5].long(), CLASSES),
            ],
            dim=-1,
        )[None]
        for level, bin_cells in zip(targets, multiscale.bin_cells([level.shape[:2] for level in targets]), strict=True)
    ]
    flat = torch.cat([level.flatten(0, 1) for level in targets])[multiscale.propose(points, OPTIONS).points[0]]
    sure = [40 * flat[:, :1] - 20, torch.zeros(len(flat), 4), torch.full((len(flat), 1), 20.0)]
    return [*points, torch.cat([*sure, 20 * F.one_hot(flat[:, 5].long(), CLASSES)], 1)[None]]


def shifted(outputs: Sequence[torch.Tensor], number: int, shift: float) -> list[torch.Tensor]:
    """Outputs with one of the numbers of the first stage, by its position, shifted at every point."""
    *points, refined = outputs
    return [*(level + shift * (torch.arange(level.shape[-1]) == number) for level in points), refined]


def test_layers() -> None:
    module = multiscale.build(SHAPES, CLASSES, OPTIONS)
    outputs = module([torch.zeros(2, *shape) for shape in SHAPES])
    numbers = 1 + 4 * BINS + 1 + CLASSES
    *points, refined = outputs
    assert [tuple(level.shape) for level in points] == [(2, h, w, numbers) for _, h, w in SHAPES]
    assert refined.shape == (2, OPTIONS.proposals, 1 + refinement.CODE + CLASSES)
    targets = multiscale.targets(*drawn(0, 3), OPTIONS, shape=SHAPES)
    batch = [target.expand(2, *target.shape) for target in targets]
    multiscale.loss(outputs, batch, OPTIONS).backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None for parameter in module.parameters())
    found = min(dense.MOST, OPTIONS.proposals * CLASSES)  # no class of a proposal is impossible before training
    assert [len(detections.boxes) for detections in multiscale.decode(outputs, OPTIONS)] == [found] * 2


def test_the_coarse_map_reaches_the_fine_one_and_not_the_other_way() -> None:
    module = multiscale.build(SHAPES, CLASSES, OPTIONS).eval()
    maps = [torch.randn(1, *shape, generator=torch.Generator().manual_seed(0)) for shape in SHAPES]
    for changed, same in ((2, [False, False, False]), (0, [False, True, True])):
        others = [level + (number == changed) for number, level in enumerate(maps)]
        assert [torch.equal(a, b) for a, b in zip(module(maps)[:-1], module(others)[:-1], strict=True)] == same


def test_every_point_knows_the_mean_of_the_coarsest_map() -> None:
    module = multiscale.build(SHAPES, CLASSES, options_of("multiscale", hidden=128)).eval()
    maps = [torch.randn(1, *shape, generator=torch.Generator().manual_seed(0)) for shape in SHAPES]
    corner = [level.clone() for level in maps]
    corner[-1][..., 0, 0] += 5
    assert all((a != b).any(-1).all() for a, b in zip(module(maps)[:-1], module(corner)[:-1], strict=True))


def test_a_box_goes_to_the_map_for_its_size() -> None:
    """Up to 8 cells a side: a quarter of the height on the first map, half of it on the second."""
    boxes = torch.tensor([[0.1, 0.1, 0.2, 0.34], [0.3, 0.3, 0.5, 0.78], [0.05, 0.05, 0.95, 0.95]])
    for position in range(3):
        actual = multiscale.assign(boxes[[position]], SHAPES)
        assert [bool((level >= 0).any()) for level in actual] == [level == position for level in range(3)]


def test_the_bins_of_a_map_hold_its_longest_distance() -> None:
    assert multiscale.bin_cells([(32, 24), (16, 12), (8, 6)]) == [0.5, 0.5, 0.5]
    assert multiscale.bin_cells([(80, 80), (20, 20)]) == [0.5, 1.25]


@settings(max_examples=60)
@given(seed=st.integers(0, 10_000), count=st.integers(0, 10))
def test_points_are_assigned_as_in_plain_loops(seed: int, count: int) -> None:
    radius, cells = multiscale.CENTRE_RADIUS, multiscale.LEVEL_CELLS
    boxes = drawn(seed, count)[0].double()
    actual = multiscale.assign(boxes, SHAPES)
    for level, (_, height, width) in enumerate(SHAPES):
        for point in range(height * width):
            x, y = (point % width + 0.5) / width, (point // width + 0.5) / height
            best, area = dense.BACKGROUND, float("inf")
            for position, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
                longer = [max((x2 - x1) * w, (y2 - y1) * h) for _, h, w in SHAPES]
                mine = next((number for number in range(2) if longer[number] <= cells), 2)
                near = abs(x - (x1 + x2) / 2) * width < radius and abs(y - (y1 + y2) / 2) * height < radius
                size = (x2 - x1) * (y2 - y1)
                if mine == level and x1 < x < x2 and y1 < y < y2 and near and size < area:
                    best, area = position, size
            assert actual[level][point] == best


@settings(max_examples=60)
@given(seed=st.integers(0, 10_000), count=st.integers(0, 10))
def test_encoding_then_decoding_gives_the_boxes_back(seed: int, count: int) -> None:
    boxes, labels = drawn(seed, count)
    targets = multiscale.targets(boxes, labels, OPTIONS, shape=SHAPES)
    (detections,) = multiscale.decode(as_outputs(targets), OPTIONS)
    detections = detections.pick(detections.scores > 0.5)
    near = (boxes[:, None] - detections.boxes[None]).abs().amax(2) < 1e-4
    near &= labels[:, None] == detections.labels[None]
    assert near.any(0).all() and int(near.any(1).sum()) == count - multiscale.unassigned(boxes, OPTIONS, SHAPES)


def test_a_box_between_the_points_is_counted() -> None:
    tiny = torch.tensor([[0.001, 0.001, 0.002, 0.002], [0.1, 0.1, 0.9, 0.9]])
    assert multiscale.unassigned(tiny, OPTIONS, SHAPES) == 1


@pytest.mark.parametrize("box_loss", ["smooth_l1", "giou"])
def test_the_loss_of_the_first_stage_is_the_sum_over_points(box_loss: str) -> None:
    """One point after the other, as the docstrings say."""
    options = options_of("multiscale", box_loss=box_loss)
    boxes, labels = drawn(3, 4)
    targets = multiscale.targets(boxes, labels, options, shape=SHAPES)
    generator = torch.Generator().manual_seed(0)
    outputs = [torch.randn(1, h, w, 2 + 4 * BINS + CLASSES, generator=generator) for _, h, w in SHAPES]
    total = torch.zeros(())
    for level, target, cells in zip(outputs, targets, multiscale.bin_cells([s[1:] for s in SHAPES]), strict=True):
        for raw, truth in zip(level.flatten(0, 2), target.flatten(0, 1), strict=True):
            total += F.binary_cross_entropy_with_logits(raw[0], truth[0])
            if truth[0] == 0:
                continue
            sides, distances = raw[1 : 1 + 4 * BINS].reshape(4, BINS), truth[1:5]
            predicted = cells * expectation(sides)
            corners = [torch.cat([-sides_[:2], sides_[2:]]) for sides_ in (predicted, distances)]
            overlap = torch.tensor(plain_iou(corners[0].tolist(), corners[1].tolist()))
            if box_loss == "giou":
                total += 2 * ops.generalized_box_iou_loss(*corners)
            else:
                total += 2 * F.smooth_l1_loss(predicted, distances)
            total += 2 * multiscale.SIDES_WEIGHT * distribution_loss(sides, distances / cells).mean()
            total += F.binary_cross_entropy_with_logits(raw[1 + 4 * BINS], overlap)
            total += 3 * F.cross_entropy(raw[2 + 4 * BINS :], truth[5].long())
    truth = torch.cat([target.flatten(0, 1) for target in targets])[None]
    actual = multiscale.first_stage_loss(outputs, truth, options)
    torch.testing.assert_close(actual, total, rtol=1e-4, atol=1e-4)


def test_without_objects_the_loss_is_finite_and_so_is_its_gradient() -> None:
    targets = multiscale.targets(*drawn(0, 0), OPTIONS, shape=SHAPES)
    outputs = [output.requires_grad_() for output in as_outputs(targets)]
    multiscale.loss(outputs, [target[None] for target in targets], OPTIONS).backward()  # type: ignore[no-untyped-call]
    assert all(output.grad is not None and output.grad.isfinite().all() for output in outputs)


@given(seed=st.integers(0, 1000))
def test_the_iou_around_a_point_is_that_of_the_corners(seed: int) -> None:
    first, second = 0.1 + torch.rand(2, 5, 4, generator=torch.Generator().manual_seed(seed))
    corners = [torch.cat([-sides[:, :2], sides[:, 2:]], 1).tolist() for sides in (first, second)]
    expected = [plain_iou(a, b) for a, b in zip(*corners, strict=True)]
    assert multiscale.iou(first, second).tolist() == pytest.approx(expected, abs=1e-5)


def test_the_quality_learns_the_iou_and_lowers_scores() -> None:
    targets = multiscale.targets(torch.tensor([[0.1, 0.1, 0.9, 0.9]]), torch.tensor([0]), OPTIONS, shape=SHAPES)
    batch, perfect, quality = [target[None] for target in targets], as_outputs(targets), 1 + 4 * BINS
    losses = [float(multiscale.loss(shifted(perfect, quality, shift), batch, OPTIONS)) for shift in (0, -18, -22)]
    assert losses == sorted(losses)  # the boxes fit, so that the surest is right
    high, low = (multiscale.first_stage(shifted(perfect, quality, shift)[:-1]).objects for shift in (0, -29))
    assert low.max() < 0.02 < 0.98 < high.max()


def raw_points(scores: torch.Tensor) -> list[torch.Tensor]:
    """Raw outputs of the first stage (1, H, W, numbers) for maps of SHAPES, with these scores (P,) of the points."""
    logits = (scores**2).logit(eps=1e-6)[:, None]  # the quality is sure
    numbers = torch.cat([logits, torch.zeros(len(scores), 4 * BINS), torch.full_like(logits, 20)], 1)
    numbers = torch.cat([numbers, torch.zeros(len(scores), CLASSES)], 1)
    maps = torch.split(numbers, [h * w for _, h, w in SHAPES])  # type: ignore[no-untyped-call]
    return [level.reshape(1, h, w, -1) for level, (_, h, w) in zip(maps, SHAPES, strict=True)]


def test_points_in_the_shadow_of_a_neighbour_are_proposed_later() -> None:
    """On the first map (24 columns): a point, its neighbour, and one far away with a score between theirs times 0.3."""
    scores = torch.full((sum(h * w for _, h, w in SHAPES),), 0.01)
    scores[[100, 101, 300]] = torch.tensor([0.9, 0.8, 0.5])
    assert multiscale.propose(raw_points(scores), OPTIONS).points[0, :3].tolist() == [100, 300, 101]
    scores[101] = 0.0
    assert multiscale.propose(raw_points(scores), OPTIONS).points[0, :2].tolist() == [100, 300]


@pytest.mark.parametrize(("most", "proposals"), [(0, 96), (32, 96), (50, 150), (500, 300)])
def test_images_with_many_objects_get_more_proposals(most: int, proposals: int) -> None:
    counts = [1, most, 2] if most else []
    learned = multiscale.prepare([torch.zeros(count, 4) for count in counts], OPTIONS)
    assert learned == {"proposals": proposals}
    points = raw_points(torch.rand(sum(h * w for _, h, w in SHAPES), generator=torch.manual_seed(0)))
    assert multiscale.propose(points, options_of("multiscale", **learned)).boxes.shape == (1, proposals, 4)


def test_a_score_is_the_mean_of_both_stages_and_a_box_that_of_the_second() -> None:
    scores = torch.linspace(0.1, 0.9, sum(h * w for _, h, w in SHAPES))
    points = raw_points(scores)
    proposed = multiscale.propose(points, OPTIONS)
    refined = torch.randn(1, OPTIONS.proposals, 1 + refinement.CODE + CLASSES, generator=torch.manual_seed(0))
    found, second = multiscale.candidates([*points, refined], OPTIONS), refinement.candidates(refined, proposed.boxes)
    chosen = proposed.points[0]
    torch.testing.assert_close(found.objects[0, chosen], (scores[chosen] * second.objects[0]).sqrt())
    assert torch.equal(found.boxes[0, chosen], second.boxes[0]) and torch.equal(
        found.classes[0, chosen], second.classes[0]
    )
    others = torch.ones(len(scores), dtype=torch.bool).index_fill(0, chosen, False)
    assert (found.objects[0, others] == 0).all() and others.sum() == len(scores) - OPTIONS.proposals


def test_the_loss_is_the_sum_of_both_stages() -> None:
    targets = multiscale.targets(*drawn(3, 4), OPTIONS, shape=SHAPES)
    outputs, batch = as_outputs(targets), [target[None] for target in targets]
    outputs[-1] = torch.randn(outputs[-1].shape, generator=torch.manual_seed(0))
    truth = torch.cat([target.flatten(0, 1) for target in targets])[None]
    proposed = multiscale.propose(outputs[:-1], OPTIONS).boxes
    boxes, labels = drawn(3, 4)
    learned = refinement.targets(proposed[0], boxes, labels)[None]
    expected = multiscale.first_stage_loss(outputs[:-1], truth, OPTIONS)
    expected += refinement.loss(outputs[-1], proposed, learned, OPTIONS)
    torch.testing.assert_close(multiscale.loss(outputs, batch, OPTIONS), expected)
