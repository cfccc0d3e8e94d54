"""The page of a head that finds every object."""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from stages.datasets.base import Box
from stages.errors import counted
from stages.features import input_size
from stages.reporting import advice, choose, figures, objects, predictions, words
from stages.reporting.figures import Drawing
from stages.reporting.gather import ClassRow, RunResults
from stages.reporting.objects import AnnotatedImage, Outline
from stages.reporting.pictures import Album
from stages.reporting.predictions import BoxPredictions
from stages.reporting.words import Score, Summary, number, percent

SHOWN = 6  # images of each kind
PAIRS = 10  # most confused pairs
LOWEST = 0.05  # confidence down to which a reader can look at boxes
SURE = 0.8  # score of boxes that are held against the annotations
MOST = 100  # boxes per image that are scored
ZERO = 0.0005  # an average precision below it is written as 0.0%
UNASSIGNED = 0.01  # share of the objects that a design cannot represent from which the page warns
RIGHT, WRONG, TRUE, MISSED = "#56b4e9", "#e69f00", "#ffffff", "#f0e442"  # light: each line has a dark rim
KINDS = {
    "class": "lies on an object, but has the wrong class",
    "place": "has the right class, but overlaps too little (IoU of 0.1 to 0.5)",
    "both": "touches an object of another class, and overlaps too little",
    "double": "lies on an object that a box with a higher score has found",
    "background": "touches nothing",
    "missed": "an object that no box touches, not even with the wrong class or too little overlap",
}


class MistakeRow(NamedTuple):
    """A kind of mistake.

    Attributes:
        kind: its name.
        meaning: what it is.
        shown: how often it is made by the boxes at decide.confidence or above.
        all: how often it is made by all boxes.
        cost: how far map_50 would rise without it.
    """

    kind: str
    meaning: str
    shown: int
    all: int
    cost: float


class DetectionRow(NamedTuple):
    """A class at the threshold: the share of its objects that are found, and of its boxes that are right.

    Attributes:
        row: the class.
        found: recall; None where there is no object.
        right: precision; None where there is no box.
    """

    row: ClassRow
    found: float | None
    right: float | None


class DetectionPage:
    """What the page of a detector says and shows."""

    template = "detection"
    sections: tuple[str, ...] = ("Classes", "Mistakes", "Images")

    def __init__(self, run: RunResults) -> None:
        self.run, self.boxes = run, BoxPredictions.load(run)
        self.shown = self.boxes.above(run.decide["confidence"])
        self.hits = self.boxes.above(0).hits

    def summary(self) -> Summary:
        """What the page says first."""
        threshold = self.run.decide["confidence"]
        scores = [
            *words.scores(self.run),
            Score("Objects found", percent(self.shown.found_share), f"recall at a confidence of {threshold:g}"),
            Score("Boxes right", percent(self.shown.right_share), f"precision at a confidence of {threshold:g}"),
        ]
        facts = [*words.facts(self.run), ("Objects", self._objects())]
        if self.run.part == "test":
            facts.append(words.on_validation(self.run, ("map_50", "map_50_95")))
        if chosen := self._chosen():
            facts.append(("Chosen for this data", chosen))
        facts.append(("Not representable", unassigned(self.run)))
        if "anchor_iou" in self.run.head["notes"]:
            facts.append(("Anchors", anchors(self.run)))
        return Summary(self._answer(), self._caveats(), scores, facts, {})

    def text(self) -> dict[str, Any]:
        """What both templates need besides."""
        return {
            "rows": self._rows(),
            "mistakes": self._mistakes(),
            "remedies": advice.remedies(self.run),
            "pairs": choose.misnamed(self.shown, self.run.head["classes"], PAIRS),
            "threshold": self.run.decide["confidence"],
            "lowest": min(LOWEST, self.run.decide["confidence"]),
        }

    def doubts(self) -> str:
        """What the head makes of the annotations; empty where it agrees with all of them."""
        sure, never = self.boxes.above(SURE).mistakes(), int(self.boxes.above(0).unnoticed.sum())
        counts = (
            (sure["background"], "boxes", f" with a score of {SURE:g} or more where nothing is annotated"),
            (sure["class"], "objects", " given another class with such a score"),
            (never, "annotated objects", " never found"),
        )
        told = [f"{counted(count, noun)}{text}" for count, noun, text in counts if count]
        return f"Annotations in doubt, on {self.run.part}: {'; '.join(told)}. See Mistakes." if told else ""

    def notes(self) -> list[tuple[str, object]]:
        """More rows of the provenance."""
        return []

    def figures(self) -> dict[str, Drawing]:
        """The figures that the run has data for, by name."""
        points, groups = predictions.precision_recall(), self.run.predictions["recall_by_size"]
        scored = [row for row in self.run.classes if row.ap_50 is not None]
        drawn = dict[str, Drawing]()
        if scored:
            drawn["precision_recall"] = figures.precision_recall({row.name: points.get(row.name, []) for row in scored})
            drawn["by_score"] = figures.scores_of_classes(scored, "ap_50", "objects")
        if groups:
            drawn["recall_by_size"] = figures.recall_by_size(groups)
        return drawn

    def details(self, album: Album) -> dict[str, Any]:
        """What the template of the page needs besides."""
        return {"examples": self._examples(album) if album.folder else []}

    def _answer(self) -> str:
        """The result in one sentence."""
        kind, right = words.SPLIT_NAMES[self.run.part], self.shown.right_share
        found, score = self.shown.found_share, self.run.score("map_50")
        if found is None:
            return f"There is no object in the {kind} images, so nothing can be said about how many are found."
        threshold = f"a confidence of {self.run.decide['confidence']:g} or more"
        over_all = f"Over all confidences, average precision (mAP at IoU 0.5) is {percent(score)}."
        if right is None:
            return f"No box has {threshold} (decide.confidence), so no object of the {kind} images is found. {over_all}"
        found_of = words.share_of(found, int(self.boxes.counts.sum()))
        right_of = words.share_of(right, int(self.shown.hits.sum() + self.shown.wrong.sum()))
        return (
            f"{found_of} objects in {kind} images are found, and {right_of} boxes are right "
            f"(the right class and an overlap of at least one half), at {threshold}. {over_all}"
        )

    def _chosen(self) -> str:
        """What `auto` and `objects` took, and why; empty where the knobs are numbers."""
        head = self.run.head
        size = input_size.choose(self.run.rows)[1] if head["params"].get("image_size") == "objects" else ""
        return "; ".join(filter(None, (size, head.get("epochs_from"))))

    def _caveats(self) -> list[str]:
        """What a reader must know before trusting the number."""
        caveats, metrics = words.caveats(self.run), self.run.metrics
        if metrics["unheld_share"] >= UNASSIGNED:
            caveats.append(unassigned(self.run))
        if unseen := words.never_trained_on(self.run):
            caveats.append(f"Never found, because no training image has any: {', '.join(unseen)}.")
        zero = [
            row.name
            for row in self.run.classes
            if row.name not in unseen and row.ap_50 is not None and row.ap_50 < ZERO
        ]
        if zero:
            caveats.append(
                f"AP is 0.0% for {', '.join(zero)}: the head does not find these objects, although there are some to "
                "train on. Look at their boxes and their size under Objects."
            )
        unscored = [row.name for row in self.run.classes if row.ap_50 is None and row.name not in unseen]
        if unscored and len(unscored) < len(self.run.classes):
            caveats.append(f"Left out of the means, without any object in {self.run.part}: {', '.join(unscored)}.")
        crowded = int((np.bincount(self.boxes.object_images) > MOST).sum())
        if crowded:
            caveats.append(
                f"{counted(crowded, 'images have')} more than {MOST} objects; only the best {MOST} boxes of each count."
            )
        return caveats

    def _objects(self) -> str:
        empty, evaluated = sum(not row.objects for row in self.run.judged), int(self.boxes.counts.sum())
        ignored = len(self.boxes.objects) - evaluated
        text = counted(evaluated, "objects are") + " evaluated"
        if ignored:
            text += f", {counted(ignored, 'objects count')} neither way (difficult, a crowd, or ignored)"
        return text + (f"; {counted(empty, 'images have')} none" if empty else "")

    def _rows(self) -> list[DetectionRow]:
        """Every class with its recall and precision at the threshold."""
        size = len(self.run.classes)
        found, objects = (
            np.bincount(self.boxes.object_labels[which], minlength=size)
            for which in (self.shown.found, self.boxes.counts)
        )
        hits, wrong = (
            np.bincount(self.boxes.labels[which], minlength=size) for which in (self.shown.hits, self.shown.wrong)
        )
        rows = []
        for row in self.run.classes:
            label = self.run.head["classes"].index(row.name)
            recall = predictions.share(int(found[label]), int(objects[label]))
            precision = predictions.share(int(hits[label]), int(hits[label] + wrong[label]))
            rows.append(DetectionRow(row, recall, precision))
        return rows

    def _mistakes(self) -> list[MistakeRow]:
        shown, predictions = self.shown.mistakes(), self.run.predictions
        rows = [
            MistakeRow(kind, meaning, shown[kind], predictions["mistakes"][kind], predictions["costs"][kind])
            for kind, meaning in KINDS.items()
        ]
        return sorted(rows, key=lambda row: -row.cost)

    def _examples(self, album: Album) -> list[tuple[str, str, list[tuple[AnnotatedImage, str]]]]:
        """Title, remark, and pictures with their captions, for each group that has any."""
        f1 = self.shown.f1(len(self.run.judged))
        ranked = choose.ranked(f1, ~np.isnan(f1), SHOWN)
        whole = (
            ("Best", "most of the objects and boxes match", ranked["best"]),
            ("In between", "half of the images are better, half worse", ranked["middle"]),
            ("Worst", "fewest of them match", ranked["worst"]),
        )
        groups = [(title, text, [(image, self._caption(image)) for image in images]) for title, text, images in whole]
        missed = choose.missed(self.shown, SHOWN)
        groups.append(
            (
                "Not found",
                "the largest objects without a box of their class that overlaps enough",
                [self._missed(i) for i in missed],
            )
        )
        alarms = choose.false_alarms(self.shown, ["background"], SHOWN)
        groups.append(
            ("False alarms", "boxes that touch nothing, highest score first", [self._wrong(i) for i in alarms])
        )
        others = choose.false_alarms(self.shown, [kind for kind in self.boxes.names if kind != "background"], SHOWN)
        groups.append(("Other mistakes", "other wrong boxes, highest score first", [self._wrong(i) for i in others]))
        return [
            (title, text, [(self._drawn(album, image), caption) for image, caption in items])
            for title, text, items in groups
            if items
        ]

    def _caption(self, image: int) -> str:
        objects = self.boxes.object_images == image
        found, wrong = int(self.shown.found[objects].sum()), int(self.shown.wrong[self.boxes.images == image].sum())
        count = int(self.boxes.counts[objects].sum())
        return f"{found} of {count} found{f', {wrong} wrong' if wrong else ''}"

    def _missed(self, i: int) -> tuple[int, str]:
        """The image of the missed object i, and a caption."""
        box = self.boxes.objects[i]
        width, height = box.box[2] - box.box[0], box.box[3] - box.box[1]
        return int(self.boxes.object_images[i]), f"{box.label}, {width:.0f} × {height:.0f} pixels"

    def _wrong(self, i: int) -> tuple[int, str]:
        """The image of the wrong box i, and a caption."""
        kind = self.boxes.names[self.boxes.kinds[i]]
        return int(self.boxes.images[i]), f"{self._name(i)} {KINDS[kind]}"

    def _name(self, i: int) -> str:
        return f"{self.run.head['classes'][self.boxes.labels[i]]} {self.boxes.scores[i]:.0%}"

    def _drawn(self, album: Album, image: int) -> AnnotatedImage:
        """The objects of an image and its boxes, down to a low confidence: the reader chooses the threshold.

        Names are given to what is shown at first: to missed objects, then to the boxes with the highest scores.
        """
        annotated = np.flatnonzero(self.boxes.object_images == image)
        outlines = [outline for i in annotated for outline in self._object(int(i))]
        likely = (self.boxes.images == image) & (self.boxes.scores >= min(LOWEST, self.run.decide["confidence"]))
        outlines += [self._box(int(i)) for i in np.flatnonzero(likely)]
        return objects.outlined(album.picture(self.run.judged[image]), outlines)

    def _object(self, i: int) -> list[Outline]:
        """An object as annotated up to the threshold at which its last box disappears, and as missed above that."""
        box = self.boxes.objects[i]
        if not self.boxes.counts[i]:
            return [objects.annotated(box, TRUE, "")]
        last = float(self.boxes.scores[self.hits & (self.boxes.meant == i)].max(initial=-1))
        name = f"missed: {box.label}"
        missed = Outline(box, MISSED, name if self.shown.missed[i] else "", name, broken=True, above=last)
        return [missed, replace(objects.annotated(box, TRUE, ""), upto=last)]

    def _box(self, i: int) -> Outline:
        name, wrong, score = self._name(i), self.boxes.kinds[i] >= 0, float(self.boxes.scores[i])
        box = Box(self.run.head["classes"][self.boxes.labels[i]], predictions.corners(self.boxes.boxes[i]))
        mark, title = ("✗ ", f": {KINDS[self.boxes.names[self.boxes.kinds[i]]]}") if wrong else ("", "")
        label = mark + name if self.shown.is_shown[i] else ""
        return Outline(box, WRONG if wrong else RIGHT, label, name + title, upto=score)


def unassigned(run: RunResults) -> str:
    """How many objects of train the design of the head cannot represent."""
    count, share = run.metrics["unheld"], run.metrics["unheld_share"]
    if not count:
        return "The design of the head can represent every object of train."
    return (
        f"The design of the head cannot represent {counted(count, 'objects')} of train ({share:.1%}): a cell or "
        "anchor holds one object, and others share theirs with a larger one, or fit none."
    )


def anchors(run: RunResults) -> str:
    """How well the anchors fit."""
    return (
        f"mean best IoU of the clustered anchors with the boxes of train: {number(run.head['notes']['anchor_iou'], 2)}"
    )
