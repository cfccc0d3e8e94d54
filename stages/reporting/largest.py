"""The page of a head that finds the largest object of an image: its box, its class, or both."""

from typing import Any, NamedTuple

import numpy as np

from stages.datasets.base import Box
from stages.errors import counted
from stages.metrics.table import METRICS
from stages.reporting import choose, figures, objects, predictions, words
from stages.reporting.detection import RIGHT, TRUE, WRONG
from stages.reporting.figures import Drawing
from stages.reporting.gather import ClassRow, RunResults
from stages.reporting.objects import AnnotatedImage, Outline
from stages.reporting.pictures import Album
from stages.reporting.predictions import LargestPredictions
from stages.reporting.words import Summary

SHOWN = 6  # images of each kind
ANSWERS = {
    "both": "get the class of their largest object right, and a box that overlaps it by at least one half",
    "box": "get a box that overlaps their largest object by at least one half",
    "class": "get the class of their largest object right",
}


class LargestRow(NamedTuple):
    """A class.

    Attributes:
        row: the class.
        images: number of images whose largest object is of it.
        accuracy: share of these that get the class.
        iou: mean overlap of the predicted box.
    """

    row: ClassRow
    images: int
    accuracy: float | None
    iou: float | None


class LargestPage:
    """What the page of such a head says and shows."""

    template = "largest"
    sections: tuple[str, ...] = ("Classes", "Images")

    def __init__(self, run: RunResults) -> None:
        self.run, self.judged = run, LargestPredictions.load(run)
        self.boxed, self.classed = self.judged.predict != "class", self.judged.predict != "box"

    def summary(self) -> Summary:
        """What the page says first."""
        facts = [*words.facts(self.run), ("Objects", self._objects())]
        if self.run.part == "test":
            facts.append(words.on_validation(self.run, ("correct_at_iou50", "accuracy", "mean_iou")))
        return Summary(self._answer(), self._caveats(), words.scores(self.run), facts, words.baselines(self.run))

    def text(self) -> dict[str, Any]:
        """What both templates need besides."""
        return {"rows": self._rows(), "boxed": self.boxed, "classed": self.classed}

    def notes(self) -> list[tuple[str, object]]:
        """More rows of the provenance."""
        return []

    def figures(self) -> dict[str, Drawing]:
        """The figures that the run has data for, by name."""
        drawn = {
            f"baselines_{name}": figures.baselines(bars, METRICS[name].title)
            for name, bars in words.baselines(self.run).items()
        }
        if self.boxed and self.judged.has_object.any():
            overlaps = self.judged.iou[self.judged.has_object].tolist()
            drawn["overlaps"] = figures.overlaps(overlaps, self.run.metrics.get("typical_mean_iou"))
        return drawn

    def details(self, album: Album) -> dict[str, Any]:
        """What the template of the page needs besides."""
        return {"examples": self._examples(album) if album.folder else []}

    def _answer(self) -> str:
        """The result in one sentence."""
        kind, has_object = words.SPLIT_NAMES[self.run.part], self.judged.has_object
        if not has_object.any():
            return f"There is no object in the {kind} images, so nothing can be said about how many are found."
        others = list[str]()
        for name, (own, other) in words.baselines(self.run).items():
            if name == "accuracy":
                classes = words.share_of(other.score, int(has_object.sum()))
                others.append(f"{other.name} gets {classes} classes right")
            else:
                others.append(f"mean overlap is {own.score:.0%}, that of {other.name} {other.score:.0%}")
        right = words.share_of(float(self.judged.right[has_object].mean()), int(has_object.sum()))
        return f"{'; '.join([f'{right} {kind} images {ANSWERS[self.judged.predict]}', *others])}."

    def _caveats(self) -> list[str]:
        """What a reader must know before trusting the number."""
        caveats = words.caveats(self.run)
        for name, (own, other) in words.baselines(self.run).items():
            if own.score <= other.score:
                caveats.append(f"The head is no better than {other.name} ({METRICS[name].title}).")
        return caveats

    def _objects(self) -> str:
        count = int(self.judged.has_object.sum())
        without = len(self.run.judged) - count
        return f"the largest of each of {counted(count, 'images')}" + (
            f"; {counted(without, 'images show')} none" if without else ""
        )

    def _rows(self) -> list[LargestRow]:
        label_of = {name: label for label, name in enumerate(self.run.head["classes"])}
        rows = []
        for row in self.run.classes:
            images = self.judged.true_labels == label_of[row.name]
            means = [float(values[images].mean()) if images.any() else None
                     for values in (self.judged.right_class, self.judged.iou)]  # fmt: skip
            rows.append(LargestRow(row, int(images.sum()), *means))
        return rows

    def _examples(self, album: Album) -> list[tuple[str, str, list[tuple[AnnotatedImage, str]]]]:
        """Title, remark, and pictures with their captions, for each group that has any."""
        ranking = self.judged.iou if self.boxed else self.judged.scores * np.where(self.judged.right, 1, -1)
        ranked = choose.ranked(ranking, self.judged.has_object, SHOWN)
        what = "overlap" if self.boxed else "probability of the right class"
        groups = (
            ("Best", f"the highest {what}", ranked["best"]),
            ("In between", "half of the images are better, half worse", ranked["middle"]),
            ("Worst", f"the lowest {what}" if self.boxed else "the most confident mistakes first", ranked["worst"]),
        )
        return [
            (title, text, [(self._drawn(album, image), self._caption(image)) for image in images])
            for title, text, images in groups
            if images
        ]

    def _caption(self, image: int) -> str:
        names, actual, predicted = self.run.head["classes"], self.judged.true_labels[image], self.judged.labels[image]
        texts = [f"IoU {self.judged.iou[image]:.2f}"] if self.boxed else []
        if self.classed:
            taken = "" if actual == predicted else f", taken for {names[predicted]}"
            texts.insert(0, f"{names[actual]}{taken} ({self.judged.scores[image]:.0%})")
        return ", ".join(texts)

    def _drawn(self, album: Album, image: int) -> AnnotatedImage:
        """The largest object with the predicted box over it; the object alone where no box is predicted."""
        names, right = self.run.head["classes"], bool(self.judged.right[image])
        actual = Box(names[self.judged.true_labels[image]], predictions.corners(self.judged.true_boxes[image]))
        outlines = [objects.annotated(actual, TRUE, actual.label)]
        predicted = names[self.judged.labels[image]] if self.classed else actual.label
        mark, colour = ("", RIGHT) if right else ("✗ ", WRONG)
        name = f"{mark}{predicted} {self.judged.scores[image]:.0%}" if self.classed else mark
        if self.boxed:
            outlines[0] = objects.annotated(actual, TRUE, "")
            outlines.append(
                Outline(Box(predicted, predictions.corners(self.judged.boxes[image])), colour, name, predicted)
            )
        return objects.outlined(album.picture(self.run.judged[image]), outlines)
