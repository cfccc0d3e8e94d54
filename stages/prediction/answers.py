"""Predictions image by image, as dictionaries for JSON and as sentences."""

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch

from stages.boxes.geometry import Detections
from stages.command import shown
from stages.errors import UserError
from stages.features.decoders import ImageRef
from stages.features.extraction import decoding_error, load_extractor
from stages.prediction import image_files
from stages.prediction.image_files import ImageFile
from stages.prediction.predictor import Prediction, Predictor

BATCHES = 4  # predicted at a time: decoding and computing overlap within these
TOP = 5  # classes listed for an image
LISTED_PROBABILITY = 0.005  # in a sentence, classes after the first are listed from this probability on
SCORE_DIGITS, PIXEL_DIGITS = 6, 3
FILES = ("drawn", "labels")  # keys of an answer for the file that was written of its image
Answer = dict[str, Any]  # what is said of an image, as JSON has it


def predict(predictor: Predictor, names: Iterable[str]) -> Iterator[tuple[ImageFile, Prediction | str]]:
    """Yields the files in their order, each with its prediction, or with the reason why there is none."""
    all_files = map(image_files.read, names)
    count = BATCHES * load_extractor(predictor.specs[0]).batch_size
    while batch := list(islice(all_files, count)):
        usable = [file for file in batch if not file.problem]
        predictions = iter(_predict(predictor, usable))
        for file in batch:
            yield file, file.problem or next(predictions)


def _predict(predictor: Predictor, usable: Sequence[ImageFile]) -> list[Prediction | str]:
    """Predictions and reasons; where one image stops them all (a file that has just changed), each is tried alone."""
    if not usable:
        return []
    images: list[ImageRef] = [(os.path.abspath(file.path), file.sha256) for file in usable]
    try:
        predictions = predictor.predict(images, [file.extent for file in usable])
    except UserError as error:
        if len(usable) == 1:
            return [str(error)]
        return [prediction for file in usable for prediction in _predict(predictor, [file])]
    pairs = zip(images, predictions, strict=True)
    return [
        decoding_error(predictor.specs[0], image) if prediction is None else prediction for image, prediction in pairs
    ]


def confident(detections: Detections, confidence: float, count: int | None) -> Detections:
    """The boxes with at least this score, the highest first; at most `count` of them, or all."""
    order = detections.scores.argsort(descending=True)
    return detections.pick(order[detections.scores[order] >= confidence][:count])


def answer(
    predictor: Predictor, file: ImageFile, prediction: Prediction | str, *, confidence: float | None, top: int | None
) -> Answer:
    """What is said of an image.

    Args:
        predictor: what predicted.
        file: the image.
        prediction: probabilities of the classes, boxes to be listed, or the reason why there is neither.
        confidence: the probability from which a class counts as confident, or a label as predicted; None for
            `decide.confidence`, or the threshold of each label.
        top: how many classes are listed; None for TOP.
    """
    path = {"path": file.path} | ({"scaled": file.scaled} if file.scaled else {})
    if isinstance(prediction, str):
        return path | {"error": prediction}
    if isinstance(prediction, Detections):
        width, height = file.extent
        return path | {"width": width, "height": height, "boxes": list(objects(predictor, prediction))}
    best = prediction.values.topk(min(top or TOP, len(prediction.values)))
    pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True)
    likely = [{"label": predictor.classes[label], "probability": round(p, SCORE_DIGITS)} for p, label in pairs]
    if predictor.thresholds is None:
        sure = float(best.values[0]) >= (predictor.decide.confidence if confidence is None else confidence)
        described: Answer = path | likely[0] | {"confident": sure}
    else:
        described = path | {"labels": list(labels(predictor, prediction.values, confidence))}
    if predictor.known and prediction.similarity is not None:
        unknown = prediction.similarity < predictor.known.least
        described |= {"unknown": unknown, "similarity": round(prediction.similarity, SCORE_DIGITS)}
    return described | {"top": likely}


def labels(predictor: Predictor, values: torch.Tensor, confidence: float | None) -> Iterator[Answer]:
    """Yields the labels of an image, the most probable first: those above their thresholds, or above one for all."""
    assert predictor.thresholds is not None
    for label in values.argsort(descending=True).tolist():
        threshold = predictor.thresholds[label] if confidence is None else confidence
        if (probability := float(values[label])) >= threshold:
            named = {"label": predictor.classes[label], "probability": round(probability, SCORE_DIGITS)}
            yield named | {"threshold": round(threshold, SCORE_DIGITS)}


def objects(predictor: Predictor, detections: Detections) -> Iterator[Answer]:
    """Yields the objects of an image as far as the head predicts them: class and score, box in pixels, or both."""
    rows = zip(detections.boxes.tolist(), detections.scores.tolist(), detections.labels.tolist(), strict=True)
    for corners, score, label in rows:
        named = {"label": predictor.classes[label], "score": round(score, SCORE_DIGITS)}
        placed = {"box": [round(side, PIXEL_DIGITS) for side in corners]}
        yield {"box": placed, "class": named, "both": named | placed}[predictor.predicts]


def captions(predictor: Predictor, detections: Detections) -> list[str]:
    """Class and score of each box, for a picture; empty where the head predicts no class."""
    return [_percent(item, "score") if "label" in item else "" for item in objects(predictor, detections)]


def sentence(line: Answer) -> str:
    """An answer as a line for people."""
    path = shown(line["path"]) + (f" (values scaled: {line['scaled']})" if "scaled" in line else "")
    if "error" in line:
        return f"{path}: error: {shown(line['error'])}"
    if "top" in line:
        prefix = "" if line.get("confident", True) else "not sure: "
        if line.get("unknown"):
            prefix = f"unknown (similarity {line['similarity']:.2f}): "
        if "labels" in line:
            names = [_percent(item, "probability") for item in line["labels"]]
            likeliest = _percent(line["top"][0], "probability")
            return f"{path}: {prefix}{', '.join(names) or f'none of the labels (most likely {likeliest})'}"
        likely = [line["top"][0], *(item for item in line["top"][1:] if item["probability"] >= LISTED_PROBABILITY)]
        return f"{path}: {prefix}{', '.join(_percent(item, 'probability') for item in likely)}"
    written = next((f" -> {shown(line[key])}" for key in FILES if key in line), "")
    return f"{path}: {'; '.join(map(_object, line['boxes'])) or 'no object found'}{written}"


def _object(item: Answer) -> str:
    name = _percent(item, "score") if "label" in item else "an object"
    return f"{name} at {' '.join(f'{side:.0f}' for side in item['box'])}" if "box" in item else name


def _percent(item: Answer, key: str) -> str:
    return f"{_quoted(shown(item['label']))} {item[key]:.1%}"


def _quoted(label: str) -> str:
    """A class; in quotes where its name holds what separates classes from each other."""
    return json.dumps(label, ensure_ascii=False) if re.search(r"[,;:\"]", label) else label
