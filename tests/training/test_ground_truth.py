"""Boxes through views to what a head is asked for, and from what it says back into pixels of the image."""

from importlib import import_module
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from stages.boxes.geometry import Detections, GroundTruth, through, to_image
from stages.datasets.base import Box
from stages.datasets.index_file import IndexRow
from stages.images import batch_views, views
from stages.images.decode import prepare
from stages.images.options import Augment
from stages.images.preprocessing import Preprocessing
from stages.training import ground_truth
from stages.training.ground_truth import GroundTruthBoxes
from tests.boxes.drawing import boxes_at_random
from tests.boxes.options import options_of
from tests.heads import test_anchors, test_grid, test_multiscale

SIZE, CLASSES = 96, 3
NEAR = 0.05  # pixels of the image: float32, and logits that stop at 1e-6
SHAPES: dict[str, Any] = {
    "largest": (8, 3, 3),
    "grid": (8, 7, 6),
    "anchors": (8, 6, 6),
    "multiscale": ((8, 12, 12), (8, 6, 6), (8, 3, 3)),
}
EVALUATION = {"crop": "resize(110,bilinear)|center_crop(96)", "squash": "resize(96x96,bilinear)"}
VIEWS = (*EVALUATION, "drawn", "of pixels")


def perfect(head: str, targets: Any) -> Any:
    """Outputs, of one view, that say exactly what its targets say."""
    if head == "largest":
        classes = 20 * F.one_hot(targets[5].long(), CLASSES)
        return torch.cat([targets[1:5].logit(eps=1e-6), classes])[None]
    if head == "multiscale":
        return tuple(test_multiscale.as_outputs(targets))
    return {"grid": test_grid, "anchors": test_anchors}[head].as_outputs(targets)[None]


def seen_through(kind: str, seed: int, width: int, height: int, rotate: float = 0.0) -> torch.Tensor:
    """The affine map (2, 3) of a view of an image."""
    augment = Augment(crop=0.4, flip=True, rotate=rotate, lighting=0.0)
    if kind in EVALUATION:
        preprocessing = Preprocessing.parse(f"decode|{EVALUATION[kind]}|normalize([0.5, 0.5, 0.5],[0.5, 0.5, 0.5])")
        return torch.from_numpy(prepare(torch.zeros(3, height, width, dtype=torch.uint8), preprocessing)[1])
    if kind == "drawn":
        return torch.from_numpy(
            views.affine(views.draw(str(seed), "", width=width, height=height, augment=augment), SIZE)
        )
    generator = torch.Generator().manual_seed(seed)
    return batch_views.draw(torch.tensor([[height, width]]), augment, generator).affine(SIZE)[0]


def scene(
    boxes: torch.Tensor, labels: torch.Tensor, width: int, height: int, **flags: torch.Tensor
) -> GroundTruthBoxes:
    """The scenes of one image."""
    nothing = torch.zeros(len(boxes), dtype=torch.bool)
    truth = GroundTruth(boxes, labels, flags.get("ignored", nothing), flags.get("crowd", nothing))
    return GroundTruthBoxes([truth], torch.zeros(1, 1, 2, 3), torch.tensor([[width, height]]), SIZE)


def answered(head: str, ground_truth_boxes: GroundTruthBoxes, affine: torch.Tensor) -> tuple[Detections, int]:
    """What a head finds that learnt a view by heart, in pixels of the image; and how many objects it cannot hold."""
    module, shape = import_module(f"stages.heads.{head}"), SHAPES[head]
    boxes, labels = ground_truth_boxes.in_view(0, affine)
    options = options_of(head, box_sigmoid=True)
    targets = module.targets(boxes, labels, options, shape=shape)
    (detections,) = module.decode(perfect(head, targets), options)
    return ground_truth_boxes.to_image(0, detections.pick(detections.scores > 0.5), affine), module.unassigned(
        boxes, options, shape
    )


def drawn(seed: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return boxes_at_random(count, generator, 0.05), torch.randint(CLASSES, (count,), generator=generator)


@pytest.mark.parametrize("kind", VIEWS)
@pytest.mark.parametrize("head", SHAPES)
@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 8), width=st.integers(50, 400), height=st.integers(50, 400))
def test_what_a_head_is_asked_for_is_in_the_image_what_was_there(
    head: str, kind: str, seed: int, count: int, width: int, height: int
) -> None:
    affine = seen_through(kind, seed, width, height)
    boxes, labels = drawn(seed, count)
    boxes = to_image(boxes, affine, size=SIZE, width=width, height=height)  # all lie in the view
    actual, unassigned = answered(head, scene(boxes, labels, width, height), affine)
    near = (boxes[:, None] - actual.boxes[None]).abs().amax(2) < NEAR * max(1, width / SIZE, height / SIZE)
    near &= labels[:, None] == actual.labels[None]
    assert near.any(0).all()
    assert int(near.any(1).sum()) == count - unassigned


@pytest.mark.parametrize("kind", ["drawn", "of pixels"])
@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), rotate=st.floats(1, 180))
def test_a_box_that_was_rotated_comes_back_around_itself(kind: str, seed: int, rotate: float) -> None:
    affine = seen_through(kind, seed, 200, 150, rotate)
    boxes = boxes_at_random(4, torch.Generator().manual_seed(seed), 0.05) * torch.tensor([200, 150, 200, 150])
    within = through(boxes, affine)
    inside = ((within >= 0) & (within <= SIZE)).all(1)
    boxes = boxes[inside]
    actual, _ = answered("anchors", scene(boxes, torch.zeros(len(boxes)).long(), 200, 150), affine)
    around = (actual.boxes[None, :, :2] <= boxes[:, None, :2] + NEAR) & (
        actual.boxes[None, :, 2:] >= boxes[:, None, 2:] - NEAR
    )
    assert around.all(2).any(0).all()


def test_difficult_ignored_and_crowds_are_not_asked_for() -> None:
    boxes = torch.tensor([[10.0, 10, 30, 30], [40, 40, 60, 60], [0, 0, 96, 96], [60, 10, 90, 30]])
    objects = [Box("a", (10, 10, 30, 30)), Box("b", (40, 40, 60, 60), difficult=True)]
    objects += [Box("b", (0, 0, 96, 96), crowd=True), Box("b", (60, 10, 90, 30), ignore=True)]
    row = IndexRow("x.jpg", "0", SIZE, SIZE, "a", tuple(objects), "train")
    plain = torch.tensor([[1.0, 0, 0], [0, 1, 0]])
    ground_truth_boxes = ground_truth.read_ground_truth([row], classes=["a", "b"], affine=plain[None, None], size=SIZE)
    assert torch.equal(ground_truth_boxes.truths[0].boxes, boxes) and ground_truth_boxes.truths[0].labels.tolist() == [
        0,
        1,
        1,
        1,
    ]
    seen, labels = ground_truth_boxes.in_view(0, plain)
    assert torch.allclose(seen, boxes[:1] / SIZE) and labels.tolist() == [0]


def test_an_object_outside_of_the_view_is_not_asked_for() -> None:
    boxes = torch.tensor([[0.0, 0, 20, 20], [20, 20, 60, 60], [60, 20, 110, 60]])
    ground_truth_boxes = scene(boxes, torch.tensor([0, 1, 2]), 200, 200)
    moved = torch.tensor([[1.0, 0, -50], [0, 1, 0]])  # the view begins at x 50
    seen, labels = ground_truth_boxes.in_view(0, moved)
    assert labels.tolist() == [2]  # of the second a quarter is left
    assert torch.allclose(seen * SIZE, torch.tensor([[10.0, 20, 60, 60]]))


def test_what_views_found_of_one_object_is_one_box() -> None:
    first = Detections(
        torch.tensor([[10.0, 10, 50, 50], [60, 60, 90, 90]]), torch.tensor([0.6, 0.5]), torch.tensor([1, 0])
    )
    second = Detections(torch.tensor([[11.0, 10, 51, 50]]), torch.tensor([0.9]), torch.tensor([1]))
    actual = ground_truth.merge_views([first, second], 0.5)
    assert actual.scores.tolist() == pytest.approx([0.9, 0.5]) and actual.labels.tolist() == [1, 0]
    assert actual.boxes[0].tolist() == [11, 10, 51, 50]
    assert len(ground_truth.merge_views([first, second], 0.99).scores) == 3
    fused = ground_truth.merge_views([first, second], 0.5, "fusion")
    assert fused.scores.tolist() == pytest.approx([0.75, 0.25]) and fused.labels.tolist() == [1, 0]
    assert fused.boxes[0].tolist() == pytest.approx([10.6, 10, 50.6, 50])
    detections = Detections(
        torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 8]]), torch.tensor([0.5, 0.4]), torch.tensor([0, 0])
    )
    alone, suppressed = (
        ground_truth.merge_views([detections], 0.5, "fusion"),
        ground_truth.merge_views([detections], 0.5),
    )
    assert torch.equal(alone.boxes, suppressed.boxes) and torch.equal(alone.scores, suppressed.scores)


def test_parts_are_joined_and_picked_in_order() -> None:
    first, second = (scene(torch.full((1, 4), float(n)), torch.tensor([n]), 10 * n, 20) for n in (1, 2))
    both = first.join(second)
    assert [truth.labels.item() for truth in both.truths] == [1, 2] and both.extents[:, 0].tolist() == [10, 20]
    assert both.pick([1]).extents.tolist() == second.extents.tolist()
    assert both.affine.shape == (2, 1, 2, 3)
