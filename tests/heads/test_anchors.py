"""Anchors: matching, offsets and clustering against plain loops."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import box_convert, box_iou

from stages.boxes import dense
from stages.errors import UserError
from stages.heads import anchors
from tests.boxes.drawing import boxes_at_random, plain_iou
from tests.boxes.options import options_of

OPTIONS = options_of("anchors")

CLASSES = 4
SHAPE = (8, 5, 6)


def drawn(seed: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return boxes_at_random(count, generator), torch.randint(CLASSES, (count,), generator=generator)


def as_outputs(targets: torch.Tensor) -> torch.Tensor:
    """Raw outputs that say exactly what targets (H, W, k, 6) say."""
    classes = 20 * F.one_hot(targets[..., 5].long(), CLASSES)
    return torch.cat([40 * targets[..., :1] - 20, targets[..., 1:5], classes], dim=-1)


def test_layers() -> None:
    module = anchors.build(SHAPE, CLASSES, OPTIONS)
    assert module(torch.zeros(2, *SHAPE)).shape == (2, 5, 6, 6, 5 + CLASSES)


def test_every_anchor_sits_in_the_middle_of_its_cell() -> None:
    actual = anchors.at_every_cell(options_of("anchors", anchor_sizes=[[0.1, 0.2], [0.3, 0.4]]), 1, 2)
    expected = [[0.25, 0.5, 0.1, 0.2], [0.25, 0.5, 0.3, 0.4], [0.75, 0.5, 0.1, 0.2], [0.75, 0.5, 0.3, 0.4]]
    torch.testing.assert_close(actual, torch.tensor(expected))


@settings(max_examples=60)
@given(seed=st.integers(0, 10_000), count=st.integers(0, 10))
def test_matching_is_that_of_plain_loops(seed: int, count: int) -> None:
    boxes, _ = drawn(seed, count)
    places = anchors.at_every_cell(OPTIONS, *SHAPE[1:])
    iou = box_iou(box_convert(places, "cxcywh", "xyxy"), boxes).tolist()  # with its ties
    expected = []
    for row in iou:
        best = max(row, default=0.0)
        state = dense.BACKGROUND if best < 0.4 else dense.IGNORED
        expected.append(row.index(best) if best >= 0.5 else state)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in boxes.tolist()]
    for box in sorted(range(count), key=areas.__getitem__):
        column = [row[box] for row in iou]
        expected[column.index(max(column))] = box
    assert anchors.assign(boxes, places, OPTIONS).tolist() == expected


@settings(max_examples=60)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 10))
def test_offsets_are_those_of_faster_rcnn_and_lead_back(seed: int, count: int) -> None:
    boxes, _ = drawn(seed, count)
    places = boxes_at_random(count, torch.Generator().manual_seed(seed + 1))
    as_centres = box_convert(places, "xyxy", "cxcywh")
    offsets = anchors.encode(boxes, as_centres)
    torch.testing.assert_close(offsets, BoxCoder((1, 1, 1, 1)).encode_single(boxes, places), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(anchors.offsets_to_corners(offsets, as_centres), boxes, atol=1e-5, rtol=0)


@settings(max_examples=60)
@given(seed=st.integers(0, 10_000), count=st.integers(0, 10))
def test_encoding_then_decoding_gives_the_boxes_back(seed: int, count: int) -> None:
    boxes, labels = drawn(seed, count)
    targets = anchors.targets(boxes, labels, OPTIONS, shape=SHAPE)
    (detections,) = anchors.decode(as_outputs(targets)[None], OPTIONS)
    detections = detections.pick(detections.scores > 0.5)
    near = (boxes[:, None] - detections.boxes[None]).abs().amax(2) < 1e-4
    near &= labels[:, None] == detections.labels[None]
    assert near.any(0).all() and int(near.any(1).sum()) == count - anchors.unassigned(boxes, OPTIONS, SHAPE)


def test_boxes_beyond_the_anchors_are_counted() -> None:
    boxes = torch.tensor([[0.4, 0.4, 0.6, 0.6]]).repeat(3, 1)
    assert anchors.unassigned(boxes, options_of("anchors", anchor_sizes=[[0.2, 0.2]]), (8, 1, 1)) == 2


def test_a_box_between_all_anchors_is_no_anchors_and_counted() -> None:
    small = options_of("anchors", anchor_sizes=[[0.1, 0.1]])
    between = torch.tensor([[0.45, 0.45, 0.55, 0.55]])  # of a 2 x 2 map, whose anchors end at 0.3
    assert anchors.assign(between, anchors.at_every_cell(small, 2, 2), small).eq(dense.BACKGROUND).all()
    assert anchors.unassigned(between, small, (8, 2, 2)) == 1


@pytest.mark.parametrize("box_loss", ["smooth_l1", "l1", "mse", "giou"])
@pytest.mark.parametrize("mining", [0.0, 3.0])
def test_a_prediction_that_says_what_the_target_says_costs_nothing(box_loss: str, mining: float) -> None:
    targets = anchors.targets(*drawn(0, 5), OPTIONS, shape=SHAPE)
    options = options_of("anchors", box_loss=box_loss, mining=mining)
    perfect = as_outputs(targets)[None]
    assert float(anchors.loss(perfect, targets[None], options)) == pytest.approx(0, abs=1e-3)
    assert float(anchors.loss(perfect + 0.5, targets[None], options)) > 1e-2


def test_wild_outputs_stay_finite() -> None:
    raw = torch.full((1, *SHAPE[1:], 6, 5 + CLASSES), 1e4)
    assert all(detections.boxes.isfinite().all() for detections in anchors.decode(raw, OPTIONS))


def test_as_many_clusters_as_shapes_are_the_shapes() -> None:
    shapes = torch.tensor([[0.1, 0.1], [0.2, 0.2], [0.4, 0.4], [0.8, 0.8], [0.9, 0.9]])
    for count in range(1, 6):
        sizes, iou = anchors.cluster(torch.cat([torch.zeros(count, 2), shapes[:count]], dim=1), count)
        assert torch.tensor(sizes).allclose(shapes[:count]) and iou == pytest.approx(1)


def test_clusters_find_the_shapes_that_are_there() -> None:
    shapes = torch.tensor([[0.1, 0.3], [0.3, 0.1], [0.6, 0.6]]).repeat(20, 1)
    shapes += 0.001 * torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    actual, iou = anchors.cluster(torch.cat([torch.zeros(60, 2), shapes], dim=1), 3)
    assert sorted(actual) == [pytest.approx(shape, abs=0.01) for shape in ([0.1, 0.3], [0.3, 0.1], [0.6, 0.6])]
    assert iou > 0.97


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), count=st.integers(2, 40), clusters=st.integers(1, 6))
def test_clusters_are_deterministic_and_their_iou_is_that_of_plain_loops(seed: int, count: int, clusters: int) -> None:
    boxes, _ = drawn(seed, count)
    if clusters > count:
        with pytest.raises(
            UserError, match=rf"`boxes.anchor_count`.*train has {count}: -S boxes.anchor_count={count}$"
        ):
            anchors.cluster(boxes, clusters)
        return
    sizes, iou = anchors.cluster(boxes, clusters)
    assert (sizes, iou) == anchors.cluster(boxes, clusters)
    shapes = (boxes[:, 2:] - boxes[:, :2]).tolist()
    best = [max(plain_iou([0, 0, *shape], [0, 0, *size]) for size in sizes) for shape in shapes]
    assert iou == pytest.approx(sum(best) / count, abs=1e-5)
    assert len(sizes) == clusters and [w * h for w, h in sizes] == sorted(w * h for w, h in sizes)
