"""Boxes through views, and suppression against a brute-force reference."""

from math import cos, radians, sin

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.boxes.geometry import (
    VISIBLE,
    VOTING,
    Detections,
    clip,
    first_occurrences,
    fuse,
    inverse,
    suppress,
    through,
    to_image,
    to_view,
    vote,
    whole,
)
from stages.images.views import CropParams, affine
from tests.boxes.drawing import boxes_at_random, plain_iou


def view(angle: float = 0.0, flip: bool = False, crop: tuple[int, int, int, int] = (0, 0, 200, 100)) -> torch.Tensor:
    return torch.from_numpy(np.asarray(affine(CropParams(crop, flip, angle, 1.0, 1.0), 50)))


def test_squashing_and_flipping_by_hand() -> None:
    box = torch.tensor([[20.0, 10.0, 60.0, 100.0]])
    assert through(box, view()).tolist() == [[5, 5, 15, 50]]
    assert through(box, view(flip=True)).tolist() == [[35, 5, 45, 50]]


@pytest.mark.parametrize("angle", [90.0, 30.0])
def test_a_rotated_box_becomes_the_bounding_box_of_its_corners(angle: float) -> None:
    box = torch.tensor([[10.0, 20.0, 30.0, 25.0]])
    c, s = cos(radians(angle)), sin(radians(angle))
    turned = [(25 + c * (x - 25) + s * (y - 25), 25 - s * (x - 25) + c * (y - 25)) for x in (10, 30) for y in (20, 25)]
    expected = [
        min(x for x, _ in turned),
        min(y for _, y in turned),
        max(x for x, _ in turned),
        max(y for _, y in turned),
    ]
    actual = through(box, view(angle, crop=(0, 0, 50, 50)))
    assert actual[0].tolist() == pytest.approx(expected, abs=1e-4)


def test_a_box_is_cut_at_the_border_and_dropped_if_little_remains() -> None:
    assert VISIBLE == 0.3
    boxes = torch.tensor(
        [[-6.0, 0.0, 4.0, 10.0], [-7.1, 0.0, 2.9, 10.0], [20.0, 0.0, 30.0, 10.0], [2.0, 12.0, 8.0, 18.0]]
    )
    inside, visible = clip(boxes, 20, 20)
    assert visible.tolist() == [True, False, False, True]  # 40 %, 29 %, none, all
    assert inside[0].tolist() == [0, 0, 4, 10] and inside[3].tolist() == boxes[3].tolist()


@given(st.integers(0, 10_000), st.booleans(), st.sampled_from([0.0, 90.0, 180.0, -90.0]))
def test_there_and_back_again(seed: int, flip: bool, angle: float) -> None:
    """Quarter turns keep boxes; any other turn can only make them larger."""
    generator = torch.Generator().manual_seed(seed)
    boxes = 100 * boxes_at_random(5, generator)
    map_ = view(angle, flip, crop=(-10, -20, 150, 150))  # all of the image is in view
    seen, visible = to_view(boxes, map_, 50)
    assert visible.all() and ((seen >= 0) & (seen <= 1)).all()
    torch.testing.assert_close(to_image(seen, map_, size=50, width=100, height=100), boxes, atol=1e-3, rtol=0)


@given(st.integers(0, 10_000), st.floats(-45, 45))
def test_a_turned_box_comes_back_around_itself(seed: int, angle: float) -> None:
    boxes = 100 * boxes_at_random(5, torch.Generator().manual_seed(seed))
    map_ = view(angle)
    back = through(through(boxes, map_), inverse(map_))
    assert (back[:, :2] <= boxes[:, :2] + 1e-3).all() and (back[:, 2:] >= boxes[:, 2:] - 1e-3).all()


def test_a_box_at_the_border_of_a_crop_is_not_whole_unless_the_image_ends_there_too() -> None:
    """The view is the left half of an image of 200 x 100 pixels."""
    half = torch.tensor([[0.5, 0.0, 0.0], [0.0, 0.5, 0.0]])
    boxes = torch.tensor([[0.0, 0.0, 0.5, 1.0], [0.5, 0.2, 0.97, 0.9], [0.5, 0.2, 0.99, 0.9], [0.0, 0.0, 1.0, 1.0]])
    assert whole(boxes, half, size=50, width=200, height=100).tolist() == [True, True, False, False]
    assert whole(boxes, half, size=50, width=100, height=100).all()
    assert whole(boxes[:0], half, size=50, width=200, height=100).shape == (0,)


def test_no_boxes_pass_through_everything() -> None:
    none = torch.zeros(0, 4)
    seen, visible = to_view(none, view(30.0), 50)
    assert seen.shape == (0, 4) and visible.shape == (0,)
    assert to_image(none, view(30.0), size=50, width=9, height=9).shape == (0, 4)
    assert len(suppress(Detections(none, torch.zeros(0), torch.zeros(0, dtype=torch.long)), 0.5, 9).boxes) == 0


@settings(max_examples=60)
@given(seed=st.integers(0, 10_000), count=st.integers(0, 30), iou=st.floats(0.1, 0.9), most=st.integers(1, 40))
def test_suppression_is_the_greedy_one(seed: int, count: int, iou: float, most: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    boxes = 100 * boxes_at_random(count, generator)
    detections = Detections(
        boxes, torch.rand(count, generator=generator), torch.randint(3, (count,), generator=generator)
    )
    kept: list[int] = []
    for position in detections.scores.argsort(descending=True).tolist():
        rivals = [other for other in kept if detections.labels[other] == detections.labels[position]]
        if all(plain_iou(boxes[position].tolist(), boxes[other].tolist()) <= iou for other in rivals):
            kept.append(position)
    assert torch.equal(suppress(detections, iou, most).boxes, boxes[kept[:most]])


def plain_fusion(views_detections: list[Detections], iou: float) -> list[tuple[int, float, list[float]]]:
    """The steps of the paper's §3, one box after the other: label, score and corners of each fused box."""
    rows = [row for detections in views_detections for row in zip(*(part.tolist() for part in detections), strict=True)]
    clusters: list[list[tuple[list[float], float, int]]] = []

    def mean(cluster: list[tuple[list[float], float, int]]) -> list[float]:
        total = sum(score for _, score, _ in cluster)
        return [sum(box[side] * score for box, score, _ in cluster) / total for side in range(4)]

    for box, score, label in sorted(rows, key=lambda row: -row[1]):
        near = [(plain_iou(box, mean(one)), -position) for position, one in enumerate(clusters) if one[0][2] == label]
        best, position = max(near, default=(0.0, 0))
        if best > iou:
            clusters[-position].append((box, score, label))
        else:
            clusters.append([(box, score, label)])
    views = len(views_detections)
    scores = [sum(row[1] for row in one) / len(one) * min(len(one), views) / views for one in clusters]
    return [(one[0][2], score, mean(one)) for score, one in zip(scores, clusters, strict=True)]


@settings(max_examples=60)
@given(seed=st.integers(0, 10_000), counts=st.lists(st.integers(0, 12), min_size=1, max_size=4))
def test_fusion_is_that_of_the_paper(seed: int, counts: list[int]) -> None:
    generator = torch.Generator().manual_seed(seed)
    views_detections = []
    for count in counts:
        boxes, labels = 100 * boxes_at_random(count, generator, 0.3), torch.randint(2, (count,), generator=generator)
        views_detections.append(
            Detections(boxes.double(), 0.1 + 0.9 * torch.rand(count, generator=generator).double(), labels)
        )
    actual = fuse(views_detections, 0.4, 1000)
    expected = sorted(plain_fusion(views_detections, 0.4), key=lambda row: -row[1])
    assert actual.labels.tolist() == [row[0] for row in expected]
    assert actual.scores.tolist() == pytest.approx([row[1] for row in expected])
    assert actual.boxes.tolist() == [pytest.approx(row[2]) for row in expected]
    assert torch.equal(fuse(views_detections, 0.4, 3).boxes, actual.boxes[:3])


def test_fusion_of_two_views() -> None:
    """What both saw lies between them; what one saw is half as sure."""
    first = Detections(
        torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60]]), torch.tensor([0.9, 0.8]), torch.tensor([1, 0])
    )
    second = Detections(torch.tensor([[3.0, 0, 13, 10]]), torch.tensor([0.45]), torch.tensor([1]))
    actual = fuse([first, second], 0.5, 100)
    assert actual.labels.tolist() == [1, 0] and actual.scores.tolist() == pytest.approx([0.675, 0.4])
    assert actual.boxes[0].tolist() == pytest.approx([1, 0, 11, 10])


@settings(max_examples=60)
@given(seed=st.integers(0, 10_000), counts=st.lists(st.integers(0, 12), min_size=1, max_size=3))
def test_voting_is_suppression_and_then_a_mean_of_the_boxes_around(seed: int, counts: list[int]) -> None:
    generator = torch.Generator().manual_seed(seed)
    views = []
    for count in counts:
        boxes = 100 * boxes_at_random(count, generator, 0.6)  # large ones, so that many overlap
        labels = torch.randint(2, (count,), generator=generator)
        views.append(Detections(boxes.double(), 0.1 + 0.9 * torch.rand(count, generator=generator).double(), labels))
    every = Detections(*(torch.cat(parts) for parts in zip(*views, strict=True)))
    expected, actual = suppress(every, 0.4, 9), vote(views, 0.4, 9)
    assert torch.equal(actual.scores, expected.scores) and torch.equal(actual.labels, expected.labels)
    rows = list(zip(*(part.tolist() for part in every), strict=True))
    for box, label, voted in zip(expected.boxes.tolist(), expected.labels.tolist(), actual.boxes.tolist(), strict=True):
        votes = [(other, score) for other, score, of in rows if of == label and plain_iou(box, other) >= VOTING]
        total = sum(score for _, score in votes)
        assert voted == pytest.approx([sum(other[side] * score for other, score in votes) / total for side in range(4)])


def test_voting_by_hand() -> None:
    """The second box is suppressed and moves the first one; the third is of another class; one has no area."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [2, 0, 12, 10], [1, 0, 11, 10], [50, 50, 50, 60]])
    actual = vote([Detections(boxes, torch.tensor([0.9, 0.3, 0.8, 0.7]), torch.tensor([0, 0, 1, 0]))], 0.5, 100)
    assert actual.scores.tolist() == pytest.approx([0.9, 0.8, 0.7])
    assert actual.boxes.tolist() == [pytest.approx([0.5, 0, 10.5, 10]), [1, 0, 11, 10], [50, 50, 50, 60]]
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long))
    assert len(vote([nothing, nothing], 0.5, 100).boxes) == 0


def test_fusion_keeps_boxes_without_an_area_apart() -> None:
    """As boxes are that were cut at the border of the image: none overlaps another, of whatever class."""
    cut = Detections(torch.tensor([[5.0, 0, 5, 9], [5, 0, 5, 9]]), torch.tensor([0.9, 0.8]), torch.tensor([1, 0]))
    actual = fuse([cut], 0.5, 100)
    assert actual.labels.tolist() == [1, 0] and actual.scores.tolist() == pytest.approx([0.9, 0.8])


@given(st.lists(st.integers(0, 5)))
def test_first_occurrences(keys: list[int]) -> None:
    expected = [key not in keys[:position] for position, key in enumerate(keys)]
    assert first_occurrences(torch.tensor(keys, dtype=torch.long)).tolist() == expected
