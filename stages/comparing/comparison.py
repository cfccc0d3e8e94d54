"""Revisions side by side: which is best, what differs, and on which images one is right where another is wrong."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from markupsafe import Markup

from stages.comparing.revisions import CODE, Revision
from stages.metrics import table
from stages.metrics.table import METRICS
from stages.reporting import choose, figures, page
from stages.reporting.pictures import Album, Picture
from stages.reporting.words import percent

RARE = 0.05  # a p-value below it is called rare
SHOWN, PICTURES = 12, 480  # changed images of a pair, each way, and of all pairs together
CHANGES = 6  # parameters that the table names of a revision


class ChangedImage(NamedTuple):
    """An image on which two revisions differ, what is true of it and what each says."""

    picture: Picture
    actual: str
    base: str
    other: str


@dataclass(frozen=True)
class PairedResult:
    """A revision against the baseline, on the same images.

    Attributes:
        base, other: the two.
        better: positions of the images in which `other` makes fewer mistakes.
        worse: positions of those in which it makes more.
    """

    base: Revision
    other: Revision
    better: list[int]
    worse: list[int]

    @property
    def p(self) -> float:
        """How often chance alone gives a difference of this size."""
        return mcnemar(len(self.better), len(self.worse))

    @property
    def sentence(self) -> str:
        """What came out."""
        base, other, better, worse = self.base.name, self.other.name, len(self.better), len(self.worse)
        single = self.base.metrics["task"] != "detection"
        if not better and not worse:
            return f"{other} and {base} are right on the same images." if single else (
                f"{other} makes as many mistakes in every image as {base}."
            )  # fmt: skip
        told = (
            f"{other} is right on {better:,} images where {base} is wrong, and wrong on {worse:,} where {base} is right"
            if single
            else f"{other} makes fewer mistakes than {base} in {better:,} images, and more in {worse:,}"
        )
        verdict = "chance alone rarely does that" if self.p < RARE else "chance alone may well do that"
        return f"{told}: p {'< 0.001' if self.p < 0.001 else f'= {self.p:.2g}'}, {verdict}."


def mcnemar(better: int, worse: int) -> float:
    """The two-sided exact p-value of McNemar's test (1947): of `better + worse` fair coins, so many fall on one side.

    For images whose number of mistakes changed, it is the sign test.
    """
    count, ways, term = better + worse, 1, 1
    for heads in range(min(better, worse)):
        term = term * (count - heads) // (heads + 1)  # count over heads + 1
        ways += term
    return min(1.0, 2 * ways / (1 << count))


@dataclass(frozen=True)
class Comparison:
    """Revisions, the first of which is the baseline."""

    revisions: Sequence[Revision]

    @property
    def base(self) -> Revision:
        """What the others are compared with."""
        return self.revisions[0]

    @cached_property
    def headline(self) -> str:
        """The name of the metric that decides: that of the baseline's task."""
        return table.headline(self.base.metrics["task"], self.base.metrics)

    @cached_property
    def alike(self) -> bool:
        """Whether all were judged on the same images."""
        return all(same_images(self.base, other) for other in self.revisions[1:])

    @cached_property
    def best(self) -> Revision | None:
        """The one with the highest headline, the first of equal ones; None where they are not of one test."""
        known = [one for one in self.revisions if one.score(self.headline) is not None]
        return max(known, key=lambda one: one.score(self.headline) or 0.0) if self.alike and known else None

    @cached_property
    def pairs(self) -> list[PairedResult]:
        """Each against the baseline, as far as both answers on each image are at hand."""
        return [pair(self.base, other) for other in self.revisions[1:] if comparable(self.base, other)]

    def pair_of(self, revision: Revision) -> PairedResult | None:
        """A revision against the baseline, where there is such a pair."""
        return next((found for found in self.pairs if found.other is revision), None)

    @cached_property
    def settings(self) -> dict[str, list[str]]:
        """Parameters that differ, then code: name -> value in each revision, empty where it has none."""
        each = [one.settings for one in self.revisions]
        names = list(dict.fromkeys(name for found in each for name in found))
        values = {name: [found.get(name, "") for found in each] for name in names}
        differ = {name: found for name, found in values.items() if len({*found} - {"" if _code(name) else None}) > 1}
        return dict(sorted(differ.items(), key=lambda item: _code(item[0])))

    def changes(self, revision: Revision) -> str:
        """What a revision sets otherwise than the baseline, in short."""
        place = next(number for number, one in enumerate(self.revisions) if one is revision)
        differ = {name: values[place] for name, values in self.settings.items() if values[place] not in ("", values[0])}
        told = [f"{name}={value}" for name, value in differ.items() if not _code(name)]
        told = [*told[:CHANGES], f"{len(told) - CHANGES} more"] if len(told) > CHANGES else told
        return ", ".join(told + (["code or data"] if any(map(_code, differ)) else []))

    def metrics(self) -> list[str]:
        """The metrics that any revision has, the headline first."""
        there = [name for name in METRICS if any(one.score(name) is not None for one in self.revisions)]
        return [self.headline, *(name for name in there if name != self.headline)]

    def interval(self, revision: Revision) -> str:
        """The 95 % interval of the headline in words; empty where it is not known."""
        low, high = (revision.score(f"{self.headline}_{end}") for end in ("low", "high"))
        return "" if low is None or high is None else f"{percent(low)}–{percent(high)}"

    def answer(self) -> str:
        """The result in one sentence, or two."""
        count, what = len(self.revisions), METRICS[self.headline].title
        if self.best is None:
            return f"{count} revisions that were not judged on the same images: no one of them can be called the best."
        interval = self.interval(self.best)
        score = f"{percent(self.best.score(self.headline))} {what}{f' ({interval})' if interval else ''}"
        found = self.pair_of(self.best) or (self.pairs[0] if count == 2 and self.pairs else None)
        equal = [one.name for one in self.revisions if one.score(self.headline) == self.best.score(self.headline)]
        if len(equal) > 1:
            return f"{', '.join(equal)} are equally good, the best of {count}: {score}."
        return f"{self.best.name} is the best of {count}: {score}. {found.sentence if found else ''}".strip()

    def caveats(self) -> list[str]:
        """What a reader must know before trusting the answer."""
        found = []
        others = [one.name for one in self.revisions[1:] if not same_images(self.base, one)]
        if others:
            found.append(
                f"Judged on other images than {self.base.name}, so that neither their numbers nor their answers can be "
                f"set against each other: {', '.join(others)}."
            )
        found += [f"{one.name}: metrics alone, its answers are not at hand. {one.why}" for one in self.revisions
                  if one.answers is None]  # fmt: skip
        if any(one.part == "val" for one in self.revisions):
            found.append("Without a test part, revisions are judged on validation, which also chose their epochs.")
        elif self.alike and len(self.revisions) > 2:
            found.append(
                f"Choosing among {len(self.revisions)} by their test results flatters the one chosen: choose by "
                f"val, tell test. And of 20 pairs without any difference, one falls below p = {RARE} by chance."
            )
        return found


def same_images(one: Revision, other: Revision) -> bool:
    """Whether two revisions were judged on the same images with the same truth.

    Where the images of one are not at hand, its index and split decide.
    """
    if one.part != other.part or one.metrics["task"] != other.metrics["task"]:
        return False
    if one.answers is None or other.answers is None:
        return _data(one) == _data(other)
    truths = [[(row.sha256, row.label, row.objects) for row in found.answers.rows] for found in (one, other)  # type: ignore[union-attr]
              ]  # fmt: skip
    return truths[0] == truths[1]


def comparable(one: Revision, other: Revision) -> bool:
    """Whether the answers of two revisions are at hand, and on the same images."""
    return one.answers is not None and other.answers is not None and same_images(one, other)


def pair(base: Revision, other: Revision) -> PairedResult:
    """Two comparable revisions, image by image."""
    assert base.answers is not None and other.answers is not None
    more = other.answers.mistakes - base.answers.mistakes
    return PairedResult(base, other, (more < 0).nonzero()[0].tolist(), (more > 0).nonzero()[0].tolist())


def _data(revision: Revision) -> set[tuple[str, str]]:
    """Index and split that evaluate read."""
    deps = revision.lock.get("evaluate", {}).get("deps", [])
    return {(dep["path"], dep["md5"]) for dep in deps if dep["path"].startswith("data/")}


def _code(name: str) -> bool:
    return name.startswith(CODE)


def html(found: Comparison, album: Album) -> str:
    """The page: one file, nothing loaded from anywhere."""
    most = min(SHOWN, PICTURES // max(1, 2 * len(found.pairs)))
    changed = [(pair, _ways(pair, album, most)) for pair in found.pairs]
    context = {
        "found": found,
        "metrics": METRICS,
        "cell": cell,
        "classes": _classes(found.revisions),
        "changed": changed,
        "time": _time(found),
        "album": album,
        "listed": page.LISTED,
        **page.shell(),
    }
    return page.environment(escape=True).get_template("compare.html.j2").render(context)


def cell(revision: Revision, name: str) -> str:
    """A metric as the table shows it."""
    return METRICS[name].text(revision.score(name))


def _ways(pair: PairedResult, album: Album, most: int) -> list[tuple[str, list[ChangedImage], list[str]]]:
    """Title, some images spread over the classes, and the paths of all, of those that got better and worse."""
    single = pair.base.metrics["task"] != "detection"
    titles = ("From wrong to right", "From right to wrong") if single else ("Fewer mistakes", "More mistakes")
    assert pair.base.answers is not None
    rows, found = pair.base.answers.rows, []
    for title, places in zip(titles, (pair.better, pair.worse), strict=True):
        place_of = {rows[place].sha256: place for place in places}
        chosen = [place_of[row.sha256] for row in choose.samples([rows[place] for place in places], most)]
        found.append(
            (title, [_changed(pair, place, album) for place in chosen], [rows[place].path for place in places])
        )
    return found


def _changed(pair: PairedResult, place: int, album: Album) -> ChangedImage:
    assert pair.base.answers is not None and pair.other.answers is not None
    row = pair.base.answers.rows[place]
    return ChangedImage(album.picture(row), row.label, pair.base.answers.said[place], pair.other.answers.said[place])


def _classes(revisions: Sequence[Revision]) -> dict[str, list[float | None]]:
    """The score of each class in each revision; nothing where no revision has any."""
    each = [_scores(one) for one in revisions]
    names = sorted({name for scores in each for name, score in scores.items() if score is not None})
    return {name: [scores.get(name) for scores in each] for name in names}


def _scores(revision: Revision) -> Mapping[str, float | None]:
    rows = revision.answers.classes if revision.answers else []
    return {row.name: row.accuracy if row.ap_50 is None else row.ap_50 for row in rows}


def _time(found: Comparison) -> Any:
    """Score against seconds of training, where two or more are known."""
    points = [(one.name, one.seconds, score) for one in found.revisions
              if one.seconds is not None and (score := one.score(found.headline)) is not None]  # fmt: skip
    return Markup(figures.trade_off(points, METRICS[found.headline].title)) if len(points) > 1 and found.alike else None
