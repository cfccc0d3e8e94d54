"""The head on a pyramid: which point of which map predicts which box, and back."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from stages.boxes import dense
from stages.heads import multiscale
from tests.boxes.drawing import boxes_at_random
from tests.boxes.options import options_of

OPTIONS = options_of("multiscale")

CLASSES = 4
SHAPES = [(6, 16, 12), (7, 8, 6), (8, 4, 3)]


def drawn(seed: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return boxes_at_random(count, generator), torch.randint(CLASSES, (count,), generator=generator)


def as_outputs(targets: torch.Tensor) -> torch.Tensor:
    """Raw outputs (1, H, W, 5 + C) that say exactly what targets (H, W, 6) say."""
    distances = targets[..., 1:5].double().clamp(min=1e-6)
    raw = distances + (-torch.expm1(-distances)).log()  # the inverse of softplus
    classes = 20 * F.one_hot(targets[..., 5].long(), CLASSES)
    return torch.cat([40 * targets[..., :1] - 20, raw.float(), classes], dim=-1)[None]


@pytest.mark.parametrize("towers", ["shared", "separate"])
@pytest.mark.parametrize("fusion", [True, False])
@pytest.mark.parametrize("quality", [True, False])
def test_layers(towers: str, fusion: bool, quality: bool) -> None:
    options = options_of("multiscale", towers=towers, fusion=fusion, centreness=quality)
    module = multiscale.build(SHAPES, CLASSES, options)
    outputs = module([torch.zeros(2, *shape) for shape in SHAPES])
    assert [tuple(output.shape) for output in outputs] == [(2, h, w, 5 + CLASSES + quality) for _, h, w in SHAPES]
    targets = multiscale.targets(*drawn(0, 3), options, shape=SHAPES)
    batch = [target.expand(2, *target.shape) for target in targets]
    multiscale.loss(outputs, batch, options).backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None for parameter in module.parameters())
    assert [len(detections.boxes) for detections in multiscale.decode(outputs, options)] == [dense.MOST] * 2
    assert len(list(module.get_submodule("towers").children())) == {"shared": 1, "separate": 3}[towers]


def test_fusion_carries_the_coarse_map_to_the_fine_one() -> None:
    maps = [torch.randn(1, *shape, generator=torch.Generator().manual_seed(0)) for shape in SHAPES]
    changed = [*maps[:2], maps[2] + torch.randn(maps[2].shape, generator=torch.Generator().manual_seed(1))]
    for fusion in (True, False):
        module = multiscale.build(SHAPES, CLASSES, options_of("multiscale", fusion=fusion)).eval()
        same = [torch.equal(a, b) for a, b in zip(module(maps), module(changed), strict=True)]
        assert same == [not fusion, not fusion, False]


def test_a_box_goes_to_the_map_for_its_size() -> None:
    """Up to 4 cells a side: 1/4 of the height on the first map, 1/2 on the second."""
    boxes = torch.tensor([[0.1, 0.1, 0.2, 0.34], [0.3, 0.3, 0.5, 0.78], [0.05, 0.05, 0.95, 0.95]])
    for position in range(3):
        actual = multiscale.assign(boxes[[position]], OPTIONS, SHAPES)
        assert [bool((level >= 0).any()) for level in actual] == [level == position for level in range(3)]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(0, 10), radius=st.floats(0.5, 3), cells=st.floats(1, 8))
def test_points_are_assigned_as_in_plain_loops(seed: int, count: int, radius: float, cells: float) -> None:
    boxes = drawn(seed, count)[0].double()
    actual = multiscale.assign(boxes, options_of("multiscale", centre_radius=radius, level_cells=cells), SHAPES)
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


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(0, 10))
def test_encoding_then_decoding_gives_the_boxes_back(seed: int, count: int) -> None:
    boxes, labels = drawn(seed, count)
    targets = multiscale.targets(boxes, labels, OPTIONS, shape=SHAPES)
    (detections,) = multiscale.decode([as_outputs(target) for target in targets], OPTIONS)
    detections = detections.pick(detections.scores > 0.5)
    near = (boxes[:, None] - detections.boxes[None]).abs().amax(2) < 1e-4
    near &= labels[:, None] == detections.labels[None]
    assert near.any(0).all() and int(near.any(1).sum()) == count - multiscale.unassigned(boxes, OPTIONS, SHAPES)


def test_a_box_between_the_points_is_counted() -> None:
    tiny = torch.tensor([[0.001, 0.001, 0.002, 0.002], [0.1, 0.1, 0.9, 0.9]])
    assert multiscale.unassigned(tiny, OPTIONS, SHAPES) == 1


@pytest.mark.parametrize("box_loss", ["smooth_l1", "l1", "mse", "giou"])
def test_a_prediction_that_says_what_the_target_says_costs_nothing(box_loss: str) -> None:
    targets = multiscale.targets(*drawn(0, 5), OPTIONS, shape=SHAPES)
    options = options_of("multiscale", box_loss=box_loss)
    perfect, batch = [as_outputs(target) for target in targets], [target[None] for target in targets]
    assert float(multiscale.loss(perfect, batch, options)) == pytest.approx(0, abs=1e-3)
    assert float(multiscale.loss([output + 0.5 for output in perfect], batch, options)) > 1e-2


def test_centreness_by_hand() -> None:
    actual = multiscale.centreness(torch.tensor([[2.0, 3.0, 2.0, 3.0], [1.0, 1.0, 4.0, 1.0], [0.0, 1.0, 4.0, 1.0]]))
    assert actual.tolist() == pytest.approx([1, 0.5, 0])


def test_centreness_is_learnt_where_there_are_objects_and_lowers_scores() -> None:
    options = options_of("multiscale", centreness=True)
    targets = multiscale.targets(torch.tensor([[0.1, 0.1, 0.9, 0.9]]), torch.tensor([0]), options, shape=SHAPES)
    quality = [multiscale.centreness(target[..., 1:5].flatten(0, 1)).nan_to_num() for target in targets]
    right = [
        probability.reshape(1, *target.shape[:2], 1).logit(1e-6)
        for probability, target in zip(quality, targets, strict=True)
    ]
    batch = [target[None] for target in targets]

    def outputs(shift: float) -> list[torch.Tensor]:
        parts = zip(targets, right, strict=True)
        return [torch.cat([as_outputs(target), logit + shift], dim=-1) for target, logit in parts]

    best = multiscale.loss(outputs(0), batch, options)
    assert best < multiscale.loss(outputs(1), batch, options) and best < multiscale.loss(outputs(-1), batch, options)
    (low,), (high,) = (multiscale.decode(outputs(shift), options) for shift in (-9, 9))
    assert low.scores.max() < 0.2 < 0.9 < high.scores.max()
