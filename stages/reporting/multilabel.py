"""The page of a head for several labels per image."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from stages import paths, results
from stages.errors import counted, listed
from stages.metrics.table import METRICS
from stages.reporting import choose, figures, predictions, words
from stages.reporting.figures import Drawing
from stages.reporting.gather import RunResults
from stages.reporting.pictures import Album, Picture
from stages.reporting.predictions import LabelPredictions
from stages.reporting.words import Summary, percent

SHOWN = 6  # images of each kind
LISTED = 6  # labels under an image
PAIRS = 10  # labels that are most often missed and added together
FEW = 5  # validation images with a label: a threshold that rests on fewer says little


@dataclass(frozen=True)
class LikelyLabel:
    """A label under an image: its probability, whether it is there (None: nobody knows), and whether it is said."""

    name: str
    probability: float
    actual: bool | None
    said: bool


@dataclass(frozen=True)
class JudgedImage:
    """An evaluated image as the page shows it: its labels, those that matter first, and what it is shown for."""

    picture: Picture
    labels: list[LikelyLabel]
    caption: str
    right: bool


class MultilabelPage:
    """What the page of such a head says and shows."""

    template = "multilabel"
    sections: tuple[str, ...] = ("Classes", "Mistakes", "Images", "Calibration")

    def __init__(self, run: RunResults) -> None:
        self.run, self.judged = run, LabelPredictions.load(run)
        self.with_ridge = run.metrics["head"] != "ridge" and "ridge_map" in run.metrics
        self.ridge = results.read_json(paths.HEAD / "ridge" / "head.json")["notes"] if self.with_ridge else {}
        self.pairs = choose.mixed_up(self.judged, run.head["classes"], PAIRS)

    def summary(self) -> Summary:
        """What the page says first."""
        scores = words.scores(self.run)
        scores[0] = scores[0]._replace(remark=f"{self._interval()}, 95% interval")
        facts = [*words.facts(self.run), ("Labels", self._labels())]
        if self.run.part == "test":
            facts.append(words.on_validation(self.run, ("map", "micro_f1")))
        if seeds := self.run.metrics.get("seeds"):
            m = self.run.metrics
            spread = f"mAP {percent(m['map_mean'])} ± {percent(m['map_sd'])} (mean and standard deviation; everything "
            facts.append((f"Over {seeds} seeds", f"{spread}else is of the first seed)"))
        return Summary(self._answer(), self._caveats(), scores, facts, words.baselines(self.run))

    def text(self) -> dict[str, Any]:
        """What both templates need besides."""
        return {
            "pairs": self.pairs,
            "rows": sorted(self.run.classes, key=lambda row: (row.ap is None, row.ap or 0, row.name)),
            "unknown": self._unknown(),
        }

    def notes(self) -> list[tuple[str, object]]:
        """More rows of the provenance."""
        return [(f"ridge baseline: {name}", value) for name, value in self.ridge.items()]

    def figures(self) -> dict[str, Drawing]:
        """The figures that the run has data for, by name."""
        run, points = self.run, predictions.precision_recall()
        interval = (run.score("map_low"), run.score("map_high"))
        scored = [row for row in run.classes if row.ap is not None]
        drawn = {
            "baselines": figures.baselines(words.baselines(run)["map"], METRICS["map"].title, interval),
            "mixed_up": figures.confusion(self.judged.mixed_up(), run.head["classes"], several=True),
            "reliability": figures.reliability(predictions.bins(), None),
        }
        if scored:
            curves = {row.name: points.get(row.name, []) for row in scored}
            drawn["precision_recall"] = figures.precision_recall(curves, of="images")
            drawn["by_score"] = figures.scores_of_classes(scored, "ap", "images")
        if len({row.n_train for row in run.classes}) > 1:
            drawn["per_class"] = figures.per_class(run.classes, "images")
        return drawn

    def details(self, album: Album) -> dict[str, Any]:
        """What the template of the page needs besides."""
        pictures = [album.picture(self.run.judged[pair.example]) for pair in self.pairs]
        return {"examples": self._examples(album), "pictures": pictures, "bins": predictions.bins()}

    def _answer(self) -> str:
        """The result in one sentence."""
        hits, there, said = (int(part.sum()) for part in (self.judged.hits, self.judged.present, self.judged.counted))
        kind, score = words.SPLIT_NAMES[self.run.part], self.run.score
        if not there:
            return f"No {kind} image has any label, so nothing can be said about how many are recognised."
        right = f"{words.share_of(hits / said, said)} labels that it gives are right" if said else "it gives none"
        others = [f"a random order gets {percent(self.run.metrics['prevalence'])}"]
        if self.with_ridge:
            others.append(f"ridge regression on the same features {percent(self.run.metrics['ridge_map'])}")
        exact = words.share_of(score("exact_match"), len(self.run.judged))
        return (
            f"{words.share_of(hits / there, there)} labels of {kind} images are recognised, and {right}; "
            f"{exact} images get exactly their labels. Over all thresholds, average precision (mAP) is "
            f"{percent(score('map'))} (95% interval: {self._interval()}). For comparison, {', '.join(others)}."
        )

    def _interval(self) -> str:
        return f"{percent(self.run.score('map_low'))} to {percent(self.run.score('map_high'))}"

    def _labels(self) -> str:
        """How many labels were judged."""
        images, unknown = len(self.run.judged), int(self.judged.unknown.sum())
        without = int((~self.judged.present.any(1)).sum())
        text = f"{self.judged.present.sum() / max(1, images):.1f} per image on average"
        text += f"; {counted(without, 'images have')} none" if without else ""
        return text + (f"; {counted(unknown, 'entries')} unknown, which count neither way" if unknown else "")

    def _caveats(self) -> list[str]:
        """What a reader must know before trusting the number."""
        caveats, score = words.caveats(self.run), self.run.score("map")
        ahead = round(self.run.metrics["ridge_map"], 3) - round(score, 3) if self.with_ridge else 0.0
        if ahead > 0:
            caveats.append(
                words.beaten_by_ridge(ahead, clearly=self.run.metrics["ridge_map"] > self.run.score("map_high"))
            )
        for names, text in (
            (words.never_trained_on(self.run), "No training image has {}: nothing learns it."),
            (
                [row.name for row in self.run.classes if row.ap is None],
                "Left out of the means, as no image has it: {}.",
            ),
            (
                self._on_few(),
                f"Fewer than {FEW} validation images have {{}}: its threshold is little more than a guess.",
            ),
        ):
            if names:
                caveats.append(text.format(listed(names)))
        return caveats

    def _on_few(self) -> list[str]:
        return [row.name for row in self.run.classes if row.n_train and row.n_val < FEW]

    def _unknown(self) -> str:
        """What `decide.unknown` does on the judged images; empty where no image counts as unknown."""
        if (share := self.run.metrics.get("unknown_share")) is None:
            return ""
        return (
            "predict calls an image unknown if it is less similar to the training images than "
            f"{percent(1 - self.run.decide['unknown'])} of the validation images (decide.unknown). Of the images "
            f"evaluated here, {words.share_of(share, len(self.run.judged))} count as unknown."
        )

    def _examples(self, album: Album) -> list[tuple[str, str, list[JudgedImage]]]:
        """Title, remark and images of each kind that has any."""
        judged, names = self.judged, self.run.head["classes"]

        def entries(which: str, places: list[tuple[int, int]]) -> list[JudgedImage]:
            return [
                self._image(album, image, f"{names[label]} {which}, {judged.probabilities[image, label]:.1%}", label)
                for image, label in places
            ]

        kinds = (
            ("Surest misses", "true labels with the lowest probability",
             entries("missed", choose.entries(judged.probabilities, judged.missed, SHOWN))),
            ("Surest false alarms", "false labels with the highest probability",
             entries("said", choose.entries(-judged.probabilities, judged.added, SHOWN))),
            ("Most mistakes", "labels missed and added in one image",
             [self._image(album, i, self._mistakes(i)) for i in choose.most_mistakes(judged, SHOWN)]),
            ("Right", "every label, several of them first",
             [self._image(album, i, "every label is right") for i in choose.all_right(judged, SHOWN)]),
        )  # fmt: skip
        return [kind for kind in kinds if kind[2]]

    def _mistakes(self, image: int) -> str:
        missed, added = int(self.judged.missed[image].sum()), int(self.judged.added[image].sum())
        return ", ".join(text for text, count in ((f"{missed} missed", missed), (f"{added} added", added)) if count)

    def _image(self, album: Album, image: int, caption: str, first: int | None = None) -> JudgedImage:
        """An image with its labels: those that are there or said, and the next likely ones."""
        judged = self.judged
        matters = judged.present[image] | judged.said[image]
        if first is not None:
            matters = matters | (np.arange(len(matters)) == first)
        order = np.lexsort((-judged.probabilities[image], ~matters))[: max(LISTED, int(matters.sum()))]
        labels = [
            LikelyLabel(
                self.run.head["classes"][i],
                float(judged.probabilities[image, i]),
                None if judged.unknown[image, i] else bool(judged.present[image, i]),
                bool(judged.said[image, i]),
            )
            for i in order
        ]
        picture = album.picture(self.run.judged[image])
        return JudgedImage(picture, labels, caption, bool(judged.right[image]))
