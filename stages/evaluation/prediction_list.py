"""`reports/predictions.csv`: every val and test image by its path, with what the head predicts for it.

This is the list to look for mistakes in, with any tool for tables. git ignores it, because the last digits of
probabilities depend on the machine; DVC keeps it with the other outputs of evaluate.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch

from stages import files, paths
from stages.datasets.index_file import IndexRow

PATH = paths.REPORTS / "predictions.csv"
CLASS_COLUMNS = ("path", "split", "label", "predicted", "probability", "second", "second_probability")
BOX_COLUMNS = ("path", "split", "label", "predicted", "probability", "x1", "y1", "x2", "y2", "result")
LABEL_COLUMNS = ("path", "split", "labels", "unknown", "predicted", "missed", "added")
SEPARATOR = "|"  # between labels
CORNERS = BOX_COLUMNS[5:9]
DIGITS = 6
Row = dict[str, object]
Images = Mapping[str, Sequence[IndexRow]]  # split -> its images, in the order of the predictions


def write_classes(images: Images, probabilities: Mapping[str, Iterable[torch.Tensor]], classes: Sequence[str]) -> None:
    """Writes one row per image: its class, the most probable class and the second.

    Args:
        images: of each split.
        probabilities: of each split, (N, C) in blocks (n, C).
        classes: the C names.
    """
    rows = (row for split in images for row in _class_rows(split, images[split], probabilities[split], classes))
    files.write_csv(PATH, CLASS_COLUMNS, rows, digits=DIGITS)


def _class_rows(
    split: str, images: Sequence[IndexRow], probabilities: Iterable[torch.Tensor], classes: Sequence[str]
) -> Iterator[Row]:
    tops = (block.topk(min(2, len(classes)), 1) for block in probabilities)
    answers = (row for top in tops for row in zip(top.values.tolist(), top.indices.tolist(), strict=True))
    for image, (values, labels) in zip(images, answers, strict=True):
        row: Row = {"path": image.path, "split": split, "label": image.label}
        row |= {"predicted": classes[labels[0]], "probability": values[0]}
        if len(labels) > 1:
            row |= {"second": classes[labels[1]], "second_probability": values[1]}
        yield row


def write_labels(
    images: Images,
    probabilities: Mapping[str, torch.Tensor],
    *,
    said: Mapping[str, torch.Tensor],
    classes: Sequence[str],
) -> None:
    """Writes one row per image: its labels, those that are predicted, missed and added, and every probability.

    Args:
        images: of each split.
        probabilities: of each split, (N, C).
        said: of each split, (N, C) bool: which labels are predicted.
        classes: the C names.
    """
    columns = [f"p({name})" for name in classes]
    rows = (
        _label_row(split, *image, classes=classes) | dict(zip(columns, values, strict=True))
        for split in images
        for *image, values in zip(images[split], said[split], probabilities[split].tolist(), strict=True)
    )
    files.write_csv(PATH, (*LABEL_COLUMNS, *columns), rows, digits=DIGITS)


def _label_row(split: str, image: IndexRow, said: torch.Tensor, *, classes: Sequence[str]) -> Row:
    labels, unknown = set(image.classes), set(image.unknown_labels)
    predicted = [classes[label] for label in said.nonzero()[:, 0].tolist()]
    lists: dict[str, Sequence[str]] = {
        "labels": image.classes,
        "unknown": image.unknown_labels,
        "predicted": predicted,
        "missed": [label for label in image.classes if label not in predicted],
        "added": [label for label in predicted if label not in labels | unknown],
    }
    row: Row = {"path": image.path, "split": split}
    return row | {name: SEPARATOR.join(names) for name, names in lists.items()}


def write_detections(
    images: Images,
    tensors: Mapping[str, torch.Tensor],
    *,
    classes: Sequence[str],
    kinds: Sequence[str],
    confidence: float,
) -> None:
    """Writes one row per box, and one row per object that no box finds (its `result` is `missed`).

    For a box, `result` is `right`, `ignored` (it counts neither way) or the kind of mistake, and `label` is the class
    of the object under the box.

    Args:
        images: of each split.
        tensors: the contents of boxes.safetensors.
        classes: names by label.
        kinds: names of the kinds of mistakes.
        confidence: the lowest score of a box that is listed.
    """
    rows = (
        row
        for split in images
        for row in _detection_rows(split, images[split], tensors, classes=classes, kinds=kinds, confidence=confidence)
    )
    files.write_csv(PATH, BOX_COLUMNS, rows, digits=DIGITS)


def _detection_rows(
    split: str,
    images: Sequence[IndexRow],
    tensors: Mapping[str, torch.Tensor],
    *,
    classes: Sequence[str],
    kinds: Sequence[str],
    confidence: float,
) -> Iterator[Row]:
    names = ("boxes", "scores", "labels", "images", "kinds", "meant")
    boxes = zip(*(tensors[f"{split}_{name}"].tolist() for name in names), strict=True)
    boxes_of: dict[int, list[tuple[list[float], float, int, int, int]]] = {}
    for corners, score, label, image, kind, meant in boxes:
        if score >= confidence:
            boxes_of.setdefault(image, []).append((corners, score, label, kind, meant))
    for number, image in enumerate(images):
        start: Row = {"path": image.path, "split": split}
        hit = set[int]()
        for corners, score, label, kind, meant in boxes_of.get(number, []):
            result = kinds[kind] if kind >= 0 else "right" if meant >= 0 else "ignored"
            hit |= {meant} if result == "right" else set()
            labels = {"label": image.objects[meant].label if meant >= 0 else "", "predicted": classes[label]}
            yield start | labels | {"probability": score, "result": result} | dict(zip(CORNERS, corners, strict=True))
        for i, box in enumerate(image.objects):
            if i not in hit and not (box.difficult or box.crowd or box.ignore):
                corner_cells = dict(zip(CORNERS, map(float, box.box), strict=True))
                yield start | {"label": box.label, "result": "missed"} | corner_cells


def write_largest(images: Images, tensors: Mapping[str, torch.Tensor], *, classes: Sequence[str], predict: str) -> None:
    """Writes one row per image: the class of its largest object, and the class and box predicted for it.

    If several views give several boxes, the one with the highest score counts; it stands first.

    Args:
        images: of each split.
        tensors: the contents of boxes.safetensors.
        classes: names by label.
        predict: `class`, `box` or `both`: what the head predicts. The cells of what it does not predict stay empty.
    """
    rows = []
    for split, split_images in images.items():
        columns = [tensors[f"{split}_{name}"].tolist() for name in ("images", "boxes", "scores", "labels")]
        detections = list(zip(*columns, strict=True))
        best = {number: detection for number, *detection in reversed(detections)}  # the first one of an image wins
        for number, true_label in enumerate(tensors[f"{split}_asked_labels"].tolist()):
            label = classes[true_label] if true_label >= 0 else ""
            row: Row = {"path": split_images[number].path, "split": split, "label": label}
            if number in best:
                corners, score, predicted = best[number]
                row |= {"predicted": classes[predicted], "probability": score} if predict != "box" else {}
                row |= dict(zip(CORNERS, corners, strict=True)) if predict != "class" else {}
            rows.append(row)
    files.write_csv(PATH, BOX_COLUMNS[:-1], rows, digits=DIGITS)
