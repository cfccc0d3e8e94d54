"""The model card: what a file is, how to use it, how good it is, its limits, and the licence of its weights."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from stages.backbones import names
from stages.backbones.licences import licence
from stages.errors import counted
from stages.exporting import example
from stages.exporting.formats import FORMATS
from stages.exporting.network import preprocessing
from stages.features.h5 import INPUT
from stages.images.preprocessing import Preprocessing
from stages.metrics.table import BASELINES, SHARE, VAL, of_task
from stages.prediction.predictor import Predictor, recorded
from stages.reporting.rendering import escaped

FEW = 100  # images: metrics of fewer say little


class Checked(NamedTuple):
    """The result of the comparison of a file with coldcut.

    Attributes:
        file: name of the file.
        format: one of `formats.FORMATS`.
        images: number of images that both predicted.
        difference: largest difference from coldcut's predictions in float32.
        moved: largest difference of a score from coldcut's predictions at the precision of training and evaluation.
        same_class: number of images for which those name the same class or labels; None where boxes are predicted.
        several: whether images have several labels.
    """

    file: str
    format: str
    images: int
    difference: float
    moved: float
    same_class: int | None
    several: bool = False


def metadata(predictor: Predictor, data: str) -> dict[str, Any]:
    """What goes into the file itself, as far as its format has room for it.

    Args:
        predictor: what is exported.
        data: what the data is called that it was trained on.
    """
    return {
        "classes": predictor.classes,
        "preprocessing": str(preprocessing(predictor.specs[0])).partition("|normalize")[0],
        "head": predictor.described["head"],
        "backbone": predictor.provenance["backbone"],
        "dataset": data,
        "decide": predictor.decide.model_dump(),
        **({} if predictor.thresholds is None else {"thresholds": list(predictor.thresholds)}),
    }


def write(predictor: Predictor, checked: Checked, data: str, metrics: Mapping[str, Any] | None) -> str:
    """The card, in Markdown.

    Args:
        predictor: what was exported.
        checked: how its file compares with coldcut.
        data: what the data is called that it was trained on.
        metrics: the contents of `reports/metrics.json`; None where they are of another head.
    """
    described, how, decide = predictor.described, preprocessing(predictor.specs[0]), predictor.decide
    title = f"{described['head']} on {predictor.provenance['backbone']}, trained on {escaped(data)}"
    task = "finds objects" if predictor.finds_boxes else "names the class of an image"
    if predictor.thresholds is not None:
        task = "says which labels an image has"
    code = example.program(
        checked.file,
        checked.format,  # type: ignore[arg-type]
        how,
        boxes=predictor.finds_boxes,
        suppresses=_suppresses(predictor, checked.format),
        confidence=decide.confidence,
        iou=decide.nms_iou,
        several=predictor.thresholds is not None,
    )
    return "\n".join([
        f"# {title}", "",
        f"`{checked.file}` {task}. It knows {counted(len(predictor.classes), 'classes')}, holds backbone and head in "
        "one file, and was made by coldcut.", "",
        "## Use", "", *_input(how), "", *_output(predictor, checked.format), "",
        "```python", code.rstrip(), "```", "",
        "## Data", "", *_data(predictor, data, metrics), "",
        "## Metrics", "", *_metrics(metrics), "",
        "## Limits", "", *(f"- {limit}" for limit in _limits(predictor, checked, metrics)), "",
        "## Licence of the weights", "", *(f"- {line}" for line in _licences(predictor)), "",
        "## Classes", "", "In the order of the outputs, as JSON:", "",
        "```json", json.dumps(predictor.classes, ensure_ascii=False, indent=1), "```", "",
    ])  # fmt: skip


def metrics_of(predictor: Predictor, metrics: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The metrics if they are of this head, None if they are of another."""
    own = {"tap": predictor.described["tap"], "head": predictor.described["head"]} | {
        "dataset": predictor.described["params"]["dataset"],
        "backbone": predictor.provenance["backbone"],
        "cut": predictor.provenance["cut"],
    }
    return metrics if all(metrics.get(key) == value for key, value in own.items()) else None


def _input(how: Preprocessing) -> list[str]:
    size = how.crop
    resized = (
        f"squash it to {size} x {size}"
        if how.resize is None
        else f"resize its short side to {how.resize}, and cut out the centre {size} x {size}"
    )
    return [
        f"Input `pixels`: uint8 (N, 3, {size}, {size}), RGB, 0 to 255, any N. Decode the image, rotate it as its EXIF "
        f"orientation says, {resized} ({how.interpolation}, antialiased). The file normalises the pixels itself."
    ]


def _suppresses(predictor: Predictor, format_: str) -> bool:
    return predictor.finds_boxes and FORMATS[format_].suppresses


def _output(predictor: Predictor, format_: str) -> list[str]:
    if predictor.thresholds is not None:
        return [
            "Output `probabilities`: float32 (N, classes), one for each label by itself. An image has the labels whose "
            "probability is at least their threshold; the thresholds were chosen on validation (the highest F1 of each "
            "label), and the file holds them beside the classes."
        ]
    if not predictor.finds_boxes:
        return ["Output `probabilities`: float32 (N, classes); each row adds up to 1."]
    decide = predictor.decide
    candidates = (
        "`all_boxes`, float32 (N, P, 4), corners x1 y1 x2 y2 in pixels of the input, and `all_scores`, float32 "
        "(N, P, classes), the score of each class for each box, before suppression"
    )
    if _suppresses(predictor, format_):
        moved = " before boxes are moved to the mean of those around them" if decide.merge == "vote" else ""
        return [
            "Outputs: `boxes`, float32 (N, K, 4), corners x1 y1 x2 y2 in pixels of the input, `scores`, float32 "
            "(N, K), and `labels`, int64 (N, K), the number of the class. The best boxes come first; behind the last "
            "one scores are 0 and labels -1. They are what remains after suppression class by class, with the "
            f"thresholds of the evaluation: a score of at least {decide.confidence:g} (`decide.confidence`), and an "
            f"IoU of at most {decide.nms_iou:g} (`decide.nms_iou`){moved}. For other thresholds there are {candidates}."
        ]
    return [
        f"Outputs: {candidates}: keep those that score enough, then suppress class by class (evaluated with an IoU of "
        f"{decide.nms_iou:g}), as the program does. torch's format has no place for that; onnx and openvino do it."
    ]


def _data(predictor: Predictor, data: str, metrics: Mapping[str, Any] | None) -> list[str]:
    lines = [f"- Dataset: {escaped(data)}"]
    if metrics:
        counts = ", ".join(f"{metrics[f'n_{part}']:,} {part}" for part in ("train", "val", "test"))
        folds = (
            f"all of {metrics['n_test']:,} but one of {metrics['folds']} folds, which chose"
            if "folds" in metrics
            else ""
        )
        lines += [f"- Images: {folds or counts}"]
    if predictor.described["params"].get("refit") == "trainval":
        lines += ["- The settings were chosen on val, then the head was trained on train and val"]
    return [*lines, "- The images keep the licence of their dataset"]


def _metrics(metrics: Mapping[str, Any] | None) -> list[str]:
    if metrics is None:
        return ["None: `reports/metrics.json` is of another head."]
    part, prefix = ("test", "") if metrics["n_test"] else ("val", VAL)
    rows = [
        f"| {metric.title} | {metric.text(metrics[prefix + name])} |"
        for name, metric in of_task(metrics["task"]).items()
        if prefix + name in metrics
    ]
    rows += [f"| {line.title} | {SHARE.format(metrics[name])} |" for name, line in BASELINES.items() if name in metrics]
    images = f"On {counted(metrics[f'n_{part}'], f'{part} images')}:"
    if folds := metrics.get("folds"):
        images = (
            f"Of {folds} heads trained as this one was, each judged on the images of a fold that it has not seen, "
            f"{metrics['n_test']:,} in all:"
        )
    return [images, "", "| | |", "|---|---|", *rows]


def _limits(predictor: Predictor, checked: Checked, metrics: Mapping[str, Any] | None) -> list[str]:
    """What a user of the file must know."""
    limits = [
        f"It computes in float32. On {counted(checked.images, 'images')} it differs from coldcut in float32 by at most "
        f"{checked.difference:.1e}{', boxes relative to their coordinates' if predictor.finds_boxes else ''}.",
        f"The head was trained and evaluated with {_precision(predictor)}. The scores of the file differ from those by "
        f"up to {checked.moved:.2g}{_same(checked)}.",
        "It knows its own classes only. An image of anything else gets one of them"
        f"{', or no box' if predictor.finds_boxes else ', or no label' if predictor.thresholds is not None else ''}.",
    ]
    if predictor.decide.tta:
        limits.append(f"The metrics are of {len(predictor.specs[0].views)} views of each image; this file sees one.")
    if predictor.provenance["cut"] == INPUT:
        limits.append(
            "It was evaluated on images that were shrunk in two steps: their pixels differ slightly from those of the "
            "program above."
        )
    if metrics and not metrics["n_test"]:
        limits.append(
            "There was no test split: the metrics are of the validation images. The head was chosen on them, too, so "
            "they are slightly too good."
        )
    elif metrics and metrics["n_test"] < FEW:
        limits.append(f"Only {counted(metrics['n_test'], 'images were')} evaluated, so the metrics are uncertain.")
    if predictor.finds_boxes and predictor.provenance["resize"] == "crop":
        limits.append(
            "Objects outside the centre crop are not found, and boxes that reach beyond it are not cut at the border "
            "of the image, which the file does not know."
        )
    if checked.format == "openvino":
        limits.append(
            "OpenVINO computes in bfloat16 where the processor does, unless INFERENCE_PRECISION_HINT is f32. "
            "Its weights lie next to it, in a file of the same name that ends in .bin."
        )
    return limits


def _same(checked: Checked) -> str:
    if checked.same_class is None:
        return ""
    what = "every label is" if checked.several else "the most probable class is"
    return f", and {what} the same for {checked.same_class} of {counted(checked.images, 'images')}"


def _precision(predictor: Predictor) -> str:
    head, features = predictor.described["knobs"]["precision"], recorded(predictor)[0].get("precision")
    return f"features in {features} and the head in {head}" if features else f"all in {head}"


def _licences(predictor: Predictor) -> list[str]:
    params = predictor.described["params"]
    if predictor.provenance["cut"] == INPUT and predictor.described["tap"] == "same":
        return ["It contains no pretrained weights."]
    backbones = names.joined(params["backbone"], params["weights"])
    return [f"{name}: {licence(name, weights)}" for name, weights in backbones]
