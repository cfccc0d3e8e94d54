"""The page of a classifier."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stages import paths, results
from stages.errors import listed
from stages.metrics.table import METRICS
from stages.reporting import choose, figures, predictions, words
from stages.reporting import sheet as sheets
from stages.reporting.figures import Drawing
from stages.reporting.gather import RunResults
from stages.reporting.pictures import Album, Picture, data_uri
from stages.reporting.predictions import ClassPredictions, Neighbours
from stages.reporting.words import Summary, number, of_100, percent

SHOWN = 6  # images of each kind: right, wrong, uncertain
TOP = 5  # classes listed under an image
WEAKEST, MEMBERS = 3, 8  # classes in the gallery of the weakest, and images of each
SIMILAR = "; below, the training images whose features are most similar"
PAIRS = 10  # most confused pairs
LISTED, NAMED = 1000, 50  # classes in the table, and names in a sentence


@dataclass(frozen=True)
class LikelyClass:
    """One of the most probable classes of an image."""

    name: str
    probability: float
    actual: bool


@dataclass(frozen=True)
class SimilarImage:
    """A training image with similar features, as a small picture inside the page."""

    uri: str
    label: str


@dataclass(frozen=True)
class JudgedImage:
    """An evaluated image as the page shows it.

    Attributes:
        picture: of the image.
        actual: its class.
        predicted: the most probable class.
        top: the most probable classes.
        similar: training images with similar features.
    """

    picture: Picture
    actual: str
    predicted: str
    top: list[LikelyClass]
    similar: list[SimilarImage]

    @property
    def right(self) -> bool:
        """Whether the predicted class is the actual one."""
        return self.actual == self.predicted


class ClassificationPage:
    """What the page of a classifier says and shows."""

    template = "labels"

    def __init__(self, run: RunResults) -> None:
        self.run, self.judged, self.near = run, ClassPredictions.load(run), Neighbours.load(run)
        self.ridge = results.read_json(paths.HEAD / "ridge" / "head.json")["notes"] if with_ridge(run) else {}
        self.pairs = choose.confused(self.judged, run.head["classes"], PAIRS)

    @property
    def sections(self) -> tuple[str, ...]:
        """The headings of its sections."""
        return ("Classes", "Confusion", "Images", *(["Map"] if len(self.near.map) else []), "Calibration")

    def summary(self) -> Summary:
        """What the page says first."""
        score, metrics = self.run.score, self.run.metrics
        scores = words.scores(self.run)
        interval = f"{percent(score('top1_low'))} to {percent(score('top1_high'))}, 95% interval"
        scores[0] = scores[0]._replace(remark=interval)
        facts = words.facts(self.run)
        if self.run.part == "test":
            facts.append(words.on_validation(self.run, ("top1", "cross_entropy")))
        for several in ("seeds", "folds"):
            if several in metrics:
                facts.append((f"Over {metrics[several]} {several}", _spread(metrics)))
        return Summary(answer(self.run), caveats(self.run), scores, facts, words.baselines(self.run))

    def text(self) -> dict[str, Any]:
        """What both templates need besides."""
        return {
            "pairs": self.pairs,
            "confident": confident(self.run),
            "unknown": unknown(self.run),
            "class_rows": choose.listed_classes(self.run, LISTED),
        }

    def notes(self) -> list[tuple[str, object]]:
        """More rows of the provenance."""
        return [(f"ridge baseline: {name}", value) for name, value in self.ridge.items()]

    def figures(self) -> dict[str, Drawing]:
        """The figures that the run has data for, by name."""
        run = self.run
        bars, interval = words.baselines(run)["top1"], (run.score("top1_low"), run.score("top1_high"))
        drawn = {
            "baselines": figures.baselines(bars, METRICS["top1"].title, interval),
            "by_accuracy": figures.scores_of_classes(run.classes, "accuracy", "images"),
            "confusion": figures.confusion(self.judged.confusion(), run.head["classes"]),
            "reliability": figures.reliability(predictions.bins(), run.decide["confidence"]),
        }
        if len({row.n_train for row in run.classes}) > 1:
            drawn["per_class"] = figures.per_class(run.classes, "images")
        return drawn

    def details(self, album: Album) -> dict[str, Any]:
        """What the template of the page needs besides."""
        weakest = choose.weakest(self.run, WEAKEST)
        sheet = sheets.make(self.judged, self.near, self.run.judged, album)
        return {
            "sheet": sheet,
            "sheet_data": sheet and sheet.data(self.judged, self.run.judged, self.run.head["classes"]),
            "points": self._points(),
            "examples": self._examples(album),
            "weakest": [(row, self._members(album, row.name)) for row in weakest],
            "start": self._first_cell(),
            "matrix": figures.MATRIX,
            "pictures": [album.picture(self.run.judged[pair.example]) for pair in self.pairs],
            "bins": predictions.bins(),
        }

    def _first_cell(self) -> str:
        """The cell whose images the page shows first, `row,column`: the worst pair of classes."""
        number = {name: label for label, name in enumerate(self.run.head["classes"])}
        return f"{number[self.pairs[0].actual]},{number[self.pairs[0].predicted]}" if self.pairs else "0,0"

    def _examples(self, album: Album) -> list[tuple[str, str, list[JudgedImage]]]:
        """Title, remark and images of each kind that has any."""
        thinned = 0 < self.near.compared < len(self.run.split["train"]) / 2  # a few of train could not be decoded
        similar = SIMILAR + (f", of {self.near.compared:,} evenly spread ones" if thinned else "")
        kinds = (
            ("Right", "from the most to the least confident", choose.right(self.judged, SHOWN)),
            ("Wrong", f"the most confident mistakes{similar}", choose.wrong(self.judged, SHOWN)),
            (
                "Least certain",
                f"the probability is spread over many classes{similar}",
                choose.uncertain(self.judged, SHOWN),
            ),
        )
        return [
            (title, text, [self._judged(album, image, similar=title != "Right") for image in images])
            for title, text, images in kinds
            if images
        ]

    def _members(self, album: Album, name: str) -> list[JudgedImage]:
        """Images of a class, mistakes first."""
        label = self.run.head["classes"].index(name)
        return [self._judged(album, image) for image in choose.members(self.judged, label, MEMBERS)]

    def _points(self) -> list[tuple[float, float, bool, str]]:
        """The points of the map: x and y in [0, 1], whether the prediction is right, and what it is in words."""
        names = self.run.head["classes"]
        points = []
        for image, (x, y) in zip(self.near.mapped, self.near.map, strict=True):
            right, label = bool(self.judged.right[image]), names[self.judged.labels[image]]
            text = label if right else f"{label}, taken for {names[self.judged.chosen[image]]}"
            points.append((float(x), float(y), right, text))
        return points

    def _similar(self, album: Album, image: int) -> list[SimilarImage]:
        """The training images with the most similar features, as far as they can be shown."""
        rows = [self.run.rows[row] for row in self.near.nearest[image]]
        tiles = [(row, album.tile(row)) for row in rows]
        return [SimilarImage(data_uri(tile), row.label) for row, tile in tiles if tile]

    def _judged(self, album: Album, image: int, *, similar: bool = False) -> JudgedImage:
        """An evaluated image by its position, with the training images most similar to it if asked for."""
        names = self.run.head["classes"]
        probabilities, label = self.judged.probabilities[image], int(self.judged.labels[image])
        order = (-probabilities).argsort(kind="stable")[:TOP]
        top = [LikelyClass(names[i], float(probabilities[i]), int(i) == label) for i in order]
        picture, predicted = album.picture(self.run.judged[image]), names[self.judged.chosen[image]]
        return JudgedImage(picture, names[label], predicted, top, self._similar(album, image) if similar else [])


def with_ridge(run: RunResults) -> bool:
    """Whether the run has ridge regression as a baseline; it is none of itself, and too large data has none."""
    return run.metrics["head"] != "ridge" and "ridge_top1" in run.metrics


def answer(run: RunResults) -> str:
    """The result in one sentence."""
    low, high = (of_100(run.score(name)) for name in ("top1_low", "top1_high"))
    right = words.share_of(run.score("top1"), len(run.judged))
    of = "" if right.endswith("of 100") else " of 100"
    others = [f"guessing gets {of_100(run.metrics['chance'])}{of} right"]
    others.append(f"always answering the most frequent class {of_100(run.metrics['majority'])}")
    if with_ridge(run):
        others.append(f"ridge regression on the same features {of_100(run.metrics['ridge_top1'])}")
    kind = words.SPLIT_NAMES[run.part]
    interval = f"95% interval: {low}–{high}{of}"
    return f"{right} {kind} images get the right class ({interval}). For comparison, {', '.join(others)}."


def caveats(run: RunResults) -> list[str]:
    """What a reader must know before trusting the number."""
    caveats, top1 = words.caveats(run), run.score("top1")
    ahead = round(run.metrics["ridge_top1"], 3) - round(top1, 3) if with_ridge(run) else 0.0
    if ahead > 0:
        caveats.append(words.beaten_by_ridge(ahead, clearly=run.metrics["ridge_top1"] > run.score("top1_high")))
    unrecognised = [row.name for row in run.classes if row.accuracy == 0]
    if unrecognised:
        caveats.append(f"Classes of which no image is recognised: {listed(unrecognised, NAMED)}.")
    if top1 <= run.metrics["majority"]:
        caveats.append("The head is no better than always answering the most frequent class.")
    return caveats


def confident(run: RunResults) -> str:
    """What a threshold on the probability gives."""
    threshold, share = run.decide["confidence"], run.metrics["confident_share"]
    if not share:
        return f"No image gets a probability of {threshold:g} or more."
    sure = round(share * len(run.judged))
    return (
        f"The probability is {threshold:g} or more for {words.share_of(share, len(run.judged))} images, and the class "
        f"is right for {words.share_of(run.metrics['confident_accuracy'], sure)} of them."
    )


def unknown(run: RunResults) -> str:
    """What `decide.unknown` means, and does on the judged images; empty where no image counts as unknown."""
    if (share := run.metrics.get("unknown_share")) is None:
        return ""
    text = (
        "predict calls an image unknown if it is less similar to the training images than "
        f"{percent(1 - run.decide['unknown'])} of the validation images (decide.unknown). That holds for "
        f"{words.share_of(share, len(run.judged))} of the images evaluated here"
    )
    right, unknown_images = run.metrics.get("unknown_accuracy"), round(share * len(run.judged))
    return (
        f"{text}."
        if right is None
        else f"{text}; the class is right for {words.share_of(right, unknown_images)} of them."
    )


def _spread(metrics: Mapping[str, Any]) -> str:
    top1 = f"top-1 {percent(metrics['top1_mean'])} ± {percent(metrics['top1_sd'])}"
    entropy = f"{number(metrics['cross_entropy_mean'], 3)} ± {number(metrics['cross_entropy_sd'], 3)}"
    others = "; everything else is of the first seed" if "seeds" in metrics else ""
    return f"{top1}, cross-entropy {entropy} (mean and standard deviation{others})"
