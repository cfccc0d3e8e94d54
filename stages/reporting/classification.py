"""The page of a head that names the class of an image."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stages import paths, results
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
LIKE = "; below, the training images most like them in the features"
PAIRS = 10  # most confused pairs


@dataclass(frozen=True)
class LikelyClass:
    """One of the most probable classes of an image."""

    name: str
    probability: float
    actual: bool


@dataclass(frozen=True)
class SimilarImage:
    """A training image that is much like a judged one, in the features; a small picture inside the page."""

    uri: str
    label: str


@dataclass(frozen=True)
class JudgedImage:
    """A judged image as the page shows it."""

    picture: Picture
    actual: str
    predicted: str
    top: list[LikelyClass]
    like: list[SimilarImage]

    @property
    def right(self) -> bool:
        """Whether the predicted class is the actual one."""
        return self.actual == self.predicted


class ClassificationPage:
    """What is said and shown of such a head."""

    template = "labels"

    def __init__(self, run: RunResults) -> None:
        self.run, self.judged, self.near = run, ClassPredictions.load(run), Neighbours.load(run)
        solved = run.head["head"] == "ridge"
        self.ridge = {} if solved else results.read_json(paths.HEAD / "ridge" / "head.json")["notes"]
        self.pairs = choose.confused(self.judged, run.head["classes"], PAIRS)

    @property
    def sections(self) -> tuple[str, ...]:
        """Their headings."""
        return ("Classes", "Confusion", "Images", *(["Map"] if len(self.near.map) else []), "Calibration")

    def summary(self) -> Summary:
        """The headline."""
        score, metrics = self.run.score, self.run.metrics
        scores = words.scores(self.run)
        interval = f"{percent(score('top1_low'))} to {percent(score('top1_high'))}, 95% interval"
        scores[0] = scores[0]._replace(remark=interval)
        facts = words.facts(self.run)
        if self.run.part == "test":
            facts.append(words.on_validation(self.run, ("top1", "cross_entropy")))
        if "seeds" in metrics:
            facts.append((f"Over {metrics['seeds']} seeds", _seeds(metrics)))
        return Summary(answer(self.run), caveats(self.run), scores, facts, words.baselines(self.run))

    def text(self) -> dict[str, Any]:
        """What page and markdown show besides."""
        return {"pairs": self.pairs, "confident": confident(self.run)}

    def notes(self) -> list[tuple[str, object]]:
        """Rows of the provenance."""
        return [(f"ridge baseline: {name}", found) for name, found in self.ridge.items()]

    def figures(self) -> dict[str, Drawing]:
        """The figures that this run has data for, by name."""
        run = self.run
        bars, interval = words.baselines(run)["top1"], (run.score("top1_low"), run.score("top1_high"))
        found = {
            "baselines": figures.baselines(bars, METRICS["top1"].title, interval),
            "by_accuracy": figures.scores_of_classes(run.classes, "accuracy", "images"),
            "confusion": figures.confusion(self.judged.confusion(), run.head["classes"]),
            "reliability": figures.reliability(predictions.bins(), run.decide["confidence"]),
        }
        if len({row.n_train for row in run.classes}) > 1:
            found["per_class"] = figures.per_class(run.classes, "images")
        return found

    def details(self, album: Album) -> dict[str, Any]:
        """What the page alone shows."""
        weakest = choose.weakest(self.run, WEAKEST)
        sheet = sheets.make(self.judged, self.near, self.run.judged, album)
        return {
            "sheet": sheet,
            "sheet_data": sheet and sheet.data(self.judged, self.run.judged, self.run.head["classes"]),
            "points": self._points(),
            "examples": self._examples(album),
            "weakest": [(row, self._members(album, row.name)) for row in weakest],
            "start": self._first_cell(),
            "pictures": [album.picture(self.run.judged[pair.example]) for pair in self.pairs],
            "bins": predictions.bins(),
        }

    def _first_cell(self) -> str:
        """The cell whose images the page shows first, `row,column`: the worst pair of classes."""
        number = {name: label for label, name in enumerate(self.run.head["classes"])}
        return f"{number[self.pairs[0].actual]},{number[self.pairs[0].predicted]}" if self.pairs else "0,0"

    def _examples(self, album: Album) -> list[tuple[str, str, list[JudgedImage]]]:
        """Title, remark and images of each kind that has any."""
        kinds = (
            ("Right", "from the surest to the least sure", choose.right(self.judged, SHOWN)),
            ("Wrong", f"the surest mistakes{LIKE}", choose.wrong(self.judged, SHOWN)),
            ("Least certain", f"probability spread over many classes{LIKE}", choose.uncertain(self.judged, SHOWN)),
        )
        return [
            (title, text, [self._shown(album, place, like=title != "Right") for place in places])
            for title, text, places in kinds
            if places
        ]

    def _members(self, album: Album, name: str) -> list[JudgedImage]:
        """Images of a class, mistakes first."""
        place = self.run.head["classes"].index(name)
        return [self._shown(album, image) for image in choose.members(self.judged, place, MEMBERS)]

    def _points(self) -> list[tuple[float, float, bool, str]]:
        """The map: where an image lies, in [0, 1], whether it is right, and in words."""
        names = self.run.head["classes"]
        found = []
        for place, (x, y) in zip(self.near.mapped, self.near.map, strict=True):
            right, label = bool(self.judged.right[place]), names[self.judged.labels[place]]
            text = label if right else f"{label}, taken for {names[self.judged.chosen[place]]}"
            found.append((float(x), float(y), right, text))
        return found

    def _like(self, album: Album, place: int) -> list[SimilarImage]:
        """The training images most like a judged one, as far as they can be shown."""
        rows = [self.run.rows[row] for row in self.near.nearest[place]]
        tiles = [(row, album.tile(row)) for row in rows]
        return [SimilarImage(data_uri(tile), row.label) for row, tile in tiles if tile]

    def _shown(self, album: Album, place: int, *, like: bool = False) -> JudgedImage:
        """A judged image by its position, beside the training images most like it if wanted."""
        names = self.run.head["classes"]
        probabilities, label = self.judged.probabilities[place], int(self.judged.labels[place])
        order = (-probabilities).argsort(kind="stable")[:TOP]
        top = [LikelyClass(names[one], float(probabilities[one]), int(one) == label) for one in order]
        picture, predicted = album.picture(self.run.judged[place]), names[self.judged.chosen[place]]
        return JudgedImage(picture, names[label], predicted, top, self._like(album, place) if like else [])


def answer(run: RunResults) -> str:
    """The result in one sentence."""
    top1, low, high = (of_100(run.score(name)) for name in ("top1", "top1_low", "top1_high"))
    others = [f"a guess would get {of_100(run.metrics['chance'])}"]
    others.append(f"the most frequent class {of_100(run.metrics['majority'])}")
    if run.metrics["head"] != "ridge":
        others.append(f"ridge regression on the same features {of_100(run.metrics['ridge_top1'])}")
    kind = words.PART_NAMES[run.part]
    return f"{top1} of 100 {kind} images get the right class ({low}–{high} with 95% confidence); {', '.join(others)}."


def caveats(run: RunResults) -> list[str]:
    """What a reader must know before trusting the number."""
    found, top1 = words.caveats(run), run.score("top1")
    ahead = round(run.metrics["ridge_top1"], 4) - round(top1, 4)
    if run.metrics["head"] != "ridge" and ahead > 0:
        clearly = run.metrics["ridge_top1"] > run.score("top1_high")
        found.append(
            f"Ridge regression, fitted in closed form on the same features, is {100 * ahead:.1f} points better than "
            f"this head{', outside its interval' if clearly else ', inside its interval'}: "
            "the head's training has not paid off here."
        )
    unrecognised = [row.name for row in run.classes if row.accuracy == 0]
    if unrecognised:
        found.append(f"Classes of which no image is recognised: {', '.join(unrecognised)}.")
    if top1 <= run.metrics["majority"]:
        found.append("The head is no better than always answering the most frequent class.")
    return found


def confident(run: RunResults) -> str:
    """What a threshold on the probability buys."""
    threshold, share = run.decide["confidence"], run.metrics["confident_share"]
    if not share:
        return f"No image gets a probability of {threshold:g} or more."
    return (
        f"{of_100(share)} of 100 images get a probability of {threshold:g} or more; of these, "
        f"{of_100(run.metrics['confident_accuracy'])} of 100 are right."
    )


def _seeds(metrics: Mapping[str, Any]) -> str:
    top1 = f"top-1 {percent(metrics['top1_mean'])} ± {percent(metrics['top1_sd'])}"
    entropy = f"{number(metrics['cross_entropy_mean'], 3)} ± {number(metrics['cross_entropy_sd'], 3)}"
    return f"{top1}, cross-entropy {entropy} (mean and standard deviation; all else is of the first)"
