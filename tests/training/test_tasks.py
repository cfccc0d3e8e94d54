"""Heads for boxes in the trainer: what they are asked for, how they are judged, and that a cache changes nothing."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision import models

from stages import train
from stages.boxes.geometry import Detections, GroundTruth
from stages.errors import UserError
from stages.heads.registry import HEADS
from stages.training import loop, model, tasks
from stages.training.data import HeadData, SplitData
from stages.training.ground_truth import GroundTruthBoxes, merge_views
from stages.training.model import HeadModel
from tests.backbones.networks import output_of, randomised

Make = Callable[..., Any]
CPU = torch.device("cpu")
SIZE, TRAIN, VAL = 64, 14, 6
CHANNELS, SIDE = 6, 4
OBJECT_HEADS = ("largest", "grid", "anchors")
PYRAMID = ((4, 8, 8), (6, 4, 4), (8, 2, 2))


@pytest.fixture
def turned(workplace: Any, params: Make) -> Make:
    """`turned(**knobs)`: a plain short training of a head on maps."""

    def make(**knobs: Any) -> Any:
        plain: dict[str, Any] = {"cut": "map", "head": "grid", "hidden": 8, "dropout": 0.0, "epochs": 3}
        plain |= {"batch_size": 4, "lr": 0.01, "precision": "float32", "schedule": "constant"}
        boxes = {"anchor_count": 2} | knobs.pop("boxes", {})
        return params(boxes=boxes, **(plain | knobs))

    return make


def truth(boxes: list[list[float]], labels: list[int], ignored: tuple[int, ...] = ()) -> GroundTruth:
    left_out = torch.tensor([number in ignored for number in range(len(boxes))], dtype=torch.bool)
    return GroundTruth(
        torch.tensor(boxes).reshape(-1, 4), torch.tensor(labels, dtype=torch.long), left_out, left_out & False
    )


def scene(number: int) -> GroundTruth:
    """Two objects, the first of them at a place that depends on the number; every fifth image has none."""
    if number % 5 == 4:
        return truth([], [])
    shift = 4.0 * (number % 4)
    return truth([[shift, 8, shift + 30, 40], [44, 44, 60, 56 + number % 3]], [number % 2, 0])


def scenes_of(truths: list[GroundTruth], views: int = 1) -> GroundTruthBoxes:
    """Images of 64 x 64; each view after the first is the mirror image."""
    flip = torch.tensor([[-1.0, 0, SIZE], [0, 1, 0]])
    maps = torch.stack([torch.eye(2, 3), *[flip] * (views - 1)])
    return GroundTruthBoxes(truths, maps.repeat(len(truths), 1, 1, 1), torch.full((len(truths), 2), SIZE), SIZE)


def split(x: torch.Tensor, truths: list[GroundTruth], first: int = 0) -> SplitData:
    rows = list(range(first, first + len(truths)))
    return SplitData(x, torch.zeros(len(x), dtype=torch.long), rows, None, scenes_of(truths, x.shape[1]))


def on_maps(
    shape: tuple[int, ...] = (CHANNELS, SIDE, SIDE), *, views: int = 1, **truths: list[GroundTruth]
) -> HeadData:
    """Random features; the objects of a split are the given ones, or made up."""
    splits, first = {}, 0
    for name, count in (("train", TRAIN), ("val", VAL), ("test", VAL)):
        seen = truths.get(name) or [scene(number) for number in range(first, first + count)]
        x = torch.randn(len(seen), views, *shape, generator=torch.Generator().manual_seed(first))
        splits[name] = split(x, seen, first)
        first += len(seen)
    return HeadData(
        ["ant", "bee", "cat"], splits, {"cut": "map", "backbone": "resnet18", "weights": "random", "image_size": SIZE}
    )


def pyramid() -> HeadData:
    numbers = sum(channels * height * width for channels, height, width in PYRAMID)
    return replace(on_maps((numbers,)), levels=PYRAMID)


def boxes_task(result: model.TrainResult, head: str, data: HeadData, chosen: Any) -> tasks.DetectionTask:
    options = HEADS[head].read(result.knobs)
    return tasks.DetectionTask(head, result.module, options, classes=len(data.classes), params=chosen)


# --- training


@pytest.mark.parametrize("head", [*OBJECT_HEADS, "multiscale"])
def test_a_head_learns_its_scenes_by_heart(turned: Make, head: str) -> None:
    data = on_maps() if head in OBJECT_HEADS else pyramid()
    data = replace(data, splits=data.splits | {"val": data.splits["train"]})
    cut = "map" if head in OBJECT_HEADS else "pyramid"
    chosen = turned(head=head, cut=cut, epochs=60, hidden=32, monitor="val_map_50")
    result = loop.fit(head, data, params=chosen, device=CPU)
    scores = [epoch.val_map_50 for epoch in result.history]
    assert scores[result.best_epoch - 1] == max(score for score in scores if score is not None)
    task = boxes_task(result, head, data, chosen)
    seen = task.detect(result.module, data.splits["train"], iou=tasks.NMS_IOU)
    assert task.map_50(data.splits["train"], seen) == scores[result.best_epoch - 1]
    if head != "largest":  # which finds one object an image
        assert max(score for score in scores if score is not None) > 0.8


@pytest.mark.parametrize("normalize", ["none", "standardize", "sqrt"])
def test_several_maps_behind_a_rest(turned: Make, normalize: str) -> None:
    """The head alone, then the rest with it: several maps are no single tensor that could be kept in between."""
    provenance = {"cut": "layer1", "backbone": "resnet18", "weights": "random", "image_size": SIZE}
    data = replace(on_maps((64, 16, 16)), provenance=provenance)
    phases = [{"epochs": 1, "train_from": "head"}, {"epochs": 1, "train_from": "layer4"}]
    knobs = {"cut": "layer1", "tap": "pyramid", "head": "multiscale", "backbone": "resnet18", "weights": "random"}
    trained = loop.fit("multiscale", data, params=turned(phases=phases, normalize=normalize, **knobs), device=CPU)
    assert [epoch.phase for epoch in trained.history] == [1, 2]
    assert trained.module.shape == ((128, 8, 8), (256, 4, 4), (512, 2, 2))


@pytest.mark.parametrize("head", OBJECT_HEADS)
def test_training_is_deterministic(turned: Make, head: str) -> None:
    first, second = (loop.fit(head, on_maps(views=2), params=turned(head=head), device=CPU) for _ in range(2))
    for tensor, other_tensor in zip(
        first.module.state_dict().values(), second.module.state_dict().values(), strict=True
    ):
        assert torch.equal(tensor, other_tensor)


def test_a_head_on_cached_maps_trains_as_behind_the_frozen_backbone_image_by_image(turned: Make) -> None:
    torch.manual_seed(0)
    model = randomised(models.shufflenet_v2_x0_5(weights=None)).eval()
    trunk = output_of("conv5")
    images = torch.randn(TRAIN + VAL, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    began = time.perf_counter()
    with torch.inference_mode():
        maps = trunk(model, images)[:, None].clone()
    extracted = time.perf_counter() - began
    data = on_maps()
    data.splits["train"], data.splits["val"] = (
        replace(data.splits[name], x=x) for name, x in (("train", maps[:TRAIN]), ("val", maps[TRAIN:]))
    )
    chosen = turned(head="grid", optimizer="sgd", weight_decay=0.0, normalize="none")
    began = time.perf_counter()
    cached = loop.fit("grid", data, params=chosen, device=CPU)
    with_cache = time.perf_counter() - began

    began = time.perf_counter()
    torch.manual_seed(chosen.seed)
    module, knobs = loop.start("grid", data, train=data.splits["train"], params=chosen, device=CPU)
    task = tasks.DetectionTask("grid", module, HEADS["grid"].read(knobs), classes=len(data.classes), params=chosen)
    optimizer = torch.optim.SGD(module.head.parameters(), lr=chosen.lr, momentum=chosen.momentum)
    for row in cached.history:
        total = 0.0
        for places in torch.randperm(TRAIN).split(chosen.batch_size):  # type: ignore[no-untyped-call]
            with torch.inference_mode():
                features = [trunk(model, images[[position]]) for position in places.tolist()]
            affine = data.splits["train"].affines(places)
            targets = task.targets(data.splits["train"], places, views=torch.zeros_like(places), affine=affine)
            loss = task.loss(module(torch.cat(features).clone()), targets)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.item() * len(places)
        assert row.train_loss == pytest.approx(total / TRAIN, rel=1e-4)
        if row.epoch == cached.best_epoch:
            state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    image_by_image = time.perf_counter() - began
    torch.testing.assert_close(cached.module.state_dict(), state, rtol=1e-3, atol=1e-4)
    print(
        f"an epoch on cached maps takes {with_cache / chosen.epochs:.3f} s (once before: {extracted:.3f} s), "
        f"image by image {image_by_image / chosen.epochs:.3f} s: {image_by_image / with_cache:.0f} times"
    )


# --- refit


@pytest.mark.parametrize("epochs", ["auto", 12])
def test_the_refit_of_a_detector_goes_on_to_the_last_epoch(
    turned: Make, monkeypatch: pytest.MonkeyPatch, epochs: Any
) -> None:
    falling = iter(range(12, 0, -1))
    monkeypatch.setattr(tasks.DetectionTask, "map_50", lambda *_: float(next(falling)))
    for least in ("EPOCHS", "FEWEST_STEPS"):  # so that auto takes the fewest epochs: 12
        monkeypatch.setattr(f"stages.training.epochs.{least}", 1)
    seen: list[int] = []
    one_epoch = loop._one_epoch

    def spy(module: nn.Module, split: SplitData, *rest: Any) -> Any:
        seen.append(len(split.y))
        return one_epoch(module, split, *rest)

    monkeypatch.setattr(loop, "_one_epoch", spy)
    params = turned(epochs=epochs, refit="trainval", monitor="val_map_50", early_stopping_patience=12)
    trained = train.train(on_maps(), params, Path("head"))
    described = {str(path): description for path, _, description in trained.heads}
    assert described["head"]["best_epoch"] == 1  # of the first training: the page reads its history
    assert described["head"]["refit_epochs"] == 12
    assert seen == [TRAIN] * 12 + [TRAIN + VAL] * 12


def test_a_refit_trains_on_train_and_val_for_the_chosen_epochs(turned: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    data, chosen = on_maps(views=2), turned(refit="trainval", epochs=5)
    seen: list[SplitData] = []
    one_epoch = loop._one_epoch

    def spy(module: nn.Module, train: SplitData, *rest: Any) -> Any:
        seen.append(train)
        return one_epoch(module, train, *rest)

    monkeypatch.setattr(loop, "_one_epoch", spy)
    result = loop.refit("grid", data, params=chosen, device=CPU, epochs=3)
    assert result.best_epoch == len(result.history) == len(seen) == 3
    assert {len(train.y) for train in seen} == {TRAIN + VAL}
    joined = seen[0]
    assert joined.index_positions == list(range(TRAIN + VAL)) and joined.ground_truth
    for name, places in (("train", slice(0, TRAIN)), ("val", slice(TRAIN, None))):
        own = data.splits[name].ground_truth
        assert own and joined.ground_truth.truths[places] == own.truths
        assert torch.equal(joined.ground_truth.affine[places], own.affine)
        assert torch.equal(joined.x[places], data.splits[name].x)


def test_a_refit_keeps_the_last_epoch_and_not_the_best(turned: Make) -> None:
    data, chosen = on_maps(), turned(epochs=2)
    last = loop.refit("grid", data, params=chosen, device=CPU, epochs=2).module.state_dict()
    data.splits["train"] = data.splits["train"].join(data.splits["val"])
    trained = loop.fit("grid", data, params=chosen, device=CPU, last=True).module.state_dict()
    assert all(torch.equal(tensor, trained[name]) for name, tensor in last.items())


# --- what is asked for


class Fixed(nn.Module):
    """A head that gives the numbers of its input."""

    shape = (CHANNELS, SIDE, SIDE)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def task_of(head: str, chosen: Any) -> tasks.DetectionTask:
    knobs = chosen.model_dump() | chosen.boxes.model_dump() | {"precision": "float32", "anchor_sizes": [[0.3, 0.3]]}
    whole: Any = Fixed()
    return tasks.DetectionTask(head, whole, HEADS[head].read(knobs), classes=3, params=chosen)


@pytest.mark.parametrize("head", [*OBJECT_HEADS])
def test_difficult_objects_are_asked_of_no_head(turned: Make, head: str) -> None:
    task = task_of(head, turned(head=head))
    both = truth([[4, 4, 24, 24], [30, 30, 62, 62]], [0, 1], ignored=(1,))
    single = truth([[4, 4, 24, 24]], [0])
    nothing = torch.zeros(2, 1, CHANNELS, SIDE, SIDE)
    split_data, places = split(nothing, [both, single]), torch.arange(2)
    asked = task.targets(split_data, places, views=torch.zeros(2).long(), affine=split_data.affines(places))
    assert torch.equal(asked[0], asked[1])


def test_targets_follow_the_view(turned: Make) -> None:
    """In the mirror image the object of the first column of the grid is asked of the last."""
    task = task_of("grid", turned())
    split_data = split(torch.zeros(1, 2, CHANNELS, SIDE, SIDE), [truth([[0, 0, 12, 12]], [1])])
    position = torch.tensor([0])
    for view, column in ((0, 0), (1, SIDE - 1)):
        views = torch.tensor([view])
        asked = task.targets(split_data, position, views=views, affine=split_data.affines(position, views))
        assert asked[0, ..., 0].nonzero().tolist() == [[0, column]]


def test_targets_of_a_view_that_comes_again_are_made_once(turned: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    task, split_data = task_of("grid", turned()), on_maps(views=2).splits["train"]
    places = torch.arange(TRAIN)
    first = task.targets(split_data, places, views=torch.ones(TRAIN).long(), affine=split_data.affines(places, 1))
    monkeypatch.setattr(task.head, "targets", lambda *_: pytest.fail("made again"))
    assert torch.equal(
        first, task.targets(split_data, places, views=torch.ones(TRAIN).long(), affine=split_data.affines(places, 1))
    )


def test_anchors_are_clustered_from_the_boxes_of_train(turned: Make) -> None:
    data, chosen = on_maps(), turned(head="anchors")
    result = loop.fit("anchors", data, params=chosen, device=CPU)
    shapes = {(30 / SIZE, 32 / SIZE), *((16 / SIZE, height / SIZE) for height in (12, 13, 14))}
    assert len(result.knobs["anchor_sizes"]) == 2
    assert result.knobs["anchor_sizes"][1] == pytest.approx(max(shapes))
    assert result.knobs["anchor_sizes"][0][0] == pytest.approx(16 / SIZE)
    assert 0.9 < result.notes["anchor_iou"] == result.knobs["anchor_iou"] <= 1
    few = on_maps(train=[truth([[0, 0, 8, 8]], [0])] * TRAIN)
    with pytest.raises(UserError, match="2 anchors need 2 boxes of different sizes, train has 1"):
        loop.fit("anchors", few, params=chosen, device=CPU)


# --- how they are judged


def test_the_accuracy_of_the_largest_is_over_images_with_an_object(turned: Make) -> None:
    chosen = turned(head="largest", boxes={"predict": "class"})
    task = task_of("largest", chosen)
    truths = [truth([[0, 0, 9, 9]], [0]), truth([], []), truth([[0, 0, 9, 9], [0, 0, 30, 30]], [0, 2])]
    logits = torch.tensor([[9.0, 0, 0], [0, 9, 0], [9, 0, 0]])[:, None]
    assert task.evaluate(Fixed(), split(logits, truths)).accuracy == 0.5


def test_the_accuracy_is_over_objects_in_the_view_and_of_none_there_is_none(turned: Make) -> None:
    chosen = turned(head="largest", boxes={"predict": "class"})
    logits = torch.tensor([[9.0, 0, 0], [9, 0, 0]])[:, None]
    beside = truth([[100, 100, 120, 120]], [0])  # of an image larger than the view
    for first, accuracy in ((truth([[0, 0, 9, 9]], [0]), 1.0), (truth([], []), None)):
        assert task_of("largest", chosen).evaluate(Fixed(), split(logits, [first, beside])).accuracy == accuracy


def test_boxes_alone_have_no_accuracy(turned: Make) -> None:
    task = task_of("largest", turned(head="largest", boxes={"predict": "box"}))
    judged = task.evaluate(Fixed(), split(torch.zeros(2, 1, 4), [scene(0), scene(1)]))
    assert judged.accuracy is None and judged.map_50 is None


def test_what_the_views_of_an_image_find_is_merged_in_its_pixels(turned: Make) -> None:
    """A head that sees an object at the same place of both views means two objects of the image."""
    task = task_of("grid", turned(head="grid"))
    raw = torch.full((1, 2, 1, SIDE, 8), -20.0)  # object, box, three classes
    raw[:, :, 0, 0, :] = torch.tensor([9.0, 0.0, 0.0, -1.0, -1.0, 9.0, 0.0, 0.0])
    split_data = split(raw, [scene(0)])
    single, both = (task.detect(Fixed(), split_data, iou=0.5, views=views)[0] for views in (1, 2))
    sure = [detections.pick(detections.scores > 0.5) for detections in (single, both)]
    assert [len(detections.boxes) for detections in sure] == [1, 2]
    mirrored = sure[0].boxes[:, [2, 1, 0, 3]] * torch.tensor([-1, 1, -1, 1]) + torch.tensor([SIZE, 0, SIZE, 0])
    expected = torch.cat([sure[0].boxes, mirrored])
    assert torch.allclose(sure[1].boxes[sure[1].boxes[:, 0].argsort()], expected, atol=1e-4)


def test_views_that_agree_give_each_object_once(turned: Make) -> None:
    task = task_of("largest", turned(head="largest", boxes={"box_sigmoid": False}))
    sees = torch.tensor([[0.25, 0.5, 0.2, 0.2, 5, 0, 0], [0.75, 0.5, 0.2, 0.2, 4, 0, 0]])  # mirror images
    (actual,) = task.detect(Fixed(), split(sees[None], [scene(0)]), iou=0.5, views=2)
    assert len(actual.boxes) == 1 and actual.boxes[0].tolist() == pytest.approx([9.6, 25.6, 22.4, 38.4], abs=1e-4)


@pytest.mark.parametrize("merge", ["nms", "vote", "fusion"])
def test_the_views_of_an_image_can_be_merged_one_after_the_other(turned: Make, merge: str) -> None:
    task = task_of("largest", turned(head="largest", boxes={"box_sigmoid": False}))
    sees = torch.tensor([[0.25, 0.5, 0.2, 0.2, 5, 0, 0], [0.7, 0.5, 0.2, 0.2, 4, 0, 0]])
    of_one = split(sees[None], [scene(0)])
    ((first, second),) = task.detect_views(Fixed(), of_one, views=2, merge=merge)
    for count, found in ((1, [first]), (2, [first, second])):
        (expected,) = task.detect(Fixed(), of_one, iou=0.5, views=count, merge=merge)
        assert all(map(torch.equal, merge_views(found, 0.5, merge), expected))


def test_what_a_crop_cuts_does_not_count_except_with_fusion(turned: Make) -> None:
    """Both views are the left half of an image twice as wide; the second one sees an object at its right border."""
    task = task_of("largest", turned(head="largest", boxes={"box_sigmoid": False}))
    sees = torch.tensor([[0.3, 0.5, 0.2, 0.2, 5, 0, 0], [0.9, 0.5, 0.2, 0.2, 5, 0, 0]])
    halves = split(sees[None], [scene(0)])
    assert halves.ground_truth
    wide = torch.tensor([[2 * SIZE, SIZE]])
    affine = torch.eye(2, 3).expand(1, 2, 2, 3)
    halves = replace(halves, ground_truth=replace(halves.ground_truth, extents=wide, affine=affine))
    for merge, found in (("nms", 1), ("vote", 1), ("fusion", 2)):
        (actual,) = task.detect(Fixed(), halves, iou=0.5, views=2, merge=merge)
        assert len(actual.boxes) == found


# --- scenes that are out of the ordinary


@pytest.mark.parametrize("head", OBJECT_HEADS)
def test_a_part_without_any_object_trains_and_is_judged(turned: Make, head: str) -> None:
    chosen = turned(head=head, monitor="val_map_50", boxes={"anchor_count": 1})
    empty = on_maps(val=[truth([], [])] * VAL, train=[scene(0), truth([], [])] * 3)
    result = loop.fit(head, empty, params=chosen, device=CPU)
    assert result.history[0].val_map_50 == 0 and result.history[0].val_accuracy is None
    task = boxes_task(result, head, empty, chosen)
    assert len(task.detect(result.module, empty.splits["val"], iou=0.5)) == VAL


@pytest.mark.parametrize("head", OBJECT_HEADS)
def test_three_hundred_objects_in_an_image(turned: Make, head: str) -> None:
    corners = torch.rand(300, 2, generator=torch.Generator().manual_seed(0)) * 50
    crowded = truth(torch.cat([corners, corners + 8], 1).tolist(), [number % 3 for number in range(300)])
    data = on_maps(train=[crowded, *[scene(number) for number in range(5)]])
    chosen = turned(head=head, boxes={"anchor_count": 1})
    result = loop.fit(head, data, params=chosen, device=CPU)
    assert result.history and all(epoch.val_loss < float("inf") for epoch in result.history)
    module: HeadModel = result.module
    (first, *_) = boxes_task(result, head, data, chosen).detect(module, data.splits["train"], iou=0.99)
    assert isinstance(first, Detections) and len(first.boxes) <= 100


@pytest.mark.parametrize("count", [1, 255, 256, 257, 1000, 5003])
def test_the_scores_of_many_images_are_those_of_all_logits_at_once_bit_by_bit(params: Make, count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    x, y = torch.randn(count, 1, 12, generator=generator), torch.randint(7, (count,), generator=generator)
    net = nn.Linear(12, 7)
    with torch.no_grad():
        net.weight.copy_(torch.randn(7, 12, generator=generator))
    task = tasks.ClassificationTask(params(), None)
    scores = task.evaluate(net, SplitData(x, y, list(range(count))))
    with torch.inference_mode():
        logits = torch.cat([net(x[first : first + 256, 0]) for first in range(0, count, 256)])
    assert scores.loss == float(nn.functional.cross_entropy(logits, y))
    assert scores.accuracy == float((logits.argmax(1) == y).float().mean())
