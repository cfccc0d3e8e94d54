"""evaluate: validation has chosen the head; the test part is read here, once."""

import csv
import io as streams
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from stages import paths
from stages.datasets import listing
from stages.errors import UserError
from stages.features import io
from stages.metrics import classification
from stages.params import Params
from stages.stage import run
from stages.training import data, fitted
from stages.training.data import Data, Part

SPREAD = ("top1", "top5", "macro_accuracy", "cross_entropy")  # what several seeds are compared by


def main(params: Params) -> dict[str, object]:
    """Writes `reports/metrics.json`, plots, and the probabilities of every val and test image."""
    found = data.load(params)
    head, described = fitted.restore(paths.HEAD)
    baseline, _ = fitted.restore(paths.HEAD / "ridge")
    if described["features"] != found.provenance or described["classes"] != found.classes:
        raise UserError("`cache/head` was trained on other features or classes than params describe: `dvc repro`.")
    views = params.views if params.decide.tta else 1
    logits = {name: _logits(head, part, views) for name, part in found.parts.items()}
    judged = "test" if len(found.parts["test"].y) else "val"
    metrics = _about(params, found, described) | _sizes(head, found, described)
    if judged == "test":
        metrics |= classification.scores(logits["test"], found.parts["test"].y)
    validation = classification.scores(logits["val"], found.parts["val"].y)
    metrics |= {f"val_{name}": value for name, value in validation.items()}
    metrics |= _spread(found.parts[judged], views)
    metrics |= _baselines(baseline, found, judged, views)
    probabilities = {name: logits[name].softmax(1) for name in ("val", "test")}
    labels = found.parts[judged].y
    share, accuracy = classification.confident(probabilities[judged], labels, params.decide.confidence)
    metrics |= {"confident_share": share, "confident_accuracy": accuracy}
    rounded = {key: round(value, 6) if isinstance(value, float) else value for key, value in metrics.items()}
    io.write_bytes(paths.REPORTS / "metrics.json", (json.dumps(rounded, indent=2) + "\n").encode())
    _write_predictions(params, found, probabilities)
    _write_plots(found, probabilities[judged], judged)
    by_views = [(count, f"{_accuracy(head, found.parts[judged], count):.6f}") for count in range(1, params.views + 1)]
    _write_csv(paths.PLOTS / "views.csv", ("views", "accuracy"), by_views)
    return {f"{judged} images": len(labels), "top1": rounded.get("top1", rounded["val_top1"])}


def _logits(head: nn.Module, part: Part, views: int) -> torch.Tensor:
    """Logits (N, C) of the first `views` views of each image: the logarithm of their mean probability."""
    if views == 1 or not len(part.y):
        return fitted.logits(head, part)
    mean = torch.stack([fitted.logits(head, part, view).softmax(1) for view in range(views)]).mean(0)
    return mean.clamp(min=torch.finfo(mean.dtype).tiny).log()


def _accuracy(head: nn.Module, part: Part, views: int) -> float:
    """Top-1 when the first `views` views are averaged."""
    return float((_logits(head, part, views).argmax(1) == part.y).double().mean())


def _about(params: Params, found: Data, described: Mapping[str, Any]) -> dict[str, Any]:
    about = {"task": "classification", "dataset": params.dataset, "backbone": params.backbone, "cut": params.cut}
    counts = {f"n_{name}": len(part.y) for name, part in found.parts.items()}
    return about | {"tap": params.tap, "head": described["head"], "classes": len(found.classes)} | counts


def _sizes(head: nn.Module, found: Data, described: Mapping[str, Any]) -> dict[str, int]:
    """The parameters of trunk, rest and head, and how many of them trained."""
    own = sum(parameter.numel() for parameter in head.parameters())
    return {"parameters_total": own + found.provenance["parameters"], "parameters_trainable": described["trained"]}


def _spread(part: Part, views: int) -> dict[str, float]:
    """Mean and standard deviation of the scores over heads of several seeds; nothing where there is one."""
    heads = [fitted.restore(folder)[0] for folder in sorted(paths.HEAD.glob("seed-*"))]
    if not heads:
        return {}
    heads.append(fitted.restore(paths.HEAD)[0])
    each = [classification.scores(_logits(head, part, views), part.y) for head in heads]
    found: dict[str, float] = {"seeds": len(heads)}
    for name in SPREAD:
        values = [scores[name] for scores in each if name in scores]
        if values:
            found |= {f"{name}_mean": mean(values), f"{name}_sd": stdev(values)}
    return found


def _baselines(ridge: nn.Module, found: Data, judged: str, views: int) -> dict[str, float]:
    """What needs no training: a guess, the most frequent class of train, and ridge regression on the same features."""
    part = found.parts[judged]
    frequent = int(torch.bincount(found.parts["train"].y, minlength=len(found.classes)).argmax())
    return {
        "chance": 1 / len(found.classes),
        "majority": float((part.y == frequent).double().mean()),
        "ridge_top1": float((_logits(ridge, part, views).argmax(1) == part.y).double().mean()),
    }


def _write_predictions(params: Params, found: Data, probabilities: Mapping[str, torch.Tensor]) -> None:
    rows = listing.read(params.dataset)
    images = {name: [rows[row].sha256 for row in found.parts[name].rows] for name in probabilities}
    io.write_bytes(paths.PREDICTIONS / "probabilities.safetensors", save(dict(probabilities)))
    described = {"classes": found.classes, "decide": params.decide.model_dump(), "images": images}
    io.write_bytes(paths.PREDICTIONS / "predictions.json", (json.dumps(described, sort_keys=True) + "\n").encode())


def _write_plots(found: Data, probabilities: torch.Tensor, judged: str) -> None:
    part, classes = found.parts[judged], found.classes
    chosen = probabilities.argmax(1)
    pairs = [(classes[actual], classes[predicted]) for actual, predicted in zip(part.y, chosen, strict=True)]
    _write_csv(paths.PLOTS / "confusion.csv", ("actual", "predicted"), pairs)
    counts = {name: torch.bincount(found.parts[name].y, minlength=len(classes)) for name in found.parts}
    right = torch.bincount(part.y[chosen == part.y], minlength=len(classes))
    predicted = torch.bincount(chosen, minlength=len(classes))
    rows = []
    for number, name in enumerate(classes):
        total, hits = int(counts[judged][number]), int(right[number])
        recall = f"{hits / total:.4f}" if total else ""
        precision = f"{hits / int(predicted[number]):.4f}" if predicted[number] else ""
        rows.append((name, *(int(counts[part][number]) for part in ("train", "val", "test")), recall, precision))
    _write_csv(paths.PLOTS / "per_class.csv", ("class", "n_train", "n_val", "n_test", "accuracy", "precision"), rows)
    bins = [
        (f"{b.confidence:.4f}", f"{b.accuracy:.4f}", b.images)
        for b in classification.reliability(probabilities, part.y)
    ]
    _write_csv(paths.PLOTS / "calibration.csv", ("confidence", "accuracy", "count"), bins)


def _write_csv(path: Path, header: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    text = streams.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    io.write_bytes(path, text.getvalue().encode())


if __name__ == "__main__":
    run("evaluate", main)
