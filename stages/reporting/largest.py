"""The page of a head that finds the largest object of an image: its box, its class, or both."""

from typing import Any, NamedTuple

import numpy as np

from stages.datasets.base import Box
from stages.metrics.table import METRICS
from stages.reporting import choose, figures, objects, predictions, words
from stages.reporting.detection import RIGHT, TRUE, WRONG
from stages.reporting.figures import Drawing
from stages.reporting.gather import ClassRow, RunResults
from stages.reporting.objects import AnnotatedImage, Outline
from stages.reporting.pictures import Album
from stages.reporting.predictions import LargestPredictions
from stages.reporting.words import Summary, of_100

SHOWN = 6  # images of each kind
WANTED = {
    "both": "get the class of their largest object right, and a box that overlaps it by at least one half",
    "box": "get a box that overlaps their largest object by at least one half",
    "class": "get the class of their largest object right",
}


class LargestRow(NamedTuple):
    """A class: images whose largest object is of it, how many get that class, and the mean overlap."""

    row: ClassRow
    images: int
    accuracy: float | None
    iou: float | None


class LargestPage:
    """What is said and shown of such a head."""

    template = "largest"
    sections: tuple[str, ...] = ("Classes", "Images")

    def __init__(self, run: RunResults) -> None:
        self.run, self.judged = run, LargestPredictions.load(run)
        self.boxed, self.classed = self.judged.predict != "class", self.judged.predict != "box"

    def summary(self) -> Summary:
        """The headline."""
        facts = [*words.facts(self.run), ("Objects", self._objects())]
        if self.run.part == "test":
            facts.append(words.on_validation(self.run, ("correct_at_iou50", "accuracy", "mean_iou")))
        return Summary(self._answer(), self._caveats(), words.scores(self.run), facts, words.baselines(self.run))

    def text(self) -> dict[str, Any]:
        """What page and markdown show besides."""
        return {"rows": self._rows(), "boxed": self.boxed, "classed": self.classed}

    def notes(self) -> list[tuple[str, object]]:
        """Rows of the provenance."""
        return []

    def figures(self) -> dict[str, Drawing]:
        """The figures that this run has data for, by name."""
        found = {
            f"baselines_{name}": figures.baselines(bars, METRICS[name].title)
            for name, bars in words.baselines(self.run).items()
        }
        if self.boxed and self.judged.there.any():
            overlaps = self.judged.iou[self.judged.there].tolist()
            found["overlaps"] = figures.overlaps(overlaps, self.run.metrics.get("typical_mean_iou"))
        return found

    def details(self, album: Album) -> dict[str, Any]:
        """What the page alone shows."""
        return {"examples": self._examples(album) if album.folder else []}

    def _answer(self) -> str:
        """The result in one sentence."""
        kind, there = words.PART_NAMES[self.run.part], self.judged.there
        if not there.any():
            return f"There is no object in the {kind} images: nothing can be said of how many are found."
        others = list[str]()
        for name, (own, other) in words.baselines(self.run).items():
            if name == "accuracy":
                others.append(f"{other.name} would get {of_100(other.score)} of 100 classes right")
            else:
                others.append(f"boxes overlap by {own.score:.0%} on average, {other.name} would by {other.score:.0%}")
        right = of_100(float(self.judged.right[there].mean()))
        return f"{'; '.join([f'{right} of 100 {kind} images {WANTED[self.judged.predict]}', *others])}."

    def _caveats(self) -> list[str]:
        """What a reader must know before trusting the number."""
        found = words.caveats(self.run)
        for name, (own, other) in words.baselines(self.run).items():
            if own.score <= other.score:
                found.append(f"The head is no better than {other.name} ({METRICS[name].title}).")
        return found

    def _objects(self) -> str:
        there = int(self.judged.there.sum())
        without = len(self.run.judged) - there
        return f"the largest of each of {there:,} images" + (f"; {without:,} images show none" if without else "")

    def _rows(self) -> list[LargestRow]:
        place_of = {name: place for place, name in enumerate(self.run.head["classes"])}
        rows = []
        for row in self.run.classes:
            images = self.judged.asked_labels == place_of[row.name]
            means = [float(values[images].mean()) if images.any() else None
                     for values in (self.judged.right_class, self.judged.iou)]  # fmt: skip
            rows.append(LargestRow(row, int(images.sum()), *means))
        return rows

    def _examples(self, album: Album) -> list[tuple[str, str, list[tuple[AnnotatedImage, str]]]]:
        """Title, remark, and pictures with a caption, of each kind that has any."""
        by = self.judged.iou if self.boxed else self.judged.scores * np.where(self.judged.right, 1, -1)
        ranked = choose.ranked(by, self.judged.there, SHOWN)
        what = "overlap" if self.boxed else "probability of the right class"
        kinds = (
            ("Best", f"the highest {what}", ranked["best"]),
            ("Middling", "half of the images are better, half worse", ranked["middle"]),
            ("Worst", f"the lowest {what}" if self.boxed else "the surest mistakes first", ranked["worst"]),
        )
        return [
            (title, text, [(self._drawn(album, image), self._caption(image)) for image in images])
            for title, text, images in kinds
            if images
        ]

    def _caption(self, image: int) -> str:
        names, (asked, given) = self.run.head["classes"], (self.judged.asked_labels[image], self.judged.labels[image])
        told = [f"IoU {self.judged.iou[image]:.2f}"] if self.boxed else []
        if self.classed:
            taken = "" if asked == given else f", taken for {names[given]}"
            told.insert(0, f"{names[asked]}{taken} ({self.judged.scores[image]:.0%})")
        return ", ".join(told)

    def _drawn(self, album: Album, image: int) -> AnnotatedImage:
        """The largest object and over it the box that is given; without boxes the object alone."""
        names, right = self.run.head["classes"], bool(self.judged.right[image])
        asked = Box(names[self.judged.asked_labels[image]], predictions.corners(self.judged.asked_boxes[image]))
        outlines = [objects.annotated(asked, TRUE, asked.label)]
        given = names[self.judged.labels[image]] if self.classed else asked.label
        mark, colour = ("", RIGHT) if right else ("✗ ", WRONG)
        name = f"{mark}{given} {self.judged.scores[image]:.0%}" if self.classed else mark
        if self.boxed:
            outlines[0] = objects.annotated(asked, TRUE, "")
            outlines.append(Outline(Box(given, predictions.corners(self.judged.boxes[image])), colour, name, given))
        return objects.outlined(album.picture(self.run.judged[image]), outlines)
