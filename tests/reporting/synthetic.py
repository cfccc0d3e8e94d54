"""A small finished run, written as the stages write it, without running any of them."""

import csv
import hashlib
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from stages import paths
from stages.datasets import folder, index_file
from stages.datasets.base import Box
from stages.datasets.registry import Datasets
from stages.evaluation.common import PLOTS
from stages.metrics import table
from stages.params import Params
from stages.reviewing import suspicions
from stages.reviewing.suspicions import Suspicion

HOSTILE = ("<script>alert(1)</script>", '"><img onerror=x>', "a|b", "$x_1$ `code`\nline", "long" * 40, "plain")


@dataclass
class Made:
    """A run in the current folder: what a test may change before it is written.

    Every class has `sizes[part]` images, `places` of them with a box; the head is right on all but each third image.
    """

    root: Path
    classes: tuple[str, ...] = HOSTILE
    sizes: dict[str, int] = field(default_factory=lambda: {"train": 3, "val": 2, "test": 4})
    task: str = "classification"
    predict: str = "both"
    refit: str = "none"
    confidence: float = 0.5
    head: str = "mlp"
    epochs: int = 5
    ridge_top1: float = 0.9
    views: tuple[tuple[int, float], ...] = ((1, 0.7),)  # how many are averaged, and the accuracy of that
    mapped: bool = True
    index: dict[str, Any] = field(default_factory=dict)
    undecodable: tuple[dict[str, str], ...] = ()
    suspicions: tuple[Suspicion, ...] = ()
    review: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)  # beside the usual ones

    def write(self) -> Params:
        """Writes every file; returns the params that the report stage gets."""
        labels, parts = sorted(self.classes), dict[str, list[index_file.IndexRow]]()
        for part, size in self.sizes.items():
            parts[part] = [self._image(label, part, place) for label in labels for place in range(size)]
        rows = sorted((row for found in parts.values() for row in found), key=lambda row: row.path)
        index_file.write(paths.index("folder"), rows)
        _json(paths.split("folder"), {part: [row.sha256 for row in found] for part, found in parts.items()} | SPLIT)
        counts = {label: sum(row.label == label for row in rows) for label in labels}
        about = {"dataset": "folder", "root": str(self.root), "options": {}, "files": len(rows), "used": len(rows)}
        lists: dict[str, Any] = {"duplicates": [], "bad": [], "not_images": [], "broken_annotations": []}
        lists["objects"] = {"all": {label: {"objects": count, "difficult": 0} for label, count in counts.items()}}
        _json(paths.index("folder").with_suffix(".json"), about | lists | {"classes": counts} | self.index)
        self._write_head(labels)
        if self.task == "classification":
            self._write_predictions(labels, parts)
            self._write_nearest(rows, parts)
        else:
            self._write_boxes(labels, parts)
        suspicions.write(paths.REPORTS / "review.csv", self.suspicions)
        _json(paths.REPORTS / "review.json", self.review)
        bad = paths.features("folder", "net", "pooled").with_suffix(".bad.json")
        bad.parent.mkdir(parents=True, exist_ok=True)
        bad.write_text(json.dumps(list(self.undecodable)))
        datasets: Any = {"folder": folder.Options(unlabelled="", exclude=[], strict=False)}
        params: Any = {"dataset": "folder", "root": str(self.root), "datasets": Datasets.model_construct(**datasets)}
        return Params.model_construct(**params)

    def _image(self, label: str, part: str, place: int) -> index_file.IndexRow:
        number = sorted(self.classes).index(label)
        name = f"class{number}/{part} <b>{place}</b>".replace("/b", "b") + ".png"
        colour, size = (40 * number % 256, 60 * place % 256, len(part) * 30), (40 + 8 * number, 30 + place)
        stream = io.BytesIO()
        Image.new("RGB", size, colour).save(stream, "PNG")
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_bytes(stream.getvalue())
        objects = (Box(label, (2, 3, 20, 21)),)
        return index_file.IndexRow(name, hashlib.sha256(stream.getvalue()).hexdigest(), *size, label, objects, None)

    def _view_names(self) -> list[str]:
        how = "crop(0.5)|flip|rotate(10.0)|lighting(0.2)|seed(3)"
        return ["evaluation", *(f"{how}|view({number})" for number in range(1, len(self.views)))]

    def _write_head(self, labels: list[str]) -> None:
        described = {
            "classes": labels,
            "features": FEATURES | {"views": self._view_names()},
            "knobs": {} if self.task == "classification" else {"predict": self.predict},
            "shape": [8],
            "tap": "same",
            "params": KNOBS,
        }
        notes = {"strength": 0.1, "scale": 12.5}
        of_head = {"ridge": notes, "anchors": {"anchor_iou": 0.6543}}.get(self.head, {})
        own = {"head": self.head, "best_epoch": max(1, self.epochs - 1), "notes": of_head}
        knobs = KNOBS | {"head": self.head, "refit": self.refit}
        if self.task == "classification":
            _json(paths.HEAD / "ridge" / "head.json", described | {"head": "ridge", "best_epoch": 1, "notes": notes})
        else:
            knobs |= {"boxes": {"predict": self.predict, "anchor_count": 7}}
        _json(paths.HEAD / "head.json", described | own | {"params": knobs})
        lr = "" if self.head == "ridge" else 0.001
        scores = ("", "", 0.4) if self.task == "detection" else (0.9, 0.8, "")
        history = [(n + 1, 1, lr, 2 / (n + 1), 3 / (n + 1), *scores) for n in range(self.epochs)]
        names = ("epoch", "phase", "lr", "train_loss", "val_loss", "train_accuracy", "val_accuracy", "val_map_50")
        _csv(paths.PLOTS / "history.csv", names, history)
        rates = [(10 ** (n / 5 - 5), abs(n - 15) + 2, abs(n - 15) + 1) for n in range(20)] if lr else []
        _csv(paths.PLOTS / "lr_sweep.csv", ("lr", "loss", "smoothed"), rates)
        _json(paths.REPORTS / "lr_sweep.json", {"lr": 1e-3} if lr else {})

    def _write_predictions(self, labels: list[str], parts: dict[str, list[index_file.IndexRow]]) -> None:
        probabilities = {}
        for part in ("val", "test"):
            actual = np.array([labels.index(row.label) for row in parts[part]], int)
            chosen = np.where(np.arange(len(actual)) % 3 == 2, (actual + 1) % len(labels), actual)
            sure = np.linspace(0.4, 0.9, len(actual))[:, None] * np.eye(len(labels))[chosen]
            probabilities[part] = (sure + (1 - sure.sum(1, keepdims=True)) / len(labels)).astype(np.float32)
        paths.PREDICTIONS.mkdir(parents=True, exist_ok=True)
        save_file(probabilities, paths.PREDICTIONS / "probabilities.safetensors")
        images = {part: [row.sha256 for row in parts[part]] for part in ("val", "test")}
        decide = {"confidence": 0.5, "tta": False, "merge": "nms", "unknown": 0.01}
        _json(paths.PREDICTIONS / "predictions.json", {"classes": labels, "decide": decide, "images": images})
        scores = {"top1": 2 / 3, "top5": 0.99, "macro_accuracy": 0.66, "cross_entropy": 0.7, "ece": 0.06}
        scores |= {"top1_low": 0.4, "top1_high": 0.8}
        late = {"chance": 1 / len(labels), "majority": 0.2, "ridge_top1": self.ridge_top1}
        late |= {"confident_share": 0.5, "confident_accuracy": 0.8}
        self._write_metrics(labels, parts, scores, late)
        _csv(paths.PLOTS / "calibration.csv", PLOTS["calibration"], [(0.45, 0.5, 8), (0.8, 0.7, 16)])
        _csv(paths.PLOTS / "views.csv", PLOTS["views"], [(*pair, "", "") for pair in self.views])
        n = [self.sizes[part] for part in ("train", "val", "test")]
        rows = [(label, n[0] + place, *n[1:], 0.5 + 0.05 * place, "", "") for place, label in enumerate(labels)]
        _csv(paths.PLOTS / "per_class.csv", PLOTS["per_class"], rows)

    def _write_nearest(self, rows: list[index_file.IndexRow], parts: dict[str, list[index_file.IndexRow]]) -> None:
        judged = len(parts["test"] or parts["val"])
        train = [place for place, row in enumerate(rows) if row in parts["train"]]
        found: dict[str, Any] = {"nearest": np.tile(np.array(train[:4], np.int64), (judged, 1))}
        if self.mapped:
            found |= {"mapped": np.arange(judged), "map": np.random.default_rng(0).random((judged, 2), np.float32)}
        save_file(found, paths.PREDICTIONS / "nearest.safetensors")

    def _write_metrics(
        self,
        labels: list[str],
        parts: dict[str, list[index_file.IndexRow]],
        scores: dict[str, float],
        late: dict[str, float],
    ) -> None:
        about = {"task": self.task, "dataset": "folder", "backbone": "net", "cut": "pooled", "head": self.head}
        counts = {f"n_{part}": len(found) for part, found in parts.items()} | {"classes": len(labels)}
        sizes = {"parameters_total": 1_000_000, "parameters_trainable": 5_000}
        validation = {f"val_{name}": value for name, value in scores.items()}
        judged = scores if parts["test"] else {}
        evaluation = about | counts | sizes | judged | validation | late
        _json(paths.EVALUATION, evaluation | self.metrics)
        _json(paths.METRICS, table.compared(self.task, evaluation))

    def _write_boxes(self, labels: list[str], parts: dict[str, list[index_file.IndexRow]]) -> None:
        """One box an image, in turns right, of the wrong class, and (of a detector) far away; the object is known."""
        tensors: dict[str, Any] = {}
        for part in ("val", "test"):
            actual = np.array([labels.index(row.label) for row in parts[part]], np.int64)
            turn = np.arange(len(actual)) % 3
            near, far = np.array([2, 3, 20, 20], np.float32), np.array([30, 24, 38, 29], np.float32)
            tensors |= {
                f"{part}_boxes": np.where(turn[:, None] < 2, near, far),
                f"{part}_scores": np.linspace(0.95, 0.45, len(actual), dtype=np.float32),
                f"{part}_labels": np.where(turn == 1, (actual + 1) % len(labels), actual),
                f"{part}_images": np.arange(len(actual)),
                f"{part}_kinds": np.array([-1, 0, 4])[turn],
                f"{part}_meant": np.array([0, 0, -1])[turn],
            }
            if self.task == "largest":
                asked = np.tile(np.array([2, 3, 20, 21], np.float32), (len(actual), 1))
                tensors |= {f"{part}_asked_boxes": asked, f"{part}_asked_labels": actual}
        paths.PREDICTIONS.mkdir(parents=True, exist_ok=True)
        save_file(tensors, paths.PREDICTIONS / "boxes.safetensors")
        kinds = ["class", "place", "both", "double", "background", "missed"]
        described = {
            "classes": labels,
            "decide": {"confidence": self.confidence, "nms_iou": 0.45, "tta": False, "merge": "nms"},
            "images": {part: [row.sha256 for row in parts[part]] for part in ("val", "test")},
            "kinds": kinds,
            "mistakes": dict.fromkeys(kinds, 8),
            "costs": dict.fromkeys(kinds, 0.05),
            "recall_by_size": [{"from": 10.0, "to": 20.0, "objects": 24, "recall": 1 / 3}],
        }
        _json(paths.PREDICTIONS / "predictions.json", described)
        late: dict[str, float] = {"n_objects": 24, "unheld": 3, "unheld_share": 3 / 18}
        if self.task == "detection":
            scores = dict.fromkeys(("map_50", "map_50_voc07", "map_50_95", "map_75", "map_large"), 0.4321)
        else:
            scores = {"accuracy": 0.7} if self.predict != "box" else {}
            scores |= {"mean_iou": 0.6, "box_smooth_l1": 0.01, "box_l1_px": 12.3} if self.predict != "class" else {}
            scores |= {"correct_at_iou50": 1 / 3} if self.predict == "both" else {}
            late |= {"typical_mean_iou": 0.65, "majority": 0.2}
        self._write_metrics(labels, parts, scores, late)
        n = [self.sizes[part] for part in ("train", "val", "test")]
        first = (labels[0], 0, 0, 0, "", "", "")  # a class that no part has
        rows = [first, *((label, *n, "", "", 0.5) for label in labels[1:])]
        _csv(paths.PLOTS / "per_class.csv", PLOTS["per_class"], rows)
        curve = [(label, recall, 1 - recall / 2) for label in labels[2:] for recall in (0.2, 0.5)]
        _csv(paths.PLOTS / "precision_recall.csv", PLOTS["precision_recall"], curve)
        by_views = [(count, "", score, score) for count, score in self.views] if len(self.views) > 1 else []
        _csv(paths.PLOTS / "views.csv", PLOTS["views"], by_views)


KNOBS = {"dataset": "folder", "backbone": "net", "weights": "default", "cut": "pooled", "head": "mlp"} | {
    "epochs": 5, "lr": 1e-05, "monitor": "val_loss", "normalize": "standardize",
}  # fmt: skip
FEATURES = {"backbone": "net", "dtype": "float16", "engine": "torch", "precision": "float32", "batch_size": 32} | {
    "versions": {"torch": "2.10"}, "parameters": 995_000, "image_size": 320,
    "preprocessing": "decode|resize(9,bilinear)|center_crop(8)|normalize([0.5, 0.5, 0.5],[0.5, 0.5, 0.5])",
}  # fmt: skip
SPLIT = {"source": "50% / 25% / 25% of every class, seed 0", "params": {"protocol": "auto", "train": 0.5, "seed": 0}}


def _json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def _csv(path: Path, header: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
