"""Judging a head that names the class of an image."""

from collections.abc import Iterator, Mapping
from statistics import mean, stdev
from typing import Any

import torch
from safetensors.numpy import save as save_arrays
from safetensors.torch import save
from torch import nn

from stages import files, paths
from stages.datasets import index_file
from stages.evaluation import common, nearest, prediction_list
from stages.metrics import classification
from stages.params import Params
from stages.training import model
from stages.training.data import HeadData, SplitData

SPREAD = ("top1", "top5", "macro_accuracy", "cross_entropy")  # what several seeds are compared by


def evaluate(params: Params, found: HeadData, head: nn.Module, described: Mapping[str, Any]) -> dict[str, object]:
    """Writes metrics, plots, and the probabilities of every val and test image."""
    views = params.views if params.decide.tta else 1
    logits = {name: model.averaged_logits(head, found.splits[name], views) for name in ("val", "test")}
    judged = "test" if len(found.splits["test"].y) else "val"
    metrics = common.about("classification", params, found, described) | common.sizes(head, found, described)
    if judged == "test":
        metrics |= classification.scores(logits["test"], found.splits["test"].y)
    validation = classification.scores(_chosen(head, logits["val"], found, views), found.splits["val"].y)
    metrics |= {f"val_{name}": value for name, value in validation.items()}
    metrics |= _spread(head, found.splits[judged], views)
    metrics |= _baselines(found, judged, views)
    probabilities = {name: values.softmax(1) for name, values in logits.items()}
    answers = found.splits[judged].y
    share, accuracy = classification.confident(probabilities[judged], answers, params.decide.confidence)
    written = common.write_metrics(metrics | {"confident_share": share, "confident_accuracy": accuracy})
    _write_predictions(params, found, probabilities)
    files.write_bytes(paths.PREDICTIONS / "nearest.safetensors", save_arrays(nearest.find(found, judged)))
    accuracies = [_accuracy(head, found.splits[judged], count) for count in range(1, params.views + 1)]
    views_rows = [{"views": count, "accuracy": f"{value:.6f}"} for count, value in enumerate(accuracies, 1)]
    common.write_plots({"views": views_rows, **_plots(found, probabilities[judged], judged)})
    return {f"{judged} images": len(answers), "top1": written.get("top1", written["val_top1"])}


def _accuracy(head: nn.Module, split: SplitData, views: int) -> float:
    """Top-1 when the first `views` views are averaged."""
    return float((model.averaged_logits(head, split, views).argmax(1) == split.y).double().mean())


def _chosen(head: nn.Module, logits: torch.Tensor, found: HeadData, views: int) -> torch.Tensor:
    """Validation logits of the head as validation has chosen it: after a refit the kept head has trained on them."""
    folder = paths.HEAD / "chosen"
    return model.averaged_logits(_restored(folder, found), found.splits["val"], views) if folder.is_dir() else logits


def _restored(folder: Any, found: HeadData) -> nn.Module:
    return model.load_head(folder)[0].to(found.splits["val"].y.device)


def _spread(head: nn.Module, split: SplitData, views: int) -> dict[str, float]:
    """Mean and standard deviation of the scores over heads of several seeds; nothing where there is one."""
    folders = sorted(paths.HEAD.glob("seed-*"))
    if not folders:
        return {}
    heads = [model.load_head(folder)[0].to(split.y.device) for folder in folders]
    each = [classification.scores(model.averaged_logits(one, split, views), split.y) for one in (*heads, head)]
    found: dict[str, float] = {"seeds": len(each)}
    for name in SPREAD:
        values = [scores[name] for scores in each if name in scores]
        if values:
            found |= {f"{name}_mean": mean(values), f"{name}_sd": stdev(values)}
    return found


def _baselines(found: HeadData, judged: str, views: int) -> dict[str, float]:
    """What needs no training: a guess, the most frequent class of train, and ridge regression on the same features."""
    split, ridge = found.splits[judged], _restored(paths.HEAD / "ridge", found)
    frequent = int(torch.bincount(found.splits["train"].y, minlength=len(found.classes)).argmax())
    return {
        "chance": 1 / len(found.classes),
        "majority": float((split.y == frequent).double().mean()),
        "ridge_top1": float((model.averaged_logits(ridge, split, views).argmax(1) == split.y).double().mean()),
    }


def _write_predictions(params: Params, found: HeadData, probabilities: Mapping[str, torch.Tensor]) -> None:
    rows = index_file.read(params.dataset)
    images = {name: [rows[row] for row in found.splits[name].index_positions] for name in probabilities}
    prediction_list.write_classes(images, probabilities, found.classes)
    checksums = {name: [row.sha256 for row in split] for name, split in images.items()}
    values = {name: each.cpu().contiguous() for name, each in probabilities.items()}
    files.write_bytes(paths.PREDICTIONS / "probabilities.safetensors", save(values))
    described = {"classes": found.classes, "decide": params.decide.model_dump(), "images": checksums}
    files.write_json(paths.PREDICTIONS / "predictions.json", described, sort_keys=True)


def _plots(found: HeadData, probabilities: torch.Tensor, judged: str) -> dict[str, list[dict[str, object]]]:
    split, classes, chosen = found.splits[judged], found.classes, probabilities.argmax(1)
    confusion: list[dict[str, object]] = [
        {"actual": classes[actual], "predicted": classes[predicted]}
        for actual, predicted in zip(split.y, chosen, strict=True)
    ]
    bins: list[dict[str, object]] = [
        {"confidence": f"{one.confidence:.4f}", "accuracy": f"{one.accuracy:.4f}", "count": one.images}
        for one in classification.reliability(probabilities, split.y)
    ]
    per_class = list(_per_class(found, chosen, judged))
    return {"confusion": confusion, "calibration": bins, "per_class": per_class}


def _per_class(found: HeadData, chosen: torch.Tensor, judged: str) -> Iterator[dict[str, object]]:
    split, classes = found.splits[judged], len(found.classes)
    counts = {name: torch.bincount(found.splits[name].y, minlength=classes) for name in found.splits}
    right = torch.bincount(split.y[chosen == split.y], minlength=classes)
    predicted = torch.bincount(chosen, minlength=classes)
    for number, name in enumerate(found.classes):
        total, hits = int(counts[judged][number]), int(right[number])
        yield {
            "class": name,
            **{f"n_{one}": int(counts[one][number]) for one in ("train", "val", "test")},
            "accuracy": f"{hits / total:.4f}" if total else "",
            "precision": f"{hits / int(predicted[number]):.4f}" if predicted[number] else "",
        }
