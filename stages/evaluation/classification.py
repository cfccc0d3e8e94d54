"""Evaluation of a head that predicts the class of an image."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev

import torch
from safetensors.numpy import save as save_arrays
from torch import nn

from stages import files, paths, tensors
from stages.datasets import index_file
from stages.datasets.index_file import IndexRow
from stages.datasets.splits import FOLD
from stages.evaluation import common, nearest, prediction_list, unknown
from stages.evaluation.common import JudgedHead
from stages.evaluation.nearest import Surroundings
from stages.evaluation.unknown import Known
from stages.metrics import classification, table
from stages.params import Params
from stages.training import model

SPREAD = ("top1", "top5", "macro_accuracy", "cross_entropy")  # metrics with a mean and a deviation over seeds or folds
BASELINES = ("majority", "ridge_top1")
LARGE = 4e9  # bytes of scores from which on it is said beforehand what they take


@dataclass(frozen=True)
class Verdict:
    """What a head says of its val and test images; with folds, what those of all folds say together.

    Attributes:
        judged: the split that is told of: test, or val where there is no test.
        positions: split -> (N,) lines of the index, of val and test.
        labels: split -> (N,).
        logits: split -> (N, C); on val of the head that validation chose, as after a refit the final one has trained on
            val.
        right: (N,) bool, whether a judged image is right, by what predicts it: so many `views`, or a baseline.
        scores: of the head on the judged images, and of those with other seeds.
        counts: split -> (C,) images of each class.
        around: what lies near the judged images.
        known: what the head was trained on; None where no image counts as unknown.
        unknown: (N,) bool, which judged images are.
    """

    judged: str
    positions: Mapping[str, torch.Tensor]
    labels: Mapping[str, torch.Tensor]
    logits: Mapping[str, torch.Tensor]
    right: Mapping[int | str, torch.Tensor]
    scores: list[dict[str, float]]
    counts: Mapping[str, torch.Tensor]
    around: Surroundings | None
    known: Known | None
    unknown: torch.Tensor | None


def evaluate(params: Params, kept: JudgedHead, heads: Iterable[JudgedHead]) -> dict[str, object]:
    """Writes metrics, plots, and the probabilities of every val and test image.

    Args:
        params: `views`, `decide`, and the names in metrics.json.
        kept: the head for new images, that metrics.json describes.
        heads: those that are judged: the same one, or those of all folds.

    Returns:
        How many images were evaluated, and top-1.
    """
    images, names = sum(len(kept.data.splits[name].y) for name in ("val", "test")), kept.data.classes
    if (size := 4 * images * len(names)) > LARGE:
        print(
            f"the scores of {images:,} images in {len(names):,} classes take {size / 1e9:,.0f} GB of memory", flush=True
        )
    verdicts = [judge(head, params) for head in heads]
    verdict, judged, classes = together(verdicts), verdicts[0].judged, kept.data.classes
    labels, data = verdict.labels, kept.data
    metrics = common.run_facts(
        "classification", params=params, data=data, described=kept.described
    ) | common.parameter_counts(kept.head, data, kept.described)
    metrics |= {f"n_{name}": int(counts.sum()) for name, counts in verdict.counts.items()}
    if judged == "test":
        metrics |= classification.scores(verdict.logits["test"], labels["test"])
    validation = classification.scores(verdict.logits["val"], labels["val"])
    metrics |= {f"val_{name}": value for name, value in validation.items()}
    metrics |= _spread([scores for part in verdicts for scores in part.scores], folds=len(verdicts))
    metrics |= {"chance": 1 / len(classes)} | {
        name: _share(verdict.right[name]) for name in BASELINES if name in verdict.right
    }
    choices = classification.choices(classification.probabilities(verdict.logits[judged]))
    share, accuracy = classification.confident(*choices, labels[judged], params.decide.confidence)
    metrics |= {"confident_share": share, "confident_accuracy": accuracy} | _unknown(verdict)
    written = common.write_metrics(metrics)
    rows = index_file.read(params.dataset)
    _write_predictions(params, rows, verdict, classes)
    known = verdict.known if len(verdicts) == 1 else unknown.learn(data.splits, params.decide.unknown)
    unknown.write(known)
    _write_list(rows, verdicts, classes)
    files.write_bytes(paths.PREDICTIONS / "nearest.safetensors", save_arrays(nearest.arrays(verdict.around)))
    views_rows: list[dict[str, object]] = [
        {"views": count, "accuracy": f"{_share(verdict.right[count]):.6f}"} for count in range(1, params.views + 1)
    ]
    common.write_plots({"views": views_rows, **_plots(verdict, *choices, classes)})
    return {f"{judged} images": len(labels[judged]), **table.in_words("classification", written)}


def judge(one: JudgedHead, params: Params) -> Verdict:
    """Asks a head, its baselines and the heads of other seeds about its val and test images.

    Args:
        one: the head and its data.
        params: `views` and `decide.tta`.
    """
    views, splits = params.views if params.decide.tta else 1, one.data.splits
    judged = "test" if len(splits["test"].y) else "val"
    y = splits[judged].y

    def logits(head: nn.Module, name: str) -> torch.Tensor:
        return model.averaged_logits(head, splits[name], views)

    def load(folder: Path) -> nn.Module:
        return model.load_head(folder)[0].to(y.device)

    folders = {name: common.scored_folder(one.folder, name) for name in ("test", "val")}
    heads = {name: one.head if folder == one.folder else load(folder) for name, folder in folders.items()}
    right: dict[int | str, torch.Tensor] = {}
    for count, values in enumerate(model.logits_by_views(heads[judged], splits[judged], params.views), 1):
        right[count] = values.argmax(1) == y
        if count == views:
            answers = values
    own = {name: answers if name == judged else logits(head, name) for name, head in heads.items()}
    seeds = [logits(load(folder), judged) for folder in sorted(folders[judged].glob("seed-*"))]
    frequent = torch.bincount(splits["train"].y, minlength=len(one.data.classes)).argmax()
    right["majority"] = y == frequent
    if (ridge := folders[judged] / "ridge").is_dir():  # too large data has none
        right["ridge_top1"] = model.choices(load(ridge), splits[judged], views) == y
    known = unknown.learn(splits, params.decide.unknown)
    return Verdict(
        judged=judged,
        positions={name: torch.tensor(splits[name].index_positions) for name in own},
        labels={name: splits[name].y for name in own},
        logits=own,
        right=right,
        scores=[classification.scores(values, y) for values in (*seeds, own[judged])],
        counts={name: torch.bincount(split.y, minlength=len(one.data.classes)) for name, split in splits.items()},
        around=nearest.find(one.data, judged),
        known=known,
        unknown=known.unknown(splits[judged]) if known else None,
    )


def together(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdicts of all folds as one, images in the order of the index; a single one as it is.

    The numbers of images in train and val are those of the first fold, as every image is in many.
    """
    first = verdicts[0]
    if len(verdicts) == 1:
        return first
    order = {name: torch.cat([part.positions[name] for part in verdicts]).argsort() for name in first.positions}

    def joined(name: str, values: Iterable[torch.Tensor]) -> torch.Tensor:
        parts = torch.cat(list(values))
        return parts[order[name].to(parts.device)]

    def all_of(field: str) -> dict[str, torch.Tensor]:
        return {name: joined(name, (getattr(part, field)[name] for part in verdicts)) for name in order}

    around = [part.around for part in verdicts if part.around]
    asked = [part.unknown for part in verdicts if part.unknown is not None]
    return replace(
        first,
        positions=all_of("positions"),
        labels=all_of("labels"),
        logits=all_of("logits"),
        right={name: joined(first.judged, (part.right[name] for part in verdicts)) for name in first.right},
        counts={**first.counts, "test": sum((part.counts["test"] for part in verdicts[1:]), first.counts["test"])},
        around=nearest.joined(around, order[first.judged]) if around else None,
        unknown=joined(first.judged, asked) if asked else None,
    )


def _share(right: torch.Tensor) -> float:
    return float(right.double().mean())


def _unknown(verdict: Verdict) -> dict[str, float]:
    """How many judged images are unknown, and how many of these are right; empty where nothing is unknown."""
    if verdict.unknown is None:
        return {}
    right = (verdict.logits[verdict.judged].argmax(1) == verdict.labels[verdict.judged])[verdict.unknown]
    return {"unknown_share": _share(verdict.unknown)} | ({"unknown_accuracy": _share(right)} if len(right) else {})


def _spread(runs: Sequence[Mapping[str, float]], folds: int) -> dict[str, float]:
    """Mean and standard deviation of the scores over all folds, or all seeds; empty where there is only one head."""
    if len(runs) == 1:
        return {}
    spread: dict[str, float] = {"folds" if folds > 1 else "seeds": len(runs)}
    for name in SPREAD:
        values = [scores[name] for scores in runs if name in scores]
        if values:
            spread |= {f"{name}_mean": mean(values), f"{name}_sd": stdev(values)}
    return spread


def _write_predictions(params: Params, rows: Sequence[IndexRow], verdict: Verdict, classes: Sequence[str]) -> None:
    checksums = {name: [rows[row].sha256 for row in places.tolist()] for name, places in verdict.positions.items()}
    shapes = {name: ((len(values), len(classes)), "f4") for name, values in verdict.logits.items()}
    pieces = ((name, block.cpu().numpy()) for name, values in verdict.logits.items()
              for block in classification.probabilities(values))  # fmt: skip
    tensors.write(paths.PREDICTIONS / "probabilities.safetensors", shapes, pieces)
    described = {"classes": classes, "decide": params.decide.model_dump(), "images": checksums}
    common.write_predictions(described)


def _write_list(rows: Sequence[IndexRow], verdicts: Sequence[Verdict], classes: Sequence[str]) -> None:
    """Writes the list of predictions: of val and test, or of each fold what the head says that has not seen it."""
    asked = {name: (verdicts[0], name) for name in verdicts[0].logits}
    if len(verdicts) > 1:
        asked = {f"{FOLD}{number}": (fold, fold.judged) for number, fold in enumerate(verdicts, 1)}
    prediction_list.write_classes(
        {part: [rows[row] for row in one.positions[name].tolist()] for part, (one, name) in asked.items()},
        {part: classification.probabilities(one.logits[name]) for part, (one, name) in asked.items()},
        classes,
    )


def _plots(
    verdict: Verdict, confidence: torch.Tensor, chosen: torch.Tensor, classes: Sequence[str]
) -> dict[str, list[dict[str, object]]]:
    labels = verdict.labels[verdict.judged]
    confusion: list[dict[str, object]] = [
        {"actual": classes[actual], "predicted": classes[predicted]}
        for actual, predicted in zip(labels, chosen, strict=True)
    ]
    bins: list[dict[str, object]] = [
        {"confidence": f"{row.confidence:.4f}", "accuracy": f"{row.accuracy:.4f}", "count": row.images}
        for row in classification.reliability(confidence, chosen, labels)
    ]
    return {"confusion": confusion, "calibration": bins, "per_class": list(_per_class(verdict, chosen, classes))}


def _per_class(verdict: Verdict, chosen: torch.Tensor, classes: Sequence[str]) -> Iterator[dict[str, object]]:
    labels, counts = verdict.labels[verdict.judged], verdict.counts
    correct = torch.bincount(labels[chosen == labels], minlength=len(classes))
    predicted = torch.bincount(chosen, minlength=len(classes))
    for label, name in enumerate(classes):
        total, hits = int(counts[verdict.judged][label]), int(correct[label])
        yield {
            "class": name,
            **{f"n_{split_name}": int(counts[split_name][label]) for split_name in ("train", "val", "test")},
            "accuracy": f"{hits / total:.4f}" if total else "",
            "precision": f"{hits / int(predicted[label]):.4f}" if predicted[label] else "",
        }
