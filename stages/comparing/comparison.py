"""Revisions side by side: which is best, what differs, and on which images one is right where another is wrong."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from stages.comparing.revisions import CODE, Revision
from stages.errors import counted, listed
from stages.metrics import table
from stages.metrics.table import METRICS, VAL
from stages.reporting.words import percent

RARE = 0.05  # a p-value below it is called rare
COUNTED = ("detection", "multilabel")  # tasks in which an image may have several mistakes
NAMED_CHANGES = 6  # parameters that the table names for a revision


@dataclass(frozen=True)
class PairedResult:
    """A revision and the baseline, image by image.

    Attributes:
        base: the baseline.
        other: the revision.
        better: the images (as positions) in which `other` makes fewer mistakes.
        worse: the images in which it makes more.
    """

    base: Revision
    other: Revision
    better: list[int]
    worse: list[int]

    @property
    def p(self) -> float:
        """How likely chance alone gives a difference of this size."""
        return mcnemar(len(self.better), len(self.worse))

    @property
    def sentence(self) -> str:
        """What the comparison gives, for people."""
        base, other, better, worse = self.base.name, self.other.name, len(self.better), len(self.worse)
        counts_mistakes = self.base.metrics["task"] in COUNTED
        if not better and not worse:
            if counts_mistakes:
                return f"{other} makes as many mistakes as {base} in every image."
            return f"{other} and {base} are right on the same images."
        difference = (
            f"{other} makes fewer mistakes than {base} in {counted(better, 'images')}, and more in {worse:,}"
            if counts_mistakes
            else f"{other} is right on {counted(better, 'images')} where {base} is wrong, and wrong on {worse:,} where "
            f"{base} is right"
        )
        verdict = "chance alone rarely does that" if self.p < RARE else "chance alone may well do that"
        return f"{difference}: p {'< 0.001' if self.p < 0.001 else f'= {self.p:.2g}'}, {verdict}."


def mcnemar(better: int, worse: int) -> float:
    """The two-sided exact p-value of McNemar's test (1947): how likely so uneven a split of fair coins is.

    For images whose number of mistakes changed, it is the sign test.
    """
    count, ways, term = better + worse, 1, 1
    for heads in range(min(better, worse)):
        term = term * (count - heads) // (heads + 1)  # count over heads + 1
        ways += term
    return min(1.0, 2 * ways / (1 << count))


@dataclass(frozen=True)
class Comparison:
    """Revisions, of which the first is the baseline."""

    revisions: Sequence[Revision]

    @property
    def base(self) -> Revision:
        """The revision that the others are compared with."""
        return self.revisions[0]

    @cached_property
    def headline(self) -> str:
        """The metric that decides: that of the baseline's task."""
        return table.headline(self.base.metrics["task"], self.base.metrics)

    @cached_property
    def alike(self) -> bool:
        """Whether all were evaluated on the same images."""
        return all(same_images(self.base, other) for other in self.revisions[1:])

    @cached_property
    def best(self) -> Revision | None:
        """The revision with the best headline, the first of equal ones; None where the images are not the same."""
        scores = [(revision.score(self.headline), revision) for revision in self.revisions]
        scored = [(score, revision) for score, revision in scores if score is not None]
        sign = 1 if METRICS[self.headline].better == "higher" else -1
        return max(scored, key=lambda pair: sign * pair[0])[1] if self.alike and scored else None

    @cached_property
    def pairs(self) -> list[PairedResult]:
        """Every revision with the baseline, where the predictions of both are at hand and of the same images."""
        return [pair(self.base, other) for other in self.revisions[1:] if comparable(self.base, other)]

    def pair_of(self, revision: Revision) -> PairedResult | None:
        """A revision with the baseline; None where the two cannot be compared image by image."""
        return next((paired for paired in self.pairs if paired.other is revision), None)

    @cached_property
    def settings(self) -> dict[str, list[str]]:
        """The parameters that differ, then the code: name -> value in each revision, empty where it has none.

        A parameter that only some revisions have does not count as different: another head or version of the code reads
        other ones.
        """
        per_revision = [revision.settings for revision in self.revisions]
        names = list(dict.fromkeys(name for settings in per_revision for name in settings))
        values = {name: [settings.get(name, "") for settings in per_revision] for name in names}
        differing = {name: row for name, row in values.items() if len({*row} - {""}) > 1}
        return dict(sorted(differing.items(), key=lambda item: is_code(item[0])))

    def changes(self, revision: Revision) -> str:
        """What differs from the baseline, in short."""
        column = next(i for i, other in enumerate(self.revisions) if other is revision)
        differing = {name: row[column] for name, row in self.settings.items() if "" not in (row[0], row[column])}
        differing = {name: value for name, value in differing.items() if value != self.settings[name][0]}
        texts = [f"{name}={value}" for name, value in differing.items() if not is_code(name)]
        if len(texts) > NAMED_CHANGES:
            texts = [*texts[:NAMED_CHANGES], f"{len(texts) - NAMED_CHANGES} more"]
        return ", ".join(texts + (["code or data"] if any(map(is_code, differing)) else []))

    def metrics(self) -> list[str]:
        """The metrics that any revision has, the headline first."""
        names = [name for name in METRICS if any(revision.score(name) is not None for revision in self.revisions)]
        return [self.headline, *(name for name in names if name != self.headline)]

    def interval(self, revision: Revision) -> str:
        """The 95% interval of the headline as text; empty where there is none."""
        low, high = (revision.score(f"{self.headline}_{end}") for end in ("low", "high"))
        return "" if low is None or high is None else f"{percent(low)}–{percent(high)}"

    def on_validation(self, revision: Revision) -> float | None:
        """The headline on validation."""
        value: float | None = revision.metrics.get(VAL + self.headline)
        return value

    def answer(self) -> str:
        """The result in one or two sentences."""
        count, metric = len(self.revisions), METRICS[self.headline]
        if self.best is None:
            alike = self._most_alike()
            answer = f"The {count} revisions were not evaluated on the same images, so none can be called the best."
            return f"{answer} These can be compared: `python -m stages.compare {' '.join(alike)}`." if alike else answer
        interval, best = self.interval(self.best), self.best.score(self.headline)
        score = f"{metric.text(best)} {metric.title}{f' ({interval})' if interval else ''}"
        equal = [revision.name for revision in self.revisions if revision.score(self.headline) == best]
        if len(equal) > 1:
            return f"{listed(equal)} are equally good, the best of {count}: {score}."
        paired = self.pair_of(self.best) or (self.pairs[0] if count == 2 and self.pairs else None)
        return f"{self.best.name} is the best of {count}: {score}. {paired.sentence if paired else ''}".strip()

    def _best_on_validation(self) -> str:
        """The revisions that validation would choose, in brackets; empty where not all have been validated."""
        values = [self.on_validation(revision) for revision in self.revisions]
        scores = [value for value in values if value is not None]
        if len(scores) < len(values):
            return ""
        best = max(scores) if METRICS[self.headline].better == "higher" else min(scores)
        names = [revision.name for revision, value in zip(self.revisions, values, strict=True) if value == best]
        return f" ({', '.join(names)})"

    def _most_alike(self) -> list[str]:
        """Names of the most revisions that were evaluated on the same images; none where no two were."""
        groups = [[other for other in self.revisions if same_images(one, other)] for one in self.revisions]
        largest = max(groups, key=len)
        return [revision.name.partition(" ")[0] for revision in largest] if len(largest) > 1 else []

    def caveats(self) -> list[str]:
        """What a reader must know before trusting the answer."""
        caveats = []
        others = [revision.name for revision in self.revisions[1:] if not same_images(self.base, revision)]
        if others:
            caveats.append(
                f"Evaluated on other images than {self.base.name}, so neither their metrics nor their predictions "
                f"can be compared: {', '.join(others)}."
            )
        caveats += [
            f"{revision.name}: no p-value, because its predictions are not at hand. {revision.why}"
            for revision in self.revisions
            if revision.answers is None
        ]
        if any(revision.split == "val" for revision in self.revisions):
            caveats.append("There is no test split: these numbers are of validation, and the epochs were chosen on it.")
        elif self.alike and len(self.revisions) > 2:
            caveats.append(
                f"The best of {len(self.revisions)} on the test images looks better than it is: choose by val"
                f"{self._best_on_validation()} and report test. And of 20 pairs that do not differ at all, one has "
                f"p < {RARE} by chance."
            )
        return caveats


def same_images(one: Revision, other: Revision) -> bool:
    """Whether two revisions were evaluated on the same images with the same annotations.

    Where the images of one are not at hand, the checksums of its index and split decide.
    """
    if one.split != other.split or one.metrics["task"] != other.metrics["task"]:
        return False
    if one.answers is None or other.answers is None:
        return _data_checksums(one) == _data_checksums(other)
    annotations = [
        [(row.sha256, row.classes, row.unknown_labels, row.objects) for row in answers.rows]
        for answers in (one.answers, other.answers)
    ]
    return annotations[0] == annotations[1]


def comparable(one: Revision, other: Revision) -> bool:
    """Whether the predictions of two revisions are at hand, and of the same images."""
    return one.answers is not None and other.answers is not None and same_images(one, other)


def pair(base: Revision, other: Revision) -> PairedResult:
    """Compares two comparable revisions image by image."""
    assert base.answers is not None and other.answers is not None
    more = other.answers.mistakes - base.answers.mistakes
    return PairedResult(base, other, (more < 0).nonzero()[0].tolist(), (more > 0).nonzero()[0].tolist())


def class_scores(revisions: Sequence[Revision]) -> dict[str, list[float | None]]:
    """The score of each class in each revision; empty where no revision has any."""
    per_revision = [_class_scores(revision) for revision in revisions]
    names = sorted({name for scores in per_revision for name, score in scores.items() if score is not None})
    return {name: [scores.get(name) for scores in per_revision] for name in names}


def is_code(name: str) -> bool:
    """Whether a setting is a checksum of code or data and not a parameter."""
    return name.startswith(CODE)


def _class_scores(revision: Revision) -> Mapping[str, float | None]:
    rows = revision.answers.classes if revision.answers else []
    scores = {row.name: (row.accuracy, row.ap_50, row.ap) for row in rows}  # of which a task has one
    return {name: next((score for score in of_class if score is not None), None) for name, of_class in scores.items()}


def _data_checksums(revision: Revision) -> set[tuple[str, str]]:
    """Index and split that evaluate read."""
    deps = revision.lock.get("evaluate", {}).get("deps", [])
    return {(dep["path"], dep["md5"]) for dep in deps if dep["path"].startswith("data/")}
