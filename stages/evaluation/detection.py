"""Judging a head that finds objects."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from safetensors.torch import save

from stages import files, paths
from stages.boxes import ops
from stages.boxes.geometry import Detections, GroundTruth, through
from stages.datasets import index_file
from stages.datasets.index_file import IndexRow
from stages.evaluation import common, prediction_list
from stages.heads.options import LargestOptions
from stages.heads.registry import HEADS
from stages.metrics import detection, largest, mistakes
from stages.metrics.detection import Curve
from stages.params import Params
from stages.training import model, tasks
from stages.training.data import HeadData, SplitData
from stages.training.model import HeadModel

POINTS = 101  # of a precision-recall curve as it is drawn
SIZES = 5  # groups of objects by area
BY_VIEWS = ("accuracy", "map_50", "mean_iou")  # what is told of each number of views, as far as a head has it
Score = Callable[[SplitData, Sequence[Detections], HeadData, str], dict[str, float]]


def evaluate(params: Params, found: HeadData, head: HeadModel, described: Mapping[str, Any]) -> dict[str, object]:
    """Writes metrics, plots, and the boxes found in every val and test image."""
    views = params.views if params.decide.tta else 1
    judged = "test" if len(found.splits["test"].y) else "val"
    task = _task(head, described, found, params)
    each = {name: _find(task, head, found.splits[name], params, views) for name in ("val", "test")}
    kind = HEADS[described["head"]].task
    metrics = common.about(kind, params, found, described) | common.sizes(head, found, described)
    metrics |= {"n_objects": _objects(found.splits[judged]), **_unheld(task, found.splits["train"])}
    score: Score = _largest if kind == "largest" else _detection
    predict = _predicts(task)
    if judged == "test":
        metrics |= score(found.splits["test"], each["test"], found, predict)
    validation = score(found.splits["val"], _chosen(each["val"], found, params, views), found, predict)
    metrics |= {f"val_{name}": value for name, value in validation.items()}
    if kind == "largest":
        metrics |= _typical(found, judged)
    written = common.write_metrics(metrics)
    _write_predictions(params, found, each, judged, _asked(found) if kind == "largest" else {})
    views_rows = _views(task, head, found, found.splits[judged], score, params)
    plots = {"per_class": _counts(found)} if kind == "largest" else _plots(found, each[judged], judged)
    common.write_plots(plots | {"views": views_rows})
    name = "map_50" if kind == "detection" else "mean_iou" if predict != "class" else "accuracy"
    return {f"{judged} images": len(each[judged]), name: written.get(name, written.get(f"val_{name}"))}


def _task(head: HeadModel, described: Mapping[str, Any], found: HeadData, params: Params) -> tasks.DetectionTask:
    options = HEADS[described["head"]].read(described["knobs"])
    return tasks.DetectionTask(described["head"], head, options, classes=len(found.classes), params=params)


def _predicts(task: tasks.DetectionTask) -> str:
    """What the head predicts of an object: `box`, `class` or `both`."""
    return task.options.predict if isinstance(task.options, LargestOptions) else "both"


def _find(task: tasks.DetectionTask, head: HeadModel, split: SplitData, params: Params, views: int) -> list[Detections]:
    return task.find(head, split, params.decide.nms_iou, views, params.decide.merge)


def _chosen(found: list[Detections], data: HeadData, params: Params, views: int) -> list[Detections]:
    """What the head as validation has chosen it finds in val: after a refit the kept head has trained on these."""
    folder = paths.HEAD / "chosen"
    if not folder.is_dir():
        return found
    head, described = model.load_head(folder)
    split = data.splits["val"]
    task = _task(head, described, data, params)
    return _find(task, head.to(split.y.device), split, params, views)


def _truths(split: SplitData) -> list[GroundTruth]:
    assert split.ground_truth is not None
    return split.ground_truth.truths


def _objects(split: SplitData) -> int:
    return sum(int((~(truth.ignored | truth.crowd)).sum()) for truth in _truths(split))


def _unheld(task: tasks.DetectionTask, train: SplitData) -> dict[str, float]:
    """Objects of train that the head cannot hold, by its design, and their share."""
    assert train.ground_truth is not None
    maps = train.affines(torch.arange(len(train.y)))
    assert maps is not None
    seen = [train.ground_truth.in_view(image, affine)[0] for image, affine in enumerate(maps)]
    unassigned = sum(task.head.unassigned(one, task.options, task.shape) for one in seen)
    return {"unheld": unassigned, "unheld_share": unassigned / max(1, sum(map(len, seen)))}


def _detection(split: SplitData, found: Sequence[Detections], data: HeadData, predict: str) -> dict[str, float]:
    return detection.scores(_truths(split), found, len(data.classes)) if len(split.y) else {}


def _largest(split: SplitData, found: Sequence[Detections], data: HeadData, predict: str) -> dict[str, float]:
    """Scores over the images with an object, in the view: that is what the head sees."""
    answers = _answers(split)
    there = [image for image, answer in enumerate(answers) if answer is not None]
    if not there:
        return {}
    true_boxes = torch.stack([answers[image][0] for image in there])  # type: ignore[index]
    true_labels = torch.stack([answers[image][1] for image in there])  # type: ignore[index]
    own_boxes = torch.stack([_in_view(split, image, found[image].boxes[:1])[0] for image in there])
    own_labels = torch.stack([found[image].labels[0] for image in there])
    scores: dict[str, float] = {}
    if predict != "class":
        scores |= largest.box_scores(own_boxes, true_boxes, data.provenance["image_size"])
    if predict != "box":
        scores |= largest.class_scores(own_labels, true_labels)
    if predict == "both":
        scores |= largest.both_scores(own_boxes, true_boxes, own_labels, true_labels)
    return scores


def _answers(split: SplitData) -> list[tuple[torch.Tensor, torch.Tensor] | None]:
    """Box and label of the largest object in the evaluation view of each image; None where there is none."""
    assert split.ground_truth is not None
    maps = split.affines(torch.arange(len(split.y)))
    assert maps is not None
    answers = list[tuple[torch.Tensor, torch.Tensor] | None]()
    for image, affine in enumerate(maps):
        seen, labels = split.ground_truth.in_view(image, affine)
        which = int(ops.box_area(seen).argmax()) if len(seen) else None
        answers.append(None if which is None else (seen[which], labels[which]))
    return answers


def _in_view(split: SplitData, image: int, found: torch.Tensor) -> torch.Tensor:
    assert split.ground_truth is not None
    maps = split.affines(torch.tensor([image]))
    assert maps is not None
    return through(found, maps[0]) / split.ground_truth.size


def _typical(data: HeadData, judged: str) -> dict[str, float]:
    """What needs no training: the mean box and the most frequent class of train's largest objects."""
    train = [answer for answer in _answers(data.splits["train"]) if answer is not None]
    asked = [answer for answer in _answers(data.splits[judged]) if answer is not None]
    if not train or not asked:
        return {}
    centres = ops.box_convert(torch.stack([box for box, _ in train]), "xyxy", "cxcywh").mean(0)
    typical = ops.box_convert(centres, "cxcywh", "xyxy").expand(len(asked), 4)
    scores = largest.box_scores(typical, torch.stack([box for box, _ in asked]), data.provenance["image_size"])
    frequent = torch.stack([label for _, label in train]).mode().values
    labels = torch.stack([label for _, label in asked])
    return {"typical_mean_iou": scores["mean_iou"], "majority": float((labels == frequent).double().mean())}


def _asked(data: HeadData) -> dict[str, torch.Tensor]:
    """The largest object in the evaluation view of each val and test image, in pixels of the image: its box and label.

    An image without one has the label -1. In these pixels overlaps are those of the view.
    """
    tensors: dict[str, torch.Tensor] = {}
    for name in ("val", "test"):
        split = data.splits[name]
        maps = split.affines(torch.arange(len(split.y)))
        assert maps is not None and split.ground_truth is not None
        boxes, labels = torch.zeros(len(split.y), 4), torch.full((len(split.y),), -1)
        for image, answer in enumerate(_answers(split)):
            if answer is not None:
                box, labels[image] = answer
                whole = Detections(box[None], torch.ones(1), labels[[image]])
                boxes[image] = split.ground_truth.to_image(image, whole, maps[image]).boxes[0]
        tensors |= {f"{name}_asked_boxes": boxes, f"{name}_asked_labels": labels}
    return tensors


def _views(
    task: tasks.DetectionTask, head: HeadModel, data: HeadData, split: SplitData, score: Score, params: Params
) -> Iterator[dict[str, object]]:
    """The scores when the first so many views are merged."""
    for count in range(1, params.views + 1) if params.views > 1 else ():
        scores = score(split, _find(task, head, split, params, count), data, _predicts(task))
        yield {"views": count, **{name: f"{scores[name]:.6f}" for name in BY_VIEWS if name in scores}}


def _plots(data: HeadData, found: Sequence[Detections], judged: str) -> dict[str, list[dict[str, object]]]:
    curves = detection.curves(_truths(data.splits[judged]), found, len(data.classes))
    per_class = [
        row | {"ap_50": f"{detection.area(curve):.4f}" if curve.truths else ""}
        for row, curve in zip(_counts(data), curves, strict=True)
    ]
    named = zip(data.classes, curves, strict=True)
    points = [{"class": name, **point} for name, curve in named for point in _drawn(curve)]
    return {"per_class": per_class, "precision_recall": points}


def _counts(data: HeadData) -> list[dict[str, object]]:
    """The objects of each class in each part."""
    counts = {f"n_{name}": _counted(split, len(data.classes)) for name, split in data.splits.items()}
    return [
        {"class": name} | {key: each[label] for key, each in counts.items()} for label, name in enumerate(data.classes)
    ]


def _counted(split: SplitData, classes: int) -> list[int]:
    """Objects of each class that count."""
    labels = [truth.labels[~(truth.ignored | truth.crowd)] for truth in _truths(split)]
    counts: list[int] = torch.bincount(torch.cat([*labels, torch.zeros(0).long()]), minlength=classes).tolist()
    return counts


def _drawn(curve: Curve) -> Iterator[dict[str, object]]:
    """A curve at evenly spread points, as many as it has or POINTS."""
    last = len(curve.recall) - 1
    if last < 0 or not curve.truths:
        return
    for place in torch.linspace(0, last, min(POINTS, last + 1)).round().long().tolist():
        yield {"recall": f"{curve.recall[place]:.4f}", "precision": f"{curve.precision[place]:.4f}"}


def _write_predictions(
    params: Params,
    data: HeadData,
    each: Mapping[str, Sequence[Detections]],
    judged: str,
    asked: Mapping[str, torch.Tensor],
) -> None:
    """The boxes of all images one after the other, with the image and the kind of mistake of each."""
    rows = index_file.read(params.dataset)
    tensors = dict(asked)
    for name, found in each.items():
        sorted_out = [mistakes.sort(truth, one) for truth, one in zip(_truths(data.splits[name]), found, strict=True)]
        kept = [one.found for one in sorted_out]
        counts = torch.tensor([len(one.scores) for one in kept], dtype=torch.long)
        tensors |= {
            f"{name}_boxes": torch.cat([torch.zeros(0, 4), *(one.boxes for one in kept)]),
            f"{name}_scores": torch.cat([torch.zeros(0), *(one.scores for one in kept)]),
            f"{name}_labels": torch.cat([torch.zeros(0).long(), *(one.labels for one in kept)]),
            f"{name}_images": torch.arange(len(kept)).repeat_interleave(counts),
            f"{name}_kinds": torch.cat([torch.zeros(0).long(), *(one.kinds for one in sorted_out)]),
            f"{name}_meant": torch.cat([torch.zeros(0).long(), *(one.meant for one in sorted_out)]),
        }
    files.write_bytes(paths.PREDICTIONS / "boxes.safetensors", save({n: t.contiguous() for n, t in tensors.items()}))
    images = {name: [rows[row] for row in data.splits[name].index_positions] for name in each}
    _write_list(params, data, images, tensors)
    truths, found = _truths(data.splits[judged]), each[judged]
    described = {
        "classes": data.classes,
        "decide": params.decide.model_dump(),
        "images": {name: [row.sha256 for row in split] for name, split in images.items()},
        "kinds": mistakes.KINDS,
        "mistakes": mistakes.counts(truths, found),
        "costs": mistakes.costs(truths, found, len(data.classes)),
        "recall_by_size": _recall_by_size(truths, found),
    }
    files.write_json(paths.PREDICTIONS / "predictions.json", described, sort_keys=True)


def _write_list(
    params: Params, data: HeadData, images: Mapping[str, Sequence[IndexRow]], tensors: Mapping[str, torch.Tensor]
) -> None:
    """Writes `reports/predictions.csv`."""
    if params.head == "largest":
        prediction_list.write_largest(images, tensors, classes=data.classes, predict=params.boxes.predict)
    else:
        prediction_list.write_detections(
            images, tensors, classes=data.classes, kinds=mistakes.KINDS, confidence=params.decide.confidence
        )


def _recall_by_size(truths: Sequence[GroundTruth], found: Sequence[Detections]) -> list[dict[str, float]]:
    """The share of objects that are found at an IoU of 0.5, in groups of equal numbers by their side in pixels."""
    sides, hits = list[torch.Tensor](), list[torch.Tensor]()
    for truth, one in zip(truths, found, strict=True):
        counts = ~(truth.ignored | truth.crowd)
        hit = torch.zeros(len(truth.labels), dtype=torch.bool)
        matched = detection.match(truth, detection.kept(one)).truth
        hit[matched[matched >= 0]] = True
        sides.append(ops.box_area(truth.boxes[counts]).sqrt())
        hits.append(hit[counts])
    side, hit = torch.cat([*sides, torch.zeros(0)]), torch.cat([*hits, torch.zeros(0, dtype=torch.bool)])
    order = side.argsort(stable=True)
    groups = [group for group in order.tensor_split(SIZES) if len(group)]
    return [
        {
            "from": float(side[group].min()),
            "to": float(side[group].max()),
            "objects": len(group),
            "recall": float(hit[group].double().mean()),
        }
        for group in groups
    ]
