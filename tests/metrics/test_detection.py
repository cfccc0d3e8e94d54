"""Pascal VOC's rules by hand, and COCO's numbers against pycocotools."""

import contextlib
import io
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from stages.boxes.geometry import Detections, GroundTruth
from stages.metrics.detection import COCO_NAMES, FLOOR, MOST, area, coco, curves, eleven, match, scored, scores
from tests.boxes.drawing import plain_iou
from tests.metrics.scenes import FAR, SQUARE, found, scene, truth


def verdicts(objects: GroundTruth, boxes: Detections) -> str:
    """H for a hit, F for a false alarm, - for neither."""
    matched = match(objects, boxes)
    letters = ["H" if hit >= 0 else "F" for hit in matched.truth.tolist()]
    return "".join(letter if counts else "-" for letter, counts in zip(letters, matched.counted.tolist(), strict=True))


def test_each_object_is_found_once_by_the_box_with_the_highest_score() -> None:
    close = [0.0, 0.0, 10.0, 8.0]
    assert verdicts(truth([SQUARE]), found([close, SQUARE], [0.9, 0.8])) == "HF"  # the later one fits better: no matter
    assert verdicts(truth([SQUARE, SQUARE]), found([SQUARE, SQUARE], [0.9, 0.8])) == "HF"  # nor looks it further


def test_right_and_bottom_are_exclusive_and_an_iou_of_exactly_a_half_is_enough() -> None:
    assert verdicts(truth([SQUARE]), found([[0.0, 0.0, 10.0, 5.0]], [0.9])) == "H"
    assert verdicts(truth([SQUARE]), found([[0.0, 0.0, 10.0, 4.9]], [0.9])) == "F"
    # 65 of 135; with inclusive corners it would be 82.5 of 159.5, more than a half
    assert verdicts(truth([SQUARE]), found([[3.5, 0.0, 13.5, 10.0]], [0.9])) == "F"


def test_the_class_must_be_right() -> None:
    assert verdicts(truth([SQUARE]), found([SQUARE], [0.9], [1])) == "F"


def test_a_difficult_object_counts_neither_way_however_often_it_is_found() -> None:
    assert verdicts(truth([SQUARE], ignored=(0,)), found([SQUARE, SQUARE, FAR], [0.9, 0.8, 0.7])) == "--F"
    with_it = scores([truth([SQUARE, FAR], ignored=(0,))], [found([SQUARE, FAR], [0.9, 0.8])], 1)
    missed = scores([truth([SQUARE, FAR], ignored=(0,))], [found([FAR], [0.8])], 1)
    without = scores([truth([FAR])], [found([FAR], [0.8])], 1)
    assert with_it == missed == without
    assert with_it["map_50"] == with_it["map_50_voc07"] == with_it["map_50_95"] == 1


def test_what_lies_in_a_crowd_by_half_counts_neither_way() -> None:
    crowd = truth([[0.0, 0.0, 100.0, 100.0], FAR], crowd=(0,))
    boxes = [FAR, FAR, SQUARE, [95.0, 0.0, 105.0, 10.0], [96.0, 0.0, 106.0, 10.0]]
    assert verdicts(crowd, found(boxes, [0.9, 0.8, 0.7, 0.6, 0.5])) == "H---F"
    assert verdicts(truth([[0.0, 0.0, 100.0, 100.0]], crowd=(0,)), found([SQUARE], [0.9], [1])) == "F"


def test_a_crowd_is_never_hit_itself() -> None:
    crowd_and_object = truth([SQUARE, [0.0, 0.0, 10.0, 8.0]], crowd=(0,))
    assert verdicts(truth([SQUARE, FAR], crowd=(0,)), found([SQUARE], [0.9])) == "-"
    assert match(crowd_and_object, found([SQUARE], [0.9])).truth.tolist() == [1]  # though it fits the crowd better


def test_average_precision_by_hand() -> None:
    """Three objects; hit, false, hit, false: precision 1, 1/2, 2/3, 1/2 at recall 1/3, 1/3, 2/3, 2/3."""
    objects = truth([SQUARE, FAR, [100.0, 0.0, 110.0, 10.0]])
    nowhere = [200.0, 0.0, 210.0, 10.0]
    (curve,) = curves([objects], [found([SQUARE, nowhere, FAR, nowhere], [0.9, 0.8, 0.7, 0.6])], 1)
    assert curve.recall.tolist() == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3])
    assert curve.precision.tolist() == pytest.approx([1, 1 / 2, 2 / 3, 1 / 2])
    assert curve.truths == 3
    assert area(curve) == pytest.approx(1 / 3 + 2 / 3 / 3)
    assert eleven(curve) == pytest.approx((4 * 1 + 3 * 2 / 3) / 11)  # at 0 to 0.3, at 0.4 to 0.6


def test_a_recall_of_exactly_a_level_reaches_it() -> None:
    rows = [[20.0 * position, 0.0, 20.0 * position + 10, 10.0] for position in range(10)]
    for hits in range(11):
        (curve,) = curves([truth(rows)], [found(rows[:hits], [0.9] * hits)], 1)
        assert eleven(curve) == pytest.approx((hits + 1) / 11 if hits else 0)
        assert area(curve) == pytest.approx(hits / 10)


def test_classes_without_objects_are_left_out_of_the_mean() -> None:
    found_both = found([SQUARE, FAR], [0.9, 0.8], [0, 2])
    assert scores([truth([SQUARE])], [found_both], 3)["map_50"] == 1
    assert scores([truth([SQUARE, FAR], [0, 1])], [found_both], 3)["map_50"] == 0.5


def test_numbers_without_objects_are_left_out() -> None:
    assert scores([truth([])], [found([SQUARE], [0.9])], 2) == {}
    assert "map_large" not in scores([truth([SQUARE])], [found([], [])], 1)
    assert scores([truth([SQUARE])], [found([], [])], 1)["map_small"] == 0


def test_the_best_hundred_above_the_floor_are_scored() -> None:
    boxes = [[float(position), 0.0, position + 5.0, 5.0] for position in range(MOST + 20)]
    order = torch.randperm(len(boxes), generator=torch.Generator().manual_seed(0))
    confidence = torch.linspace(0.2, 0.9, len(boxes))[order]
    best = scored(found(boxes, confidence.tolist()))
    assert torch.equal(best.scores, confidence.sort(descending=True).values[:MOST])
    assert scored(found([SQUARE] * 3, [FLOOR / 2, 2 * FLOOR, FLOOR / 2])).scores.tolist() == pytest.approx([2 * FLOOR])


class WithIgnored(COCOeval):  # type: ignore[misc]
    """pycocotools overwrites a box's flag `ignore`; here it holds."""

    def _prepare(self) -> None:
        super()._prepare()
        for annotations in self._gts.values():
            for annotation in annotations:
                annotation["ignore"] = annotation["ignore"] or annotation["set_aside"]


def by_pycocotools(truths: list[GroundTruth], items: list[Detections], classes: int) -> list[float]:
    objects: list[dict[str, Any]] = []
    boxes: list[list[float]] = []
    for image, (objects_here, item) in enumerate(zip(truths, items, strict=True), start=7):
        for (x1, y1, x2, y2), label, ignored, crowd in zip(*(field.tolist() for field in objects_here), strict=True):
            flags = {"iscrowd": int(crowd), "set_aside": ignored}
            where = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
            objects.append({"id": len(objects) + 1, "image_id": image, "category_id": label + 3, **where, **flags})
        for (x1, y1, x2, y2), score, label in zip(*(field.tolist() for field in item), strict=True):
            if score >= FLOOR:
                boxes.append([image, x1, y1, x2 - x1, y2 - y1, score, label + 3])
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        images = [{"id": image} for image in range(7, 7 + len(truths))]
        categories = [{"id": label + 3} for label in range(classes)]
        reference.dataset = {"images": images, "categories": categories, "annotations": objects}
        reference.createIndex()
        results = [
            {"image_id": int(row[0]), "bbox": row[1:5], "score": row[5], "category_id": int(row[6])} for row in boxes
        ]
        evaluation = WithIgnored(reference, reference.loadRes(results) if results else COCO(), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return list(evaluation.stats[:6])


def test_coco_numbers_are_those_of_pycocotools_on_200_scenes() -> None:
    for seed in range(200):
        classes = 1 + seed % 4
        truths, items = scene(seed, classes)
        values = coco(truths, items, classes)
        assert [values[name] for name in COCO_NAMES] == pytest.approx(by_pycocotools(truths, items, classes), abs=1e-6)


def plain_ap(truths: list[GroundTruth], items: list[Detections], label: int) -> tuple[float, float] | None:
    """VOC's average precisions as the devkit computes them: one box after the other. Scenes without crowds."""
    mine = [item.pick(item.labels == label) for item in items]
    rows = [(-float(s), image, box) for image, item in enumerate(mine) for box, s, _ in zip(*item, strict=True)]
    ranked = sorted(rows, key=lambda row: row[0])
    objects = [[(b.tolist(), bool(i)) for b, k, i, _ in zip(*t, strict=True) if k == label] for t in truths]
    total = sum(not ignored for image in objects for _, ignored in image)
    if not total:
        return None
    taken: set[tuple[int, int]] = set()
    hits = falses = 0
    points = []
    for _, image, box in ranked:
        overlap = [plain_iou(box.tolist(), other) for other, _ in objects[image]]
        best = max(range(len(overlap)), key=overlap.__getitem__) if overlap else -1
        if best >= 0 and overlap[best] >= 0.5:
            if objects[image][best][1]:
                continue
            if (image, best) not in taken:
                taken.add((image, best))
                hits += 1
            else:
                falses += 1
        else:
            falses += 1
        points.append((hits / total, hits / (hits + falses)))
    levels = sorted({recall for recall, _ in points} - {0.0})
    widths = [b - a for a, b in zip([0.0, *levels], levels, strict=False)]
    under = sum(w * max(p for r, p in points if r >= level) for w, level in zip(widths, levels, strict=True))
    steps = [max([p for r, p in points if r >= step / 10], default=0.0) for step in range(11)]
    return under, sum(steps) / 11


@settings(max_examples=60)
@given(seed=st.integers(0, 100_000), classes=st.integers(1, 3))
def test_voc_numbers_are_those_of_plain_loops(seed: int, classes: int) -> None:
    truths, items = scene(seed, classes)
    truths = [objects._replace(crowd=torch.zeros_like(objects.crowd)) for objects in truths]
    items = [item.pick(item.scores >= FLOOR) for item in items]
    pairs = zip(range(classes), curves(truths, items, classes), strict=True)
    for label, curve in pairs:
        expected = plain_ap(truths, items, label)
        if expected is None:
            assert curve.truths == 0
        else:
            assert (area(curve), eleven(curve)) == pytest.approx(expected, abs=1e-9)


def test_three_hundred_boxes_and_images_without_objects_run() -> None:
    many = [[float(x), float(y), x + 4.0, y + 4.0] for x in range(0, 100, 5) for y in range(0, 75, 5)]
    values = scores([truth(many), truth([])], [found(many, [0.5] * 300), found([], [])], 1)
    assert values["map_50"] == pytest.approx(MOST / 300)
