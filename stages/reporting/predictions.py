"""The predictions of a head for the images that it was evaluated on: one class for each task."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from stages import paths, results
from stages.datasets.base import Box
from stages.reporting import gather
from stages.reporting.gather import RunResults

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]
NEAREST = "nearest.safetensors"
HIT = 0.5  # the overlap (IoU) from which a box counts as found


@dataclass(frozen=True)
class CalibrationBin:
    """A row of calibration.csv: mean confidence, accuracy and number of images."""

    confidence: float
    accuracy: float
    count: int


@dataclass(frozen=True)
class Counts:
    """Images of each pair of an actual and a predicted class, of the pairs that have any: 10,000 classes have few.

    Attributes:
        actual: (p,) of each pair, ascending.
        predicted: (p,) ascending within one actual class.
        images: (p,) how many.
        classes: C.
    """

    actual: Integers
    predicted: Integers
    images: Integers
    classes: int

    @classmethod
    def of(cls, actual: Integers, predicted: Integers, classes: int) -> Self:
        """Those of some images (n,) with their actual and predicted classes."""
        pairs, images = np.unique(actual * classes + predicted, return_counts=True)
        return cls(pairs // classes, pairs % classes, images, classes)

    @classmethod
    def dense(cls, matrix: Integers) -> Self:
        """Those of a matrix (C, C)."""
        actual, predicted = np.nonzero(matrix)
        return cls(actual, predicted, matrix[actual, predicted], len(matrix))

    def pairs(self) -> list[tuple[int, int, int]]:
        """Actual class, predicted class and number of images of each pair."""
        return list(zip(self.actual.tolist(), self.predicted.tolist(), self.images.tolist(), strict=True))

    @cached_property
    def totals(self) -> Integers:
        """(C,) images of each actual class."""
        totals: Integers = np.bincount(self.actual, self.images, self.classes).astype(np.int64)
        return totals

    @property
    def right(self) -> int:
        """Images on the diagonal."""
        return int(self.images[self.actual == self.predicted].sum())

    def most_mistaken(self, most: int) -> list[int]:
        """All classes, or so many with the most images that are mistaken for or as another, in the order of classes."""
        if self.classes <= most:
            return list(range(self.classes))
        wrong = self.actual != self.predicted
        mistakes = sum(np.bincount(of[wrong], self.images[wrong], self.classes) for of in (self.actual, self.predicted))
        return sorted(np.argsort(-np.asarray(mistakes), kind="stable")[:most].tolist())


def _probabilities(run: RunResults) -> Floats:
    """(N, C) of the judged images, as evaluate left them.

    Raises:
        UserError: they are damaged, or of other images.
    """
    file, shape = "probabilities.safetensors", (len(run.judged), len(run.head["classes"]))
    probabilities: Floats = gather.arrays(file, run.part).get(run.part, np.zeros(0))
    if probabilities.shape != shape:
        raise gather.damaged(paths.PREDICTIONS / file, f"{probabilities.shape} probabilities for {shape[0]} images")
    return probabilities


@dataclass(frozen=True)
class ClassPredictions:
    """Probabilities of the classes for each of N images.

    Attributes:
        labels: (N,) the actual classes, as positions in the list of classes.
        probabilities: (N, C) softmax.
    """

    labels: Integers
    probabilities: Floats

    @classmethod
    def load(cls, run: RunResults) -> Self:
        """As evaluate left them.

        Raises:
            UserError: they are damaged, or of other images.
        """
        label_of = {name: label for label, name in enumerate(run.head["classes"])}
        return cls(np.array([label_of[row.label] for row in run.judged], np.int64), _probabilities(run))

    @cached_property
    def chosen(self) -> Integers:
        """(N,) the most probable class."""
        chosen: Integers = self.probabilities.argmax(1)
        return chosen

    @cached_property
    def confidence(self) -> Floats:
        """(N,) the probability of the chosen class."""
        confidence: Floats = self.probabilities.max(1)
        return confidence

    @cached_property
    def right(self) -> Booleans:
        """(N,) whether the chosen class is the label."""
        right: Booleans = self.chosen == self.labels
        return right

    def confusion(self) -> Counts:
        """Numbers of images of each actual and predicted class."""
        return Counts.of(self.labels, self.chosen, self.probabilities.shape[1])


@dataclass(frozen=True)
class LabelPredictions:
    """Probabilities of C labels for each of N images.

    Attributes:
        present: (N, C) which labels an image has.
        unknown: (N, C) of which nobody knows.
        probabilities: (N, C).
        thresholds: (C,) the probability from which on a label is predicted.
    """

    present: Booleans
    unknown: Booleans
    probabilities: Floats
    thresholds: Floats

    @classmethod
    def load(cls, run: RunResults) -> Self:
        """As evaluate left them.

        Raises:
            UserError: they are damaged, or of other images.
        """
        label_of, probabilities = {name: label for label, name in enumerate(run.head["classes"])}, _probabilities(run)
        present, unknown = np.zeros(probabilities.shape, bool), np.zeros(probabilities.shape, bool)
        for number, row in enumerate(run.judged):
            unknown[number, [label_of[name] for name in row.unknown_labels if name in label_of]] = True
            present[number, [label_of[name] for name in row.classes]] = True
        return cls(present, unknown, probabilities, np.array(run.predictions["thresholds"], np.float64))

    @cached_property
    def said(self) -> Booleans:
        """(N, C) which labels are predicted."""
        said: Booleans = self.probabilities >= self.thresholds
        return said

    @cached_property
    def counted(self) -> Booleans:
        """(N, C) predicted labels that count."""
        counted: Booleans = self.said & ~self.unknown
        return counted

    @cached_property
    def hits(self) -> Booleans:
        """(N, C) labels that are there and predicted."""
        return self.said & self.present

    @cached_property
    def missed(self) -> Booleans:
        """(N, C) labels that are there and not predicted."""
        missed: Booleans = self.present & ~self.said
        return missed

    @cached_property
    def added(self) -> Booleans:
        """(N, C) labels that are predicted and not there."""
        added: Booleans = self.counted & ~self.present
        return added

    @cached_property
    def right(self) -> Booleans:
        """(N,) whether every label of an image is right."""
        right: Booleans = np.logical_not((self.missed | self.added).any(1))
        return right

    def mixed_up(self) -> Counts:
        """On the diagonal hits; elsewhere images in which the actual label is missed and the other one added."""
        together = self.missed.astype(np.int64).T @ self.added
        return Counts.dense(together + np.diag(self.hits.sum(0)))


@dataclass(frozen=True)
class Neighbours:
    """What lies near the N evaluated images among the cached features; empty where the cache holds pixels.

    Attributes:
        nearest: (N, 4) rows of the index, the most similar training image first.
        mapped: (n,) the images on the map, as positions among the N.
        map: (n, 2) where they lie, in [0, 1].
        compared: how many training images were compared; 0 where that was not written.
    """

    nearest: Integers
    mapped: Integers
    map: Floats
    compared: int = 0

    @classmethod
    def load(cls, run: RunResults) -> Self:
        """As evaluate left it.

        Raises:
            UserError: it is damaged, or of other images.
        """
        arrays = gather.arrays(NEAREST, "")
        nearest = arrays.get("nearest", np.zeros((len(run.judged), 0), np.int64))
        if len(nearest) != len(run.judged) or nearest.max(initial=0) >= len(run.rows):
            raise gather.damaged(paths.PREDICTIONS / NEAREST, f"{nearest.shape} for {len(run.judged)} images")
        mapped, points = arrays.get("mapped", np.zeros(0, np.int64)), arrays.get("map", np.zeros((0, 2), np.float32))
        return cls(nearest, mapped, points, int(arrays.get("compared", np.zeros(1))[0]))


@dataclass(frozen=True)
class BoxPredictions:
    """The n boxes predicted in N images, and the m objects in these; both in the order of the images.

    Attributes:
        boxes: (n, 4) corners in pixels of the image.
        scores: (n,) in [0, 1], the highest of an image first.
        labels: (n,) positions in the list of classes.
        images: (n,) positions in the list of images.
        kinds: (n,) positions in `names`, or -1 where a box is right or counts neither way.
        meant: (n,) the object that a box hits, or would hit without its mistake, counted over all images; or -1.
        names: the kinds of mistakes.
        objects: the m objects.
        object_images: (m,) positions in the list of images.
        object_labels: (m,) positions in the list of classes.
        counts: (m,) False where an object counts neither way (difficult, ignored or a crowd).
    """

    boxes: Floats
    scores: Floats
    labels: Integers
    images: Integers
    kinds: Integers
    meant: Integers
    names: list[str]
    objects: list[Box]
    object_images: Integers
    object_labels: Integers
    counts: Booleans

    @classmethod
    def load(cls, run: RunResults) -> Self:
        """As evaluate left them.

        Raises:
            UserError: they are damaged, or of other images.
        """
        file = "boxes.safetensors"
        arrays = gather.arrays(file, run.part)
        label_of = {name: label for label, name in enumerate(run.head["classes"])}
        objects = [box for row in run.judged for box in row.objects]
        first = np.cumsum([0, *(len(row.objects) for row in run.judged)])
        try:
            images, meant = arrays["images"], arrays["meant"]
            return cls(
                **{name: arrays[name] for name in ("boxes", "scores", "labels", "images", "kinds")},
                meant=np.where(meant < 0, -1, meant + first[images]),
                names=run.predictions["kinds"],
                objects=objects,
                object_images=np.repeat(np.arange(len(run.judged)), np.diff(first)),
                object_labels=np.array([label_of[box.label] for box in objects], np.int64),
                counts=np.array([not (box.difficult or box.ignore or box.crowd) for box in objects], bool),
            )
        except (KeyError, IndexError) as error:
            raise gather.damaged(paths.PREDICTIONS / file, repr(error)) from None

    def above(self, threshold: float) -> "ShownBoxes":
        """The boxes with at least this score. Which of them are right does not depend on the threshold."""
        return ShownBoxes(self, self.scores >= threshold)


@dataclass(frozen=True)
class ShownBoxes:
    """The boxes above a threshold.

    Attributes:
        all: every box.
        is_shown: (n,) whether a box is above it.
    """

    all: BoxPredictions
    is_shown: Booleans

    @cached_property
    def hits(self) -> Booleans:
        """(n,) shown boxes that are right."""
        meant = self.all.meant
        counts = np.append(self.all.counts, False)  # where nothing is meant
        hits: Booleans = self.is_shown & (self.all.kinds < 0) & counts[meant]
        return hits

    @cached_property
    def wrong(self) -> Booleans:
        """(n,) shown boxes that are wrong."""
        wrong: Booleans = self.is_shown & (self.all.kinds >= 0)
        return wrong

    @cached_property
    def found(self) -> Booleans:
        """(m,) objects that a shown box hits."""
        return self._of_objects(self.hits)

    @cached_property
    def missed(self) -> Booleans:
        """(m,) objects that count and that no shown box hits."""
        missed: Booleans = self.all.counts & ~self.found
        return missed

    @cached_property
    def unnoticed(self) -> Booleans:
        """(m,) of those missed, the ones that no shown box would hit without its mistake either."""
        return self.missed & ~self._of_objects(self.is_shown & (self.all.meant >= 0))

    @property
    def found_share(self) -> float | None:
        """The share of the objects that are found (recall); None where there are none."""
        return share(int(self.found.sum()), int(self.all.counts.sum()))

    @property
    def right_share(self) -> float | None:
        """The share of the shown boxes that are right (precision); None where none is shown."""
        return share(int(self.hits.sum()), int(self.hits.sum() + self.wrong.sum()))

    def mistakes(self) -> dict[str, int]:
        """Number of mistakes of each kind; `missed` counts objects."""
        numbers = {name: int((self.wrong & (self.all.kinds == kind)).sum()) for kind, name in enumerate(self.all.names)}
        return numbers | {"missed": int(self.unnoticed.sum())}

    def f1(self, images: int) -> npt.NDArray[np.float64]:
        """(N,) harmonic mean of recall and precision in each image; NaN where there is neither object nor box.

        Args:
            images: their number N.
        """
        hits, wrong = (np.bincount(self.all.images[which], minlength=images) for which in (self.hits, self.wrong))
        objects = np.bincount(self.all.object_images[self.all.counts], minlength=images)
        with np.errstate(invalid="ignore"):
            f1: npt.NDArray[np.float64] = 2 * hits / (objects + hits + wrong)
        return f1

    def _of_objects(self, boxes: Booleans) -> Booleans:
        """(m,) the objects that some of these boxes (n,) mean."""
        is_meant = np.zeros(len(self.all.objects), bool)
        is_meant[self.all.meant[boxes]] = True
        return is_meant


@dataclass(frozen=True)
class LargestPredictions:
    """The box and class predicted for the largest object of each of N images.

    Attributes:
        boxes: (N, 4) corners in pixels of the image.
        scores: (N,) the probability of the predicted class.
        labels: (N,) the predicted classes, as positions in the list of classes.
        true_boxes: (N, 4) the largest object, as far as it lies in the view.
        true_labels: (N,) its class, or -1 where there is no object.
        predict: what the head predicts: `box`, `class` or `both`.
    """

    boxes: Floats
    scores: Floats
    labels: Integers
    true_boxes: Floats
    true_labels: Integers
    predict: str

    @classmethod
    def load(cls, run: RunResults) -> Self:
        """As evaluate left them.

        Raises:
            UserError: they are damaged, or of other images.
        """
        file = "boxes.safetensors"
        arrays: dict[str, Any] = gather.arrays(file, run.part)
        try:
            first = np.unique(arrays["images"], return_index=True)[1]  # the best box of an image is its first
            predicted = {name: arrays[name][first] for name in ("boxes", "scores", "labels")}
            actual = {f"true_{name}": arrays[f"asked_{name}"] for name in ("boxes", "labels")}
        except KeyError as error:
            raise gather.damaged(paths.PREDICTIONS / file, repr(error)) from None
        if not len(run.judged) == len(first) == len(actual["true_labels"]):
            raise gather.damaged(paths.PREDICTIONS / file, f"{len(first)} boxes for {len(run.judged)} images")
        return cls(**predicted, **actual, predict=run.head["knobs"]["predict"])

    @cached_property
    def has_object(self) -> Booleans:
        """(N,) whether an image has an object."""
        has_object: Booleans = self.true_labels >= 0
        return has_object

    @cached_property
    def iou(self) -> Floats:
        """(N,) overlap with the largest object; 0 where there is none."""
        low = np.maximum(self.boxes[:, :2], self.true_boxes[:, :2])
        high = np.minimum(self.boxes[:, 2:], self.true_boxes[:, 2:])
        common = (high - low).clip(min=0).prod(1)
        areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (self.boxes, self.true_boxes)]
        iou: Floats = common / np.maximum(areas[0] + areas[1] - common, np.finfo(np.float32).tiny)
        return iou

    @cached_property
    def right_class(self) -> Booleans:
        """(N,) whether the class is right; true for every object where no class is predicted."""
        right: Booleans = self.has_object & ((self.labels == self.true_labels) | (self.predict == "box"))
        return right

    @cached_property
    def right(self) -> Booleans:
        """(N,) whether all that is predicted is right: the class, and a box that overlaps by half."""
        right: Booleans = self.right_class & ((self.iou >= HIT) | (self.predict == "class"))
        return right


def bins() -> list[CalibrationBin]:
    """The rows of calibration.csv."""

    def parse(row: dict[str, str]) -> CalibrationBin:
        return CalibrationBin(float(row["confidence"]), float(row["accuracy"]), int(row["count"]))

    return results.read_csv(paths.PLOTS / "calibration.csv", parse)


def precision_recall() -> dict[str, list[tuple[float, float]]]:
    """Pairs of recall and precision for each class, the boxes with the highest scores first."""

    def parse(row: dict[str, str]) -> tuple[str, float, float]:
        return row["class"], float(row["recall"]), float(row["precision"])

    curves = dict[str, list[tuple[float, float]]]()
    for name, recall, precision in results.read_csv(paths.PLOTS / "precision_recall.csv", parse):
        curves.setdefault(name, []).append((recall, precision))
    return curves


def corners(box: Floats) -> tuple[float, float, float, float]:
    """A row of an array of boxes as an annotation has it."""
    x1, y1, x2, y2 = box.tolist()
    return x1, y1, x2, y2


def share(part: int, whole: int) -> float | None:
    """The share of a part in a whole; None where the whole is 0."""
    return part / whole if whole else None
