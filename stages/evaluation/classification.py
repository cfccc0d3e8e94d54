"""Evaluation of a head that predicts the class of an image."""

from collections.abc import Iterator, Mapping
from pathlib import Path
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

SPREAD = ("top1", "top5", "macro_accuracy", "cross_entropy")  # metrics with a mean and a deviation over seeds


def evaluate(params: Params, data: HeadData, *, head: nn.Module, described: Mapping[str, Any]) -> dict[str, object]:
    """Writes metrics, plots, and the probabilities of every val and test image.

    Args:
        params: `views`, `decide`, and the names in metrics.json.
        data: the splits, on the device of the head.
        head: the trained head.
        described: the contents of head.json.

    Returns:
        How many images were evaluated, and top-1.
    """
    views = params.views if params.decide.tta else 1
    logits = {name: model.averaged_logits(head, data.splits[name], views) for name in ("val", "test")}
    judged = "test" if len(data.splits["test"].y) else "val"
    metrics = common.run_facts(
        "classification", params=params, data=data, described=described
    ) | common.parameter_counts(head, data, described)
    if judged == "test":
        metrics |= classification.scores(logits["test"], data.splits["test"].y)
    validation = classification.scores(_chosen_by_validation(logits["val"], data, views), data.splits["val"].y)
    metrics |= {f"val_{name}": value for name, value in validation.items()}
    metrics |= _spread(head, data.splits[judged], views)
    metrics |= _baselines(data, judged, views)
    probabilities = {name: values.softmax(1) for name, values in logits.items()}
    labels = data.splits[judged].y
    share, accuracy = classification.confident(probabilities[judged], labels, params.decide.confidence)
    written = common.write_metrics(metrics | {"confident_share": share, "confident_accuracy": accuracy})
    _write_predictions(params, data, probabilities)
    files.write_bytes(paths.PREDICTIONS / "nearest.safetensors", save_arrays(nearest.find(data, judged)))
    accuracies = [_accuracy(head, data.splits[judged], count) for count in range(1, params.views + 1)]
    views_rows = [{"views": count, "accuracy": f"{value:.6f}"} for count, value in enumerate(accuracies, 1)]
    common.write_plots({"views": views_rows, **_plots(data, probabilities[judged], judged)})
    return {f"{judged} images": len(labels), "top1": written.get("top1", written["val_top1"])}


def _accuracy(head: nn.Module, split: SplitData, views: int) -> float:
    """Top-1 when the first `views` views are averaged."""
    return float((model.averaged_logits(head, split, views).argmax(1) == split.y).double().mean())


def _chosen_by_validation(logits: torch.Tensor, data: HeadData, views: int) -> torch.Tensor:
    """Logits on val of the head that validation chose; after a refit the final head is another, trained on val too."""
    folder = paths.HEAD / "chosen"
    return model.averaged_logits(_load(folder, data), data.splits["val"], views) if folder.is_dir() else logits


def _load(folder: Path, data: HeadData) -> nn.Module:
    return model.load_head(folder)[0].to(data.splits["val"].y.device)


def _spread(head: nn.Module, split: SplitData, views: int) -> dict[str, float]:
    """Mean and standard deviation of the scores over the heads of all seeds; empty if there is only one seed."""
    folders = sorted(paths.HEAD.glob("seed-*"))
    if not folders:
        return {}
    heads = [model.load_head(folder)[0].to(split.y.device) for folder in folders]
    runs = [classification.scores(model.averaged_logits(seed, split, views), split.y) for seed in (*heads, head)]
    spread: dict[str, float] = {"seeds": len(runs)}
    for name in SPREAD:
        values = [scores[name] for scores in runs if name in scores]
        if values:
            spread |= {f"{name}_mean": mean(values), f"{name}_sd": stdev(values)}
    return spread


def _baselines(data: HeadData, judged: str, views: int) -> dict[str, float]:
    """Baselines: a guess, the most frequent class of train, and ridge regression on the same features."""
    split, ridge = data.splits[judged], _load(paths.HEAD / "ridge", data)
    frequent = int(torch.bincount(data.splits["train"].y, minlength=len(data.classes)).argmax())
    return {
        "chance": 1 / len(data.classes),
        "majority": float((split.y == frequent).double().mean()),
        "ridge_top1": float((model.averaged_logits(ridge, split, views).argmax(1) == split.y).double().mean()),
    }


def _write_predictions(params: Params, data: HeadData, probabilities: Mapping[str, torch.Tensor]) -> None:
    rows = index_file.read(params.dataset)
    images = {name: [rows[row] for row in data.splits[name].index_positions] for name in probabilities}
    prediction_list.write_classes(images, probabilities, data.classes)
    checksums = {name: [row.sha256 for row in split] for name, split in images.items()}
    tensors = {name: values.cpu().contiguous() for name, values in probabilities.items()}
    files.write_bytes(paths.PREDICTIONS / "probabilities.safetensors", save(tensors))
    described = {"classes": data.classes, "decide": params.decide.model_dump(), "images": checksums}
    files.write_json(paths.PREDICTIONS / "predictions.json", described, sort_keys=True)


def _plots(data: HeadData, probabilities: torch.Tensor, judged: str) -> dict[str, list[dict[str, object]]]:
    split, classes, chosen = data.splits[judged], data.classes, probabilities.argmax(1)
    confusion: list[dict[str, object]] = [
        {"actual": classes[actual], "predicted": classes[predicted]}
        for actual, predicted in zip(split.y, chosen, strict=True)
    ]
    bins: list[dict[str, object]] = [
        {"confidence": f"{row.confidence:.4f}", "accuracy": f"{row.accuracy:.4f}", "count": row.images}
        for row in classification.reliability(probabilities, split.y)
    ]
    per_class = list(_per_class(data, chosen, judged))
    return {"confusion": confusion, "calibration": bins, "per_class": per_class}


def _per_class(data: HeadData, chosen: torch.Tensor, judged: str) -> Iterator[dict[str, object]]:
    split, classes = data.splits[judged], len(data.classes)
    counts = {name: torch.bincount(data.splits[name].y, minlength=classes) for name in data.splits}
    correct = torch.bincount(split.y[chosen == split.y], minlength=classes)
    predicted = torch.bincount(chosen, minlength=classes)
    for label, name in enumerate(data.classes):
        total, hits = int(counts[judged][label]), int(correct[label])
        yield {
            "class": name,
            **{f"n_{split_name}": int(counts[split_name][label]) for split_name in ("train", "val", "test")},
            "accuracy": f"{hits / total:.4f}" if total else "",
            "precision": f"{hits / int(predicted[label]):.4f}" if predicted[label] else "",
        }
