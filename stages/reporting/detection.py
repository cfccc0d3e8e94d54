"""The page of a head that finds every object."""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from stages.datasets.base import Box
from stages.reporting import choose, figures, objects, predictions, words
from stages.reporting.figures import Drawing
from stages.reporting.gather import ClassRow, RunResults
from stages.reporting.objects import AnnotatedImage, Outline
from stages.reporting.pictures import Album
from stages.reporting.predictions import BoxPredictions
from stages.reporting.words import Score, Summary, number, of_100, percent

SHOWN = 6  # images of each kind
PAIRS = 10  # most confused pairs
LOWEST = 0.05  # the confidence from which a reader may see boxes
MOST = 100  # boxes an image that are scored
ZERO = 0.0005  # an average precision below it is written as 0.0%
HELD = 0.01  # the share of objects that a design cannot hold from which the page warns of it
RIGHT, WRONG, TRUE, MISSED = "#56b4e9", "#e69f00", "#ffffff", "#f0e442"  # light: each line has a dark rim
KINDS = {
    "class": "lies on an object, but has the wrong class",
    "place": "has the right class, but overlaps too little (IoU of 0.1 to 0.5)",
    "both": "touches an object of another class, and overlaps too little",
    "double": "lies on an object that a surer box has found",
    "background": "touches nothing",
    "missed": "an object that no box would find, were its class or place mended",
}


class MistakeRow(NamedTuple):
    """A kind of mistake: how often among the boxes shown and among all, and what it costs in map_50."""

    kind: str
    meaning: str
    shown: int
    all: int
    cost: float


class DetectionRow(NamedTuple):
    """A class: of its objects, how many are found; of the boxes shown as it, how many are right."""

    row: ClassRow
    found: float | None
    right: float | None


class DetectionPage:
    """What is said and shown of a detector."""

    template = "detection"
    sections: tuple[str, ...] = ("Classes", "Mistakes", "Images")

    def __init__(self, run: RunResults) -> None:
        self.run, self.boxes = run, BoxPredictions.load(run)
        self.shown = self.boxes.above(run.decide["confidence"])
        self.hits = self.boxes.above(0).hits

    def summary(self) -> Summary:
        """The headline."""
        threshold = self.run.decide["confidence"]
        scores = [
            *words.scores(self.run),
            Score("Objects found", percent(self.shown.found_share), f"recall at a confidence of {threshold:g}"),
            Score("Boxes right", percent(self.shown.right_share), f"precision at a confidence of {threshold:g}"),
        ]
        facts = [*words.facts(self.run), ("Objects", self._objects())]
        if self.run.part == "test":
            facts.append(words.on_validation(self.run, ("map_50", "map_50_95")))
        facts.append(("Cannot be held", unassigned(self.run)))
        if "anchor_iou" in self.run.head["notes"]:
            facts.append(("Anchors", anchors(self.run)))
        return Summary(self._answer(), self._caveats(), scores, facts, {})

    def text(self) -> dict[str, Any]:
        """What page and markdown show besides."""
        return {
            "rows": self._rows(),
            "mistakes": self._mistakes(),
            "pairs": choose.misnamed(self.shown, self.run.head["classes"], PAIRS),
            "threshold": self.run.decide["confidence"],
            "lowest": min(LOWEST, self.run.decide["confidence"]),
        }

    def notes(self) -> list[tuple[str, object]]:
        """Rows of the provenance."""
        return []

    def figures(self) -> dict[str, Drawing]:
        """The figures that this run has data for, by name."""
        points, groups = predictions.precision_recall(), self.run.predictions["recall_by_size"]
        there = [row for row in self.run.classes if row.ap_50 is not None]
        found = dict[str, Drawing]()
        if there:
            found["precision_recall"] = figures.precision_recall({row.name: points.get(row.name, []) for row in there})
            found["by_score"] = figures.scores_of_classes(there, "ap_50", "objects")
        if groups:
            found["recall_by_size"] = figures.recall_by_size(groups)
        return found

    def details(self, album: Album) -> dict[str, Any]:
        """What the page alone shows."""
        return {"examples": self._examples(album) if album.folder else []}

    def _answer(self) -> str:
        """The result in one sentence."""
        kind, right = words.PART_NAMES[self.run.part], self.shown.right_share
        found, score = self.shown.found_share, self.run.score("map_50")
        if found is None:
            return f"There is no object in the {kind} images: nothing can be said of how many are found."
        threshold = f"a confidence of {self.run.decide['confidence']:g} or more"
        over_all = f"Over all confidences, average precision (mAP at IoU 0.5) is {percent(score)}."
        if right is None:
            return f"No box has {threshold} (decide.confidence): of the {kind} images no object is found. {over_all}"
        return (
            f"{of_100(found)} of 100 objects in {kind} images are found, and {of_100(right)} of 100 boxes shown are "
            f"right: the right class, and an overlap of at least one half, at {threshold}. {over_all}"
        )

    def _caveats(self) -> list[str]:
        """What a reader must know before trusting the number."""
        found, metrics = words.caveats(self.run), self.run.metrics
        if metrics["unheld_share"] >= HELD:
            found.append(unassigned(self.run))
        unseen = [row.name for row in self.run.classes if not row.n_train]
        if unseen:
            found.append(f"Not in any training image, and so never found: {', '.join(unseen)}.")
        zero = [row.name for row in self.run.classes if row.n_train and row.ap_50 is not None and row.ap_50 < ZERO]
        if zero:
            found.append(
                f"AP is 0.0% for {', '.join(zero)}: the head does not find these objects, although there are some to "
                "train on. Look at their boxes and their size under Objects."
            )
        unjudged = [row.name for row in self.run.classes if row.ap_50 is None]
        if unjudged and len(unjudged) < len(self.run.classes):
            found.append(f"Without an object to judge by, and left out of the means: {', '.join(unjudged)}.")
        crowded = int((np.bincount(self.boxes.object_images) > MOST).sum())
        if crowded:
            found.append(f"{crowded} images hold more than {MOST} objects; the best {MOST} boxes of an image count.")
        return found

    def _objects(self) -> str:
        empty, counted = sum(not row.objects for row in self.run.judged), int(self.boxes.counts.sum())
        beside = len(self.boxes.objects) - counted
        text = f"{counted:,} judged on"
        text += f", {beside:,} that count neither way (difficult, a crowd, or ignored)" if beside else ""
        return text + (f"; {empty:,} images without any" if empty else "")

    def _rows(self) -> list[DetectionRow]:
        """Every class with what is found of it at the threshold."""
        size = len(self.run.classes)
        found, there = (
            np.bincount(self.boxes.object_labels[which], minlength=size)
            for which in (self.shown.found, self.boxes.counts)
        )
        hits, wrong = (
            np.bincount(self.boxes.labels[which], minlength=size) for which in (self.shown.hits, self.shown.wrong)
        )
        place_of = {name: place for place, name in enumerate(self.run.head["classes"])}
        return [
            DetectionRow(
                row,
                predictions.share(int(found[at]), int(there[at])),
                predictions.share(int(hits[at]), int(hits[at] + wrong[at])),
            )
            for row in self.run.classes
            for at in (place_of[row.name],)
        ]

    def _mistakes(self) -> list[MistakeRow]:
        shown, predictions = self.shown.mistakes(), self.run.predictions
        each = [
            MistakeRow(kind, meaning, shown[kind], predictions["mistakes"][kind], predictions["costs"][kind])
            for kind, meaning in KINDS.items()
        ]
        return sorted(each, key=lambda one: -one.cost)

    def _examples(self, album: Album) -> list[tuple[str, str, list[tuple[AnnotatedImage, str]]]]:
        """Title, remark, and pictures with a caption, of each kind that has any."""
        f1 = self.shown.f1(len(self.run.judged))
        ranked = choose.ranked(f1, ~np.isnan(f1), SHOWN)
        whole = (
            ("Best", "of objects and boxes, the largest share agrees", ranked["best"]),
            ("Middling", "half of the images are better, half worse", ranked["middle"]),
            ("Worst", "the smallest share agrees", ranked["worst"]),
        )
        groups = [(title, text, [(image, self._caption(image)) for image in images]) for title, text, images in whole]
        missed = choose.missed(self.shown, SHOWN)
        groups.append(("Missed", "the largest objects that no box finds", [self._missed(place) for place in missed]))
        alarms = choose.false_alarms(self.shown, ["background"], SHOWN)
        groups.append(("False alarms", "the surest boxes that touch nothing", [self._wrong(place) for place in alarms]))
        others = choose.false_alarms(self.shown, [kind for kind in self.boxes.names if kind != "background"], SHOWN)
        groups.append(("Other mistakes", "the surest boxes that are wrong", [self._wrong(place) for place in others]))
        return [
            (title, text, [(self._drawn(album, image), caption) for image, caption in items])
            for title, text, items in groups
            if items
        ]

    def _caption(self, image: int) -> str:
        objects = self.boxes.object_images == image
        found, wrong = int(self.shown.found[objects].sum()), int(self.shown.wrong[self.boxes.images == image].sum())
        there = int(self.boxes.counts[objects].sum())
        return f"{found} of {there} found{f', {wrong} wrong' if wrong else ''}"

    def _missed(self, place: int) -> tuple[int, str]:
        box = self.boxes.objects[place]
        width, height = box.box[2] - box.box[0], box.box[3] - box.box[1]
        return int(self.boxes.object_images[place]), f"{box.label}, {width:.0f} × {height:.0f} pixels"

    def _wrong(self, place: int) -> tuple[int, str]:
        kind = self.boxes.names[self.boxes.kinds[place]]
        return int(self.boxes.images[place]), f"{self._name(place)} {KINDS[kind]}"

    def _name(self, place: int) -> str:
        return f"{self.run.head['classes'][self.boxes.labels[place]]} {self.boxes.scores[place]:.0%}"

    def _drawn(self, album: Album, image: int) -> AnnotatedImage:
        """The objects of an image and its boxes, down to a low confidence, for the reader to choose the threshold.

        Names stand at what is shown first: at missed objects, then at the surest boxes.
        """
        annotated = np.flatnonzero(self.boxes.object_images == image)
        outlines = [outline for place in annotated for outline in self._object(int(place))]
        likely = (self.boxes.images == image) & (self.boxes.scores >= min(LOWEST, self.run.decide["confidence"]))
        outlines += [self._box(int(place)) for place in np.flatnonzero(likely)]
        return objects.outlined(album.picture(self.run.judged[image]), outlines)

    def _object(self, place: int) -> list[Outline]:
        """An object as annotated, up to the threshold at which its last box is gone, and as missed above that."""
        box = self.boxes.objects[place]
        if not self.boxes.counts[place]:
            return [objects.annotated(box, TRUE, "")]
        last = float(self.boxes.scores[self.hits & (self.boxes.meant == place)].max(initial=-1))
        name = f"missed: {box.label}"
        missed = Outline(box, MISSED, name if self.shown.missed[place] else "", name, broken=True, above=last)
        return [missed, replace(objects.annotated(box, TRUE, ""), upto=last)]

    def _box(self, place: int) -> Outline:
        name, wrong, score = self._name(place), self.boxes.kinds[place] >= 0, float(self.boxes.scores[place])
        found = Box(self.run.head["classes"][self.boxes.labels[place]], predictions.corners(self.boxes.boxes[place]))
        mark, title = ("✗ ", f": {KINDS[self.boxes.names[self.boxes.kinds[place]]]}") if wrong else ("", "")
        beside = mark + name if self.shown.there[place] else ""
        return Outline(found, WRONG if wrong else RIGHT, beside, name + title, upto=score)


def unassigned(run: RunResults) -> str:
    """How many objects the design of the head leaves out."""
    count, share = run.metrics["unheld"], run.metrics["unheld_share"]
    if not count:
        return "The head's design has a place for every object of train."
    return (
        f"The head's design has no place for {count:,} objects of train ({share:.1%}): a place holds one object, and "
        "these lie where a larger one does, or fit none."
    )


def anchors(run: RunResults) -> str:
    """How well the anchors fit."""
    return (
        f"mean best IoU of the clustered anchors with the boxes of train: {number(run.head['notes']['anchor_iou'], 2)}"
    )
