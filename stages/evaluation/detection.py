"""Evaluation of a head that finds objects: all of them, or the largest one of each image."""

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
from stages.metrics import detection, largest, mistakes, table
from stages.metrics.detection import Curve
from stages.params import Params
from stages.training import tasks
from stages.training.data import HeadData, SplitData
from stages.training.ground_truth import merge_views
from stages.training.model import HeadModel, load_head

POINTS = 101  # of a precision-recall curve in its plot
SIZE_GROUPS = 5  # of objects by their area
BY_VIEWS = ("accuracy", "map_50", "mean_iou")  # metrics that are plotted by the number of views
Score = Callable[[SplitData, Sequence[Detections], HeadData, str], dict[str, float]]


def evaluate(params: Params, data: HeadData, *, head: HeadModel, described: Mapping[str, Any]) -> dict[str, object]:
    """Writes metrics, plots, and the boxes detected in every val and test image.

    Args:
        params: `views`, `decide`, and the names in metrics.json.
        data: the splits, on the device of the head.
        head: the trained head.
        described: the contents of head.json.

    Returns:
        How many images were evaluated, and the score of the headline metric.
    """
    views = params.views if params.decide.tta else 1
    judged = "test" if len(data.splits["test"].y) else "val"
    task, kind = _task(head, described, data, params), HEADS[described["head"]].task
    heads = {"val": _chosen_by_validation(data, params) or (task, head), "test": (task, head)}
    detections = {name: _detect(*scored, data.splits[name], params, views) for name, scored in heads.items()}
    metrics = common.run_facts(kind, params=params, data=data, described=described) | common.parameter_counts(
        head, data, described
    )
    metrics |= {"n_objects": _object_count(data.splits[judged]), **_unassigned(task, data.splits["train"])}
    score: Score = _largest_scores if kind == "largest" else _detection_scores
    predict = _predicted_part(task)
    if judged == "test":
        metrics |= score(data.splits["test"], detections["test"], data, predict)
    validation = score(data.splits["val"], detections["val"], data, predict)
    metrics |= {f"val_{name}": value for name, value in validation.items()}
    if kind == "largest":
        metrics |= _typical_box_baseline(data, judged)
    written = common.write_metrics(metrics)
    _write_predictions(params, data, detections, task, judged)
    view_rows = _scores_by_views(*heads[judged], data, data.splits[judged], score, params)
    plots = {"per_class": _counts(data)} if kind == "largest" else _plots(data, detections[judged], judged)
    common.write_plots(plots | {"views": view_rows})
    return {f"{judged} images": len(detections[judged]), **table.in_words(kind, written)}


def _task(model: HeadModel, described: Mapping[str, Any], data: HeadData, params: Params) -> tasks.DetectionTask:
    options = HEADS[described["head"]].read(described["knobs"])
    return tasks.DetectionTask(described["head"], model, options, classes=len(data.classes), params=params)


def _predicted_part(task: tasks.DetectionTask) -> str:
    """What the head predicts of an object: `box`, `class` or `both`."""
    return task.options.predict if isinstance(task.options, LargestOptions) else "both"


def _detect(
    task: tasks.DetectionTask, model: HeadModel, split: SplitData, params: Params, views: int
) -> list[Detections]:
    return task.detect(model, split, iou=params.decide.nms_iou, views=views, merge=params.decide.merge)


def _chosen_by_validation(data: HeadData, params: Params) -> tuple[tasks.DetectionTask, HeadModel] | None:
    """The head before the refit, which is scored on val; None without a refit."""
    folder = common.scored_folder(paths.HEAD, "val")
    if folder == paths.HEAD:
        return None
    model, described = load_head(folder)
    return _task(model, described, data, params), model.to(data.splits["val"].y.device)


def _truths(split: SplitData) -> list[GroundTruth]:
    assert split.ground_truth is not None
    return split.ground_truth.truths


def _object_count(split: SplitData) -> int:
    return sum(int((~(truth.ignored | truth.crowd)).sum()) for truth in _truths(split))


def _unassigned(task: tasks.DetectionTask, train: SplitData) -> dict[str, float]:
    """How many objects of train the head cannot predict because of its design, and their share."""
    assert train.ground_truth is not None
    affines = train.affines(torch.arange(len(train.y)))
    assert affines is not None
    views = [train.ground_truth.in_view(image, affine)[0] for image, affine in enumerate(affines)]
    unassigned = sum(task.head.unassigned(boxes, task.options, task.shape) for boxes in views)
    return {"unheld": unassigned, "unheld_share": unassigned / max(1, sum(map(len, views)))}


def _detection_scores(
    split: SplitData, detections: Sequence[Detections], data: HeadData, predict: str
) -> dict[str, float]:
    return detection.scores(_truths(split), detections, len(data.classes)) if len(split.y) else {}


def _largest_scores(
    split: SplitData, detections: Sequence[Detections], data: HeadData, predict: str
) -> dict[str, float]:
    """Scores over the images with an object, in coordinates of the view, which is what the head sees."""
    truths = [(image, truth) for image, truth in enumerate(_largest_objects(split)) if truth is not None]
    if not truths:
        return {}
    true_boxes = torch.stack([box for _, (box, _) in truths])
    true_labels = torch.stack([label for _, (_, label) in truths])
    boxes = torch.stack([_in_view(split, image, detections[image].boxes[:1])[0] for image, _ in truths])
    labels = torch.stack([detections[image].labels[0] for image, _ in truths])
    scores: dict[str, float] = {}
    if predict != "class":
        scores |= largest.box_scores(boxes, true_boxes, data.provenance["image_size"])
    if predict != "box":
        scores |= largest.class_scores(labels, true_labels)
    if predict == "both":
        scores |= largest.both_scores(boxes, true_boxes, labels=labels, true_labels=true_labels)
    return scores


def _largest_objects(split: SplitData) -> list[tuple[torch.Tensor, torch.Tensor] | None]:
    """Box (4,) and label () of the largest object in the evaluation view of each image; None if it has no object."""
    assert split.ground_truth is not None
    affines = split.affines(torch.arange(len(split.y)))
    assert affines is not None
    objects = list[tuple[torch.Tensor, torch.Tensor] | None]()
    for image, affine in enumerate(affines):
        boxes, labels = split.ground_truth.in_view(image, affine)
        index = int(ops.box_area(boxes).argmax()) if len(boxes) else None
        objects.append(None if index is None else (boxes[index], labels[index]))
    return objects


def _in_view(split: SplitData, image: int, boxes: torch.Tensor) -> torch.Tensor:
    """Boxes (n, 4) in pixels of an image as boxes in [0, 1] of its evaluation view."""
    assert split.ground_truth is not None
    affines = split.affines(torch.tensor([image]))
    assert affines is not None
    return through(boxes, affines[0]) / split.ground_truth.size


def _typical_box_baseline(data: HeadData, judged: str) -> dict[str, float]:
    """Baselines that need no training: the mean box and the most frequent class of the largest objects of train."""
    train = [truth for truth in _largest_objects(data.splits["train"]) if truth is not None]
    truths = [truth for truth in _largest_objects(data.splits[judged]) if truth is not None]
    if not train or not truths:
        return {}
    mean_box = ops.box_convert(torch.stack([box for box, _ in train]), "xyxy", "cxcywh").mean(0)
    typical = ops.box_convert(mean_box, "cxcywh", "xyxy").expand(len(truths), 4)
    scores = largest.box_scores(typical, torch.stack([box for box, _ in truths]), data.provenance["image_size"])
    frequent = torch.stack([label for _, label in train]).mode().values
    labels = torch.stack([label for _, label in truths])
    return {"typical_mean_iou": scores["mean_iou"], "majority": float((labels == frequent).double().mean())}


def _largest_in_images(data: HeadData) -> dict[str, torch.Tensor]:
    """Box and label of the largest object in the evaluation view of each val and test image, in pixels of the image.

    An image without an object has the label -1. The IoUs are the same in these pixels as in the view.
    """
    tensors: dict[str, torch.Tensor] = {}
    for name in ("val", "test"):
        split = data.splits[name]
        affines = split.affines(torch.arange(len(split.y)))
        assert affines is not None and split.ground_truth is not None
        boxes, labels = torch.zeros(len(split.y), 4), torch.full((len(split.y),), -1)
        for image, truth in enumerate(_largest_objects(split)):
            if truth is not None:
                box, labels[image] = truth
                detection_of_truth = Detections(box[None], torch.ones(1), labels[[image]])
                boxes[image] = split.ground_truth.to_image(image, detection_of_truth, affines[image]).boxes[0]
        tensors |= {f"{name}_asked_boxes": boxes, f"{name}_asked_labels": labels}
    return tensors


def _scores_by_views(
    task: tasks.DetectionTask, model: HeadModel, data: HeadData, split: SplitData, score: Score, params: Params
) -> Iterator[dict[str, object]]:
    """The scores when the first 1, 2, … views are merged."""
    if params.views == 1:
        return
    iou, merge = params.decide.nms_iou, params.decide.merge
    found = task.detect_views(model, split, views=params.views, merge=merge)
    for count in range(1, params.views + 1):
        merged = [merge_views(of_image[:count], iou, merge) for of_image in found]
        scores = score(split, merged, data, _predicted_part(task))
        yield {"views": count, **{name: f"{scores[name]:.6f}" for name in BY_VIEWS if name in scores}}


def _plots(data: HeadData, detections: Sequence[Detections], judged: str) -> dict[str, list[dict[str, object]]]:
    curves = detection.curves(_truths(data.splits[judged]), detections, len(data.classes))
    per_class = [
        row | {"ap_50": f"{detection.area(curve):.4f}" if curve.truths else ""}
        for row, curve in zip(_counts(data), curves, strict=True)
    ]
    named = zip(data.classes, curves, strict=True)
    points = [{"class": name, **point} for name, curve in named for point in _points(curve)]
    return {"per_class": per_class, "precision_recall": points}


def _counts(data: HeadData) -> list[dict[str, object]]:
    """How many objects each class has in each split."""
    counts = {f"n_{name}": _class_counts(split, len(data.classes)) for name, split in data.splits.items()}
    return [
        {"class": name} | {key: split_counts[label] for key, split_counts in counts.items()}
        for label, name in enumerate(data.classes)
    ]


def _class_counts(split: SplitData, classes: int) -> list[int]:
    """How many objects of each class there are, without those that count neither way."""
    labels = [truth.labels[~(truth.ignored | truth.crowd)] for truth in _truths(split)]
    counts: list[int] = torch.bincount(torch.cat([*labels, torch.zeros(0).long()]), minlength=classes).tolist()
    return counts


def _points(curve: Curve) -> Iterator[dict[str, object]]:
    """Points of a curve, evenly spread: POINTS of them, or all if it has fewer."""
    last = len(curve.recall) - 1
    if last < 0 or not curve.truths:
        return
    for index in torch.linspace(0, last, min(POINTS, last + 1)).round().long().tolist():
        yield {"recall": f"{curve.recall[index]:.4f}", "precision": f"{curve.precision[index]:.4f}"}


def _write_predictions(
    params: Params,
    data: HeadData,
    detections: Mapping[str, Sequence[Detections]],
    task: tasks.DetectionTask,
    judged: str,
) -> None:
    """Writes the boxes of all images one after the other, with the image and the kind of mistake of each."""
    rows = index_file.read(params.dataset)
    tensors = _largest_in_images(data) if isinstance(task.options, LargestOptions) else {}
    for name, split_detections in detections.items():
        pairs = zip(_truths(data.splits[name]), split_detections, strict=True)
        verdicts = [mistakes.sort(truth, image_detections) for truth, image_detections in pairs]
        scored = [verdict.detections for verdict in verdicts]
        counts = torch.tensor([len(image_detections.scores) for image_detections in scored], dtype=torch.long)
        tensors |= {
            f"{name}_boxes": torch.cat([torch.zeros(0, 4), *(boxes for boxes, _, _ in scored)]),
            f"{name}_scores": torch.cat([torch.zeros(0), *(scores for _, scores, _ in scored)]),
            f"{name}_labels": torch.cat([torch.zeros(0).long(), *(labels for _, _, labels in scored)]),
            f"{name}_images": torch.arange(len(scored)).repeat_interleave(counts),
            f"{name}_kinds": torch.cat([torch.zeros(0).long(), *(verdict.kinds for verdict in verdicts)]),
            f"{name}_meant": torch.cat([torch.zeros(0).long(), *(verdict.meant for verdict in verdicts)]),
        }
    files.write_bytes(paths.PREDICTIONS / "boxes.safetensors", save({n: t.contiguous() for n, t in tensors.items()}))
    images = {name: [rows[row] for row in data.splits[name].index_positions] for name in detections}
    _write_list(params, data, images, tensors, task)
    truths, judged_detections = _truths(data.splits[judged]), detections[judged]
    described = {
        "classes": data.classes,
        "decide": params.decide.model_dump(),
        "images": {name: [row.sha256 for row in split] for name, split in images.items()},
        "kinds": mistakes.KINDS,
        "mistakes": mistakes.counts(truths, judged_detections),
        "costs": mistakes.costs(truths, judged_detections, len(data.classes)),
        "recall_by_size": _recall_by_size(truths, judged_detections),
    }
    common.write_predictions(described)


def _write_list(
    params: Params,
    data: HeadData,
    images: Mapping[str, Sequence[IndexRow]],
    tensors: Mapping[str, torch.Tensor],
    task: tasks.DetectionTask,
) -> None:
    """Writes `reports/predictions.csv`."""
    if isinstance(task.options, LargestOptions):
        prediction_list.write_largest(images, tensors, classes=data.classes, predict=task.options.predict)
    else:
        prediction_list.write_detections(
            images, tensors, classes=data.classes, kinds=mistakes.KINDS, confidence=params.decide.confidence
        )


def _recall_by_size(truths: Sequence[GroundTruth], detections: Sequence[Detections]) -> list[dict[str, float]]:
    """The share of objects that are detected at an IoU of 0.5, in SIZE_GROUPS groups of equal numbers, by size.

    The size of an object is the square root of its area in pixels.
    """
    sides, hits = list[torch.Tensor](), list[torch.Tensor]()
    for truth, image_detections in zip(truths, detections, strict=True):
        counts = ~(truth.ignored | truth.crowd)
        hit = torch.zeros(len(truth.labels), dtype=torch.bool)
        matched = detection.match(truth, detection.scored(image_detections)).truth
        hit[matched[matched >= 0]] = True
        sides.append(ops.box_area(truth.boxes[counts]).sqrt())
        hits.append(hit[counts])
    side, hit = torch.cat([*sides, torch.zeros(0)]), torch.cat([*hits, torch.zeros(0, dtype=torch.bool)])
    order = side.argsort(stable=True)
    groups = [group for group in order.tensor_split(SIZE_GROUPS) if len(group)]
    return [
        {
            "from": float(side[group].min()),
            "to": float(side[group].max()),
            "objects": len(group),
            "recall": float(hit[group].double().mean()),
        }
        for group in groups
    ]
