"""Evaluation of a head for several labels per image: each class has a probability and a threshold of its own."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev

import torch
from safetensors.numpy import save as save_arrays
from safetensors.torch import save

from stages import files, paths
from stages.datasets import index_file
from stages.evaluation import common, nearest, prediction_list, unknown
from stages.evaluation.common import JudgedHead
from stages.metrics import multilabel, table
from stages.params import Params
from stages.training import model
from stages.training.data import SplitData
from stages.training.model import HeadModel

SPREAD = ("map", "micro_f1", "macro_f1", "binary_cross_entropy")  # metrics with a mean and a deviation over seeds
POINTS = 101  # of a precision-recall curve in its plot


def evaluate(params: Params, judged_head: JudgedHead) -> dict[str, object]:
    """Writes metrics, plots, and the probabilities of every val and test image.

    Validation chooses the thresholds, with the head that it has chosen: after a refit the final one has trained on it.

    Args:
        params: `views`, `decide`, and the names in metrics.json.
        judged_head: the head and its data.

    Returns:
        How many images were evaluated, and mAP.
    """
    data, splits, folder = judged_head.data, judged_head.data.splits, judged_head.folder
    judged = "test" if len(splits["test"].y) else "val"
    views, y = params.views if params.decide.tta else 1, splits[judged].y

    def load(path: Path) -> HeadModel:
        return model.load_head(path)[0].to(y.device)

    folders = {name: common.scored_folder(folder, name) for name in ("val", "test")}
    heads = {name: judged_head.head if place == folder else load(place) for name, place in folders.items()}
    logits = {name: model.averaged_logits(head, splits[name], views) for name, head in heads.items()}
    threshold = multilabel.thresholds(logits["val"].sigmoid(), splits["val"].y)
    own = multilabel.scores_of(logits[judged], y, threshold)
    metrics = common.run_facts(
        "multilabel", params=params, data=data, described=judged_head.described
    ) | common.parameter_counts(judged_head.head, data, judged_head.described)
    if judged == "test":
        metrics |= own
    validation = multilabel.scores_of(logits["val"], splits["val"].y, threshold, interval=judged == "val")
    metrics |= {f"val_{name}": value for name, value in validation.items()}
    seeds = [
        model.averaged_logits(load(path), splits[judged], views) for path in sorted(folders[judged].glob("seed-*"))
    ]
    metrics |= _spread([own, *(multilabel.scores_of(values, y, threshold, interval=False) for values in seeds)])
    metrics["prevalence"] = _prevalence(y)
    if (ridge_folder := folders[judged] / "ridge").is_dir():  # too large data has none
        ridge = model.averaged_logits(load(ridge_folder), splits[judged], views)
        metrics["ridge_map"] = multilabel.mean_average_precision(ridge, y)
    known = unknown.learn(splits, params.decide.unknown)
    if known:
        metrics["unknown_share"] = float(known.unknown(splits[judged]).double().mean())
    written = common.write_metrics(metrics)
    unknown.write(known)
    _write_predictions(params, splits, logits, threshold, data.classes)
    around = nearest.find(data, judged)
    files.write_bytes(paths.PREDICTIONS / "nearest.safetensors", save_arrays(nearest.arrays(around)))
    plots = _plots(splits, judged, logits[judged], threshold, data.classes)
    common.write_plots(plots | {"views": _by_views(params, heads[judged], splits[judged])})
    return {f"{judged} images": len(y), **table.in_words("multilabel", written)}


def _prevalence(y: torch.Tensor) -> float:
    """The mAP of a random order: the mean over classes, of those that some image has, of the share of images."""
    positives, known = (y == 1).sum(0), (y != multilabel.UNKNOWN).sum(0)
    shares = positives[positives > 0].double() / known[positives > 0]
    return float(shares.mean()) if len(shares) else 0.0


def _spread(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean and standard deviation of the scores over all seeds; empty where there is only one head."""
    if len(runs) == 1:
        return {}
    spread: dict[str, float] = {"seeds": len(runs)}
    for name in SPREAD:
        values = [scores[name] for scores in runs]
        spread |= {f"{name}_mean": mean(values), f"{name}_sd": stdev(values)}
    return spread


def _by_views(params: Params, head: HeadModel, split: SplitData) -> Iterator[dict[str, object]]:
    for count, logits in enumerate(model.logits_by_views(head, split, params.views), 1):
        yield {"views": count, "map": f"{multilabel.mean_average_precision(logits, split.y):.6f}"}


def _write_predictions(
    params: Params,
    splits: Mapping[str, SplitData],
    logits: Mapping[str, torch.Tensor],
    threshold: torch.Tensor,
    classes: Sequence[str],
) -> None:
    """Writes the probabilities and thresholds, and the list of predictions."""
    rows = index_file.read(params.dataset)
    images = {name: [rows[row] for row in splits[name].index_positions] for name in logits}
    probabilities = {name: values.sigmoid().cpu().contiguous() for name, values in logits.items()}
    files.write_bytes(paths.PREDICTIONS / "probabilities.safetensors", save(probabilities))
    described = {
        "classes": classes,
        "decide": params.decide.model_dump(),
        "images": {name: [row.sha256 for row in of_split] for name, of_split in images.items()},
        "thresholds": threshold.tolist(),
    }
    common.write_predictions(described)
    said = {name: values >= threshold for name, values in probabilities.items()}
    prediction_list.write_labels(images, probabilities, said=said, classes=classes)


def _plots(
    splits: Mapping[str, SplitData],
    judged: str,
    logits: torch.Tensor,
    threshold: torch.Tensor,
    classes: Sequence[str],
) -> dict[str, list[dict[str, object]]]:
    y, probabilities = splits[judged].y.cpu(), logits.sigmoid().cpu()
    said, curves = probabilities >= threshold, multilabel.curves(logits, y)
    bins: list[dict[str, object]] = [
        {"confidence": f"{confidence:.4f}", "accuracy": f"{share:.4f}", "count": count}
        for confidence, share, count in multilabel.reliability(probabilities, y)
    ]
    points = [{"class": name, **point} for name, curve in zip(classes, curves, strict=True) for point in _points(curve)]
    return {
        "per_class": list(_per_class(splits, curves, multilabel.counts(said, y), threshold, classes)),
        "precision_recall": points,
        "calibration": bins,
        "confusion": list(_mixed_up(said, y, classes)),
    }


def _per_class(
    splits: Mapping[str, SplitData],
    curves: Sequence[multilabel.Curve],
    f1: multilabel.F1,
    threshold: torch.Tensor,
    classes: Sequence[str],
) -> Iterator[dict[str, object]]:
    """The scores of every class; its numbers are of the images that have it."""
    counts = {f"n_{name}": (split.y == 1).sum(0).tolist() for name, split in splits.items()}
    for label, (name, curve) in enumerate(zip(classes, curves, strict=True)):
        hits, added, missed = (float(part[label]) for part in f1)
        yield {
            "class": name,
            **{key: of_split[label] for key, of_split in counts.items()},
            "ap": f"{multilabel.area(curve):.4f}" if curve.positives else "",
            "precision": f"{hits / (hits + added):.4f}" if hits + added else "",
            "recall": f"{hits / (hits + missed):.4f}" if hits + missed else "",
            "f1": f"{float(f1.per_class[label]):.4f}" if curve.positives else "",
            "threshold": f"{float(threshold[label]):.4f}",
        }


def _points(curve: multilabel.Curve) -> Iterator[dict[str, object]]:
    """Points of a curve, evenly spread: POINTS of them, or all if it has fewer."""
    if not curve.positives:
        return
    recall, precision = curve.recall, curve.precision
    for place in torch.linspace(0, len(recall) - 1, min(POINTS, len(recall))).round().long().tolist():
        yield {"recall": f"{recall[place]:.4f}", "precision": f"{precision[place]:.4f}"}


def _mixed_up(said: torch.Tensor, y: torch.Tensor, classes: Sequence[str]) -> Iterator[dict[str, object]]:
    """One row per label that is said rightly, and per pair of a missed and a wrongly said label of one image."""
    for of_image, truth in zip(said, y, strict=True):
        hits, missed, added = (truth == 1) & of_image, (truth == 1) & ~of_image, (truth == 0) & of_image
        for label in hits.nonzero()[:, 0].tolist():
            yield {"actual": classes[label], "predicted": classes[label]}
        for actual in missed.nonzero()[:, 0].tolist():
            for predicted in added.nonzero()[:, 0].tolist():
                yield {"actual": classes[actual], "predicted": classes[predicted]}
