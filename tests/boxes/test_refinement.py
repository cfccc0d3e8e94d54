"""The second stage: what it sees of a map, what it learns, and what it makes of a box."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from stages.boxes import ops, refinement
from stages.boxes.refinement import CODE, MARGIN, SIDE
from tests.boxes.drawing import boxes_at_random, plain_iou
from tests.boxes.options import options_of

CLASSES = 3


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_layers() -> None:
    module = refinement.Refinement(7, CLASSES, options_of("multiscale"))
    boxes = torch.stack([boxes_at_random(5, seeded(0)), boxes_at_random(5, seeded(1))])
    features = torch.randn(2, 7, 12, 10, generator=seeded(2))
    raw = module(features, boxes)
    assert raw.shape == (2, 5, 1 + CODE + CLASSES)
    torch.testing.assert_close(module(features[1:], boxes[1:, 3:])[0], raw[1, 3:])
    raw.square().sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


@given(seed=st.integers(0, 1000))
def test_small_boxes_are_seen_by_bilinear_interpolation(seed: int) -> None:
    features, centre = (
        torch.randn(1, 3, 20, 30, generator=seeded(seed)),
        0.3 + 0.4 * torch.rand(4, 2, generator=seeded(seed)),
    )
    half = torch.tensor([0.5 * SIDE / 30, 0.5 * SIDE / 20]) / MARGIN * torch.rand(4, 2, generator=seeded(seed))
    boxes = torch.cat([centre - half, centre + half], 1)
    steps = (torch.arange(SIDE) + 0.5) / SIDE * 2 - 1
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    places = centre[:, None, None] + MARGIN * half[:, None, None] * torch.stack([x, y], -1)  # (4, SIDE, SIDE, 2)
    expected = F.grid_sample(features.expand(4, -1, -1, -1), places * 2 - 1, align_corners=False)
    torch.testing.assert_close(refinement.inside(features, boxes[None])[0].transpose(1, 2), expected, atol=1e-4, rtol=0)


def test_large_boxes_are_seen_by_weighted_means() -> None:
    """Along an axis of 56 features, the map of a box over all but the margin has seven cells of 8 features."""
    features = torch.arange(56.0).expand(1, 1, 56, 56).contiguous()
    low, high = 0.5 - 0.5 / MARGIN, 0.5 + 0.5 / MARGIN
    seen = refinement.inside(features, torch.tensor([[[low, low, high, high]]]))[0, 0]
    for cell, centre in enumerate([4, 12, 20, 28, 36, 44, 52]):
        weights = [max(0.0, 1 - abs(x + 0.5 - centre) / 8) for x in range(56)]
        expected = sum(w * x for w, x in zip(weights, range(56), strict=True)) / sum(weights)
        torch.testing.assert_close(seen[:, 0, cell], torch.full((SIDE,), expected))


def test_a_box_at_the_border_sees_what_is_there() -> None:
    seen = refinement.inside(
        torch.full((1, 2, 16, 16), 3.0), torch.tensor([[[0.0, 0.0, 1.0, 1.0], [0.9, 0.0, 1.0, 0.2]]])
    )
    torch.testing.assert_close(seen, torch.full((1, 2, SIDE, 2, SIDE), 3.0))


def test_a_proposed_box_learns_the_object_that_it_overlaps_most() -> None:
    objects = torch.tensor([[0.0, 0.0, 0.4, 0.4], [0.0, 0.0, 0.4, 0.5], [0.6, 0.6, 0.9, 0.9]])
    proposed = torch.tensor([[0.0, 0.0, 0.4, 0.46], [0.6, 0.6, 0.9, 0.74], [0.6, 0.6, 0.9, 0.77], [0.1, 0.6, 0.2, 0.7]])
    learned = refinement.targets(proposed, objects, torch.tensor([2, 1, 0]))
    assert learned[:, 0].tolist() == [1, 0, 1, 0]
    assert learned[:, 5].tolist() == [1, 0, 0, 0]
    torch.testing.assert_close(learned[:, 1:5], torch.stack([objects[1], torch.zeros(4), objects[2], torch.zeros(4)]))
    assert not refinement.targets(proposed, torch.zeros(0, 4), torch.zeros(0)).any()


@given(seed=st.integers(0, 1000), spread=st.floats(0, 1e6))
def test_a_refined_box_has_its_corners_in_order_and_is_finite(seed: int, spread: float) -> None:
    proposed = boxes_at_random(5, seeded(seed))[None]
    proposed[0, 0, 2:] = proposed[0, 0, :2]
    raw = spread * torch.randn(1, 5, 1 + CODE + CLASSES, generator=seeded(seed))
    boxes = refinement.candidates(raw, proposed).boxes
    assert boxes.isfinite().all() and (boxes[..., 2:] >= boxes[..., :2]).all()


@given(seed=st.integers(0, 1000))
def test_shifts_move_a_box_to_one_near_it(seed: int) -> None:
    boxes = boxes_at_random(5, seeded(seed))
    size = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    others = boxes + 0.4 * size * (2 * torch.rand(5, 4, generator=seeded(seed)) - 1)
    torch.testing.assert_close(refinement.moved(boxes, refinement.shifts_between(boxes, others)), others)


def test_a_shift_of_one_moves_each_side_outwards_by_a_fifth() -> None:
    moved = refinement.moved(torch.tensor([0.2, 0.2, 0.6, 0.4]), torch.ones(4))
    torch.testing.assert_close(moved, torch.tensor([0.12, 0.16, 0.68, 0.44]))


@pytest.mark.parametrize("box_loss", ["smooth_l1", "giou"])
def test_the_loss_is_the_sum_over_boxes(box_loss: str) -> None:
    """One box after the other, as the docstrings say; of two images, so that the sum is halved."""
    options = options_of("multiscale", box_loss=box_loss)
    objects, labels = boxes_at_random(4, seeded(0)), torch.tensor([0, 1, 2, 0])
    near = objects + 0.03 * (torch.rand(4, 4, generator=seeded(1)) - 0.5)
    proposed = torch.stack([torch.cat([near, boxes_at_random(3, seeded(image))]) for image in (2, 3)])
    truth = torch.stack([refinement.targets(image, objects, labels) for image in proposed])
    assert (truth[..., 0] > 0).sum() >= 4
    raw = torch.randn(2, 7, 1 + CODE + CLASSES, generator=seeded(4))
    total = torch.zeros(())
    for numbers, box, target in zip(raw.flatten(0, 1), proposed.flatten(0, 1), truth.flatten(0, 1), strict=True):
        total += F.binary_cross_entropy_with_logits(numbers[0], target[0])
        if target[0] == 0:
            continue
        refined, shifts = refinement.moved(box, numbers[1:5]), refinement.shifts_between(box, target[1:5])
        smooth = F.smooth_l1_loss(numbers[1:5], shifts)
        total += smooth + 2 * (ops.generalized_box_iou_loss(refined, target[1:5]) if box_loss == "giou" else smooth)
        overlap = torch.tensor(plain_iou(refined.tolist(), target[1:5].tolist()))
        total += F.binary_cross_entropy_with_logits(numbers[5], overlap)
        total += 3 * F.cross_entropy(numbers[6:], target[5].long())
    torch.testing.assert_close(refinement.loss(raw, proposed, truth, options), total / 2, rtol=1e-4, atol=1e-4)


def test_without_objects_the_loss_is_finite_and_so_is_its_gradient() -> None:
    raw = torch.randn(1, 5, 1 + CODE + CLASSES, generator=seeded(0)).requires_grad_()
    proposed, truth = boxes_at_random(5, seeded(0))[None], torch.zeros(1, 5, 6)
    refinement.loss(raw, proposed, truth, options_of("multiscale")).backward()  # type: ignore[no-untyped-call]
    assert raw.grad is not None and raw.grad.isfinite().all()


def test_a_score_is_the_mean_of_object_and_quality() -> None:
    raw = torch.zeros(1, 1, 1 + CODE + CLASSES)
    raw[..., 0], raw[..., CODE] = torch.tensor(0.81).logit(), torch.tensor(0.25).logit()
    found = refinement.candidates(raw, torch.tensor([[[0.1, 0.2, 0.3, 0.6]]]))
    assert float(found.objects) == pytest.approx(0.45)
    torch.testing.assert_close(found.boxes, torch.tensor([[[0.1, 0.2, 0.3, 0.6]]]))
