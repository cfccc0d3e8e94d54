"""The grid: which cell predicts which box, and back."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F
from torchvision.ops import box_convert

from stages.heads import grid
from tests.boxes.drawing import boxes_at_random
from tests.boxes.options import options_of

OPTIONS = options_of("grid")

CLASSES = 6


def corners(rows: list[list[float]]) -> torch.Tensor:
    corners: torch.Tensor = box_convert(torch.tensor(rows), "cxcywh", "xyxy")
    return corners


def as_outputs(targets: torch.Tensor) -> torch.Tensor:
    """Raw outputs that say exactly what targets (H, W, 6) say."""
    sure = 40 * targets[..., :1] - 20
    return torch.cat([sure, targets[..., 1:5].logit(eps=1e-6), 20 * F.one_hot(targets[..., 5].long(), CLASSES)], -1)


def test_the_worked_example() -> None:
    boxes = corners([[0.60, 0.65, 0.84, 0.75], [0.40, 0.20, 0.26, 0.27]])
    actual = grid.targets(boxes, torch.tensor([5, 0]), OPTIONS, shape=(8, 4, 4))
    assert actual[2, 2].tolist() == pytest.approx([1, 0.4, 0.6, 0.84, 0.75, 5], abs=1e-6)
    assert actual[0, 1].tolist() == pytest.approx([1, 0.6, 0.8, 0.26, 0.27, 0], abs=1e-6)
    actual[2, 2], actual[0, 1] = 0, 0
    assert not actual.any()


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
def test_of_two_centres_in_a_cell_the_larger_box_wins(order: list[int]) -> None:
    boxes = corners([[0.3, 0.3, 0.2, 0.2], [0.4, 0.4, 0.3, 0.3], [0.8, 0.8, 0.1, 0.1]])[order]
    actual = grid.targets(boxes, torch.arange(3)[order], OPTIONS, shape=(8, 2, 2))
    assert actual[..., 0].tolist() == [[1, 0], [0, 1]]
    assert actual[0, 0].tolist() == pytest.approx([1, 0.8, 0.8, 0.3, 0.3, 1], abs=1e-6)
    assert grid.unassigned(boxes, OPTIONS, (8, 2, 2)) == 1
    assert grid.unassigned(boxes, OPTIONS, (8, 10, 10)) == 0


def test_a_centre_on_the_far_border_falls_into_the_last_cell() -> None:
    actual = grid.targets(torch.tensor([[1.0, 1.0, 1.0, 1.0]]), torch.tensor([0]), OPTIONS, shape=(8, 3, 2))
    assert actual[2, 1, 0] == 1 and actual[..., 0].sum() == 1


@given(seed=st.integers(0, 10_000), count=st.integers(0, 12), height=st.integers(1, 9), width=st.integers(1, 9))
def test_encoding_then_decoding_gives_the_boxes_back(seed: int, count: int, height: int, width: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    boxes, labels = boxes_at_random(count, generator), torch.randint(CLASSES, (count,), generator=generator)
    shape = (8, height, width)
    targets = grid.targets(boxes, labels, OPTIONS, shape=shape)
    held = count - grid.unassigned(boxes, OPTIONS, shape)
    (detections,) = grid.decode(as_outputs(targets)[None], OPTIONS)
    detections = detections.pick(detections.scores > 0.5)
    assert len(detections.boxes) == held
    for box, label in zip(detections.boxes, detections.labels, strict=True):
        near = ((boxes - box).abs().amax(1) < 1e-4) & (labels == label)
        assert near.any()


@given(seed=st.integers(0, 10_000), count=st.integers(0, 12), height=st.integers(1, 6), width=st.integers(1, 6))
def test_targets_are_those_of_plain_loops(seed: int, count: int, height: int, width: int) -> None:
    boxes = boxes_at_random(count, torch.Generator().manual_seed(seed))
    expected = torch.zeros(height, width, 6)
    areas = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).tolist()
    for position in sorted(range(count), key=areas.__getitem__):
        x1, y1, x2, y2 = boxes[position].tolist()
        x, y = (x1 + x2) / 2 * width, (y1 + y2) / 2 * height
        row, column = min(int(y), height - 1), min(int(x), width - 1)
        expected[row, column] = torch.tensor([1, x - column, y - row, x2 - x1, y2 - y1, position % CLASSES])
    actual = grid.targets(boxes, torch.arange(count) % CLASSES, OPTIONS, shape=(8, height, width))
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("box_loss", ["smooth_l1", "l1", "mse", "giou"])
@pytest.mark.parametrize("loss", ["cross_entropy", "focal"])
def test_a_prediction_that_says_what_the_target_says_costs_nothing(box_loss: str, loss: str) -> None:
    boxes = corners([[0.60, 0.65, 0.84, 0.75], [0.40, 0.20, 0.26, 0.27]])
    targets = grid.targets(boxes, torch.tensor([5, 0]), OPTIONS, shape=(8, 4, 4))
    options = options_of("grid", box_loss=box_loss, loss=loss)
    perfect = as_outputs(targets)[None]
    assert float(grid.loss(perfect, targets[None], options)) == pytest.approx(0, abs=1e-4)
    assert float(grid.loss(perfect + 0.5, targets[None], options)) > 1e-3


def test_it_learns_two_images_by_heart() -> None:
    torch.manual_seed(0)
    maps = torch.randn(2, 5, 4, 4)
    boxes = boxes_at_random(4, torch.Generator().manual_seed(3)).reshape(2, 2, 4)
    labels = torch.tensor([[0, 1], [2, 3]])
    pairs = zip(boxes, labels, strict=True)
    targets = torch.stack([grid.targets(b, k, OPTIONS, shape=(5, 4, 4)) for b, k in pairs])
    module = grid.build((5, 4, 4), CLASSES, options_of("grid", hidden=32))
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    for _ in range(300):
        optimizer.zero_grad()
        grid.loss(module(maps), targets, OPTIONS).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    for detections, right in zip(grid.decode(module(maps), OPTIONS), labels, strict=True):
        assert sorted(detections.pick(detections.scores > 0.5).labels.tolist()) == right.tolist()
