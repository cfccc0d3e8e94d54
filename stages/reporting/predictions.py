"""What the head says of the judged images, one class for each task, as the choice of pictures and the page use it."""

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
class ClassPredictions:
    """A class for each image.

    Attributes:
        labels: (N,) positions in the list of classes.
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
        number = {name: place for place, name in enumerate(run.head["classes"])}
        name = "probabilities.safetensors"
        probabilities = gather.arrays(name, run.part).get(run.part, np.zeros(0))
        if probabilities.shape != (len(run.judged), len(number)):
            why = f"{probabilities.shape} probabilities for {len(run.judged)} images"
            raise gather.damaged(paths.PREDICTIONS / name, why)
        return cls(np.array([number[row.label] for row in run.judged], np.int64), probabilities)

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

    def confusion(self) -> Integers:
        """(C, C) counts: a row an actual class, a column a predicted one."""
        classes = self.probabilities.shape[1]
        counts = np.zeros((classes, classes), np.int64)
        np.add.at(counts, (self.labels, self.chosen), 1)
        return counts


@dataclass(frozen=True)
class Neighbours:
    """What lies near the judged images among the cached features; nothing where the cache holds pixels.

    Attributes:
        nearest: (N, 4) rows of the index, the most similar training image first.
        mapped: (n,) positions among the judged images.
        map: (n, 2) where they lie, in [0, 1].
    """

    nearest: Integers
    mapped: Integers
    map: Floats

    @classmethod
    def load(cls, run: RunResults) -> Self:
        """As evaluate left it.

        Raises:
            UserError: it is damaged, or of other images.
        """
        found = gather.arrays(NEAREST, "")
        nearest = found.get("nearest", np.zeros((len(run.judged), 0), np.int64))
        if len(nearest) != len(run.judged) or nearest.max(initial=0) >= len(run.rows):
            raise gather.damaged(paths.PREDICTIONS / NEAREST, f"{nearest.shape} for {len(run.judged)} images")
        return cls(nearest, found.get("mapped", np.zeros(0, np.int64)), found.get("map", np.zeros((0, 2), np.float32)))


@dataclass(frozen=True)
class BoxPredictions:
    """Boxes found in N images, n in all, and the objects there, m in all; both in the order of the images.

    Attributes:
        boxes: (n, 4) corners in pixels of the image.
        scores: (n,) in [0, 1], the highest of an image first.
        labels: (n,) positions in the list of classes.
        images: (n,) positions in the list of images.
        kinds: (n,) positions in `names`, or -1 where a box is right or counts neither way.
        meant: (n,) the object that a box hits, or would were it mended, counted over all images, or -1.
        names: the kinds of mistakes.
        objects: of all images, m of them.
        object_images: (m,) positions in the list of images.
        object_labels: (m,) positions in the list of classes.
        counts: (m,) False where an object counts neither way.
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
        name = "boxes.safetensors"
        found = gather.arrays(name, run.part)
        number = {label: place for place, label in enumerate(run.head["classes"])}
        objects = [box for row in run.judged for box in row.objects]
        first = np.cumsum([0, *(len(row.objects) for row in run.judged)])
        try:
            images, meant = found["images"], found["meant"]
            return cls(
                **{key: found[key] for key in ("boxes", "scores", "labels", "images", "kinds")},
                meant=np.where(meant < 0, -1, meant + first[images]),
                names=run.predictions["kinds"],
                objects=objects,
                object_images=np.repeat(np.arange(len(run.judged)), np.diff(first)),
                object_labels=np.array([number[box.label] for box in objects], np.int64),
                counts=np.array([not (box.difficult or box.ignore or box.crowd) for box in objects], bool),
            )
        except (KeyError, IndexError) as error:
            raise gather.damaged(paths.PREDICTIONS / name, repr(error)) from None

    def above(self, threshold: float) -> "ShownBoxes":
        """The boxes that are shown: those with a score of at least this. What is right of them stays right."""
        return ShownBoxes(self, self.scores >= threshold)


@dataclass(frozen=True)
class ShownBoxes:
    """The boxes above a threshold.

    Attributes:
        all: every box.
        there: (n,) those that are shown.
    """

    all: BoxPredictions
    there: Booleans

    @cached_property
    def hits(self) -> Booleans:
        """(n,) shown boxes that are right."""
        meant = self.all.meant
        counts = np.append(self.all.counts, False)  # where nothing is meant
        hits: Booleans = self.there & (self.all.kinds < 0) & counts[meant]
        return hits

    @cached_property
    def wrong(self) -> Booleans:
        """(n,) shown boxes that are wrong."""
        wrong: Booleans = self.there & (self.all.kinds >= 0)
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
        """(m,) of those missed, the ones that no shown box would hit were it mended either."""
        return self.missed & ~self._of_objects(self.there & (self.all.meant >= 0))

    @property
    def found_share(self) -> float | None:
        """Of the objects, how many are found (recall); None where there are none."""
        return share(int(self.found.sum()), int(self.all.counts.sum()))

    @property
    def right_share(self) -> float | None:
        """Of the boxes shown, how many are right (precision); None where none is shown."""
        return share(int(self.hits.sum()), int(self.hits.sum() + self.wrong.sum()))

    def mistakes(self) -> dict[str, int]:
        """How many of each kind; `missed` counts objects."""
        number = {name: int((self.wrong & (self.all.kinds == kind)).sum()) for kind, name in enumerate(self.all.names)}
        return number | {"missed": int(self.unnoticed.sum())}

    def f1(self, images: int) -> npt.NDArray[np.float64]:
        """(N,) the harmonic mean of recall and precision in each image; NaN where there is nothing to find or show."""
        hits, wrong = (np.bincount(self.all.images[which], minlength=images) for which in (self.hits, self.wrong))
        objects = np.bincount(self.all.object_images[self.all.counts], minlength=images)
        with np.errstate(invalid="ignore"):
            f1: npt.NDArray[np.float64] = 2 * hits / (objects + hits + wrong)
        return f1

    def _of_objects(self, boxes: Booleans) -> Booleans:
        of_objects = np.zeros(len(self.all.objects), bool)
        of_objects[self.all.meant[boxes]] = True
        return of_objects


@dataclass(frozen=True)
class LargestPredictions:
    """A box and a class for the largest object of each of N images; those without any object have no answer.

    Attributes:
        boxes: (N, 4) corners in pixels of the image.
        scores: (N,) the probability of the class.
        labels: (N,) positions in the list of classes.
        asked_boxes: (N, 4) the largest object as far as the view shows it.
        asked_labels: (N,) its class, or -1 where there is no object.
        predict: box, class or both: what the head is trained for.
    """

    boxes: Floats
    scores: Floats
    labels: Integers
    asked_boxes: Floats
    asked_labels: Integers
    predict: str

    @classmethod
    def load(cls, run: RunResults) -> Self:
        """As evaluate left them.

        Raises:
            UserError: they are damaged, or of other images.
        """
        name = "boxes.safetensors"
        found: dict[str, Any] = gather.arrays(name, run.part)
        try:
            first = np.unique(found["images"], return_index=True)[1]  # the best of an image is its first
            own = {key: found[key][first] for key in ("boxes", "scores", "labels")}
            asked = {key: found[key] for key in ("asked_boxes", "asked_labels")}
        except KeyError as error:
            raise gather.damaged(paths.PREDICTIONS / name, repr(error)) from None
        if not len(run.judged) == len(first) == len(asked["asked_labels"]):
            raise gather.damaged(paths.PREDICTIONS / name, f"{len(first)} boxes for {len(run.judged)} images")
        return cls(**own, **asked, predict=run.head["knobs"]["predict"])

    @cached_property
    def there(self) -> Booleans:
        """(N,) images with an object."""
        there: Booleans = self.asked_labels >= 0
        return there

    @cached_property
    def iou(self) -> Floats:
        """(N,) overlap with the largest object; 0 where there is none."""
        low = np.maximum(self.boxes[:, :2], self.asked_boxes[:, :2])
        high = np.minimum(self.boxes[:, 2:], self.asked_boxes[:, 2:])
        common = (high - low).clip(min=0).prod(1)
        areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (self.boxes, self.asked_boxes)]
        iou: Floats = common / np.maximum(areas[0] + areas[1] - common, np.finfo(np.float32).tiny)
        return iou

    @cached_property
    def right_class(self) -> Booleans:
        """(N,) whether the class is right; true of all where none is predicted."""
        right: Booleans = self.there & ((self.labels == self.asked_labels) | (self.predict == "box"))
        return right

    @cached_property
    def right(self) -> Booleans:
        """(N,) whether all that is predicted is right: the class, and a box that overlaps by half."""
        right: Booleans = self.right_class & ((self.iou >= HIT) | (self.predict == "class"))
        return right


def bins() -> list[CalibrationBin]:
    """Confidence against accuracy."""

    def parse(row: dict[str, str]) -> CalibrationBin:
        return CalibrationBin(float(row["confidence"]), float(row["accuracy"]), int(row["count"]))

    return results.read_csv(paths.PLOTS / "calibration.csv", parse)


def precision_recall() -> dict[str, list[tuple[float, float]]]:
    """Points of recall and precision by class, the surest boxes first."""

    def parse(row: dict[str, str]) -> tuple[str, float, float]:
        return row["class"], float(row["recall"]), float(row["precision"])

    curves = dict[str, list[tuple[float, float]]]()
    for name, recall, precision in results.read_csv(paths.PLOTS / "precision_recall.csv", parse):
        curves.setdefault(name, []).append((recall, precision))
    return curves


def corners(box: Floats) -> tuple[float, float, float, float]:
    """A row of boxes as an object has it."""
    x1, y1, x2, y2 = box.tolist()
    return x1, y1, x2, y2


def share(part: int, whole: int) -> float | None:
    """A part of a whole; None where that is nothing."""
    return part / whole if whole else None
