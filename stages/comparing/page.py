"""The page of a comparison: one file that loads nothing."""

from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from stages.comparing.comparison import COUNTED, Comparison, PairedResult, class_scores
from stages.metrics.table import METRICS
from stages.reporting import choose, figures, rendering
from stages.reporting.pictures import Album, Picture

TEMPLATES = Path(__file__).parent / "templates"
PICTURES_OF_PAIR, PICTURES = 12, 480  # changed images of a pair in each direction, and of all pairs together


class ChangedImage(NamedTuple):
    """An image on which two revisions differ.

    Attributes:
        picture: of the image.
        actual: its class; empty where it has no object.
        base: the baseline's prediction in words.
        other: the other revision's.
    """

    picture: Picture
    actual: str
    base: str
    other: str


class ChangedImages(NamedTuple):
    """The images on which a revision is better, or worse, than the baseline.

    Attributes:
        title: in which direction they changed.
        shown: some of them, spread over the classes.
        paths: all of them.
    """

    title: str
    shown: list[ChangedImage]
    paths: list[str]


def html(comparison: Comparison, album: Album) -> str:
    """The page as text."""
    count = min(PICTURES_OF_PAIR, PICTURES // max(1, 2 * len(comparison.pairs)))
    context = {
        "comparison": comparison,
        "metrics": METRICS,
        "classes": class_scores(comparison.revisions),
        "changed": [(paired, changed_images(paired, album, count)) for paired in comparison.pairs],
        "time": _time(comparison),
        "album": album,
        "listed": rendering.LISTED,
        **rendering.shell(),
    }
    return rendering.environment(TEMPLATES, escape=True).get_template("compare.html.j2").render(context)


def changed_images(paired: PairedResult, album: Album, count: int) -> list[ChangedImages]:
    """The images that got better and those that got worse, at most `count` of each with a picture."""
    counted = paired.base.metrics["task"] in COUNTED
    titles = ("Fewer mistakes", "More mistakes") if counted else ("From wrong to right", "From right to wrong")
    base, other = paired.base.answers, paired.other.answers
    assert base is not None and other is not None
    groups = []
    for title, images in zip(titles, (paired.better, paired.worse), strict=True):
        image_of = {base.rows[i].sha256: i for i in images}
        chosen = [image_of[row.sha256] for row in choose.samples([base.rows[i] for i in images], count)]
        shown = [
            ChangedImage(album.picture(base.rows[i]), base.rows[i].caption, base.texts[i], other.texts[i])
            for i in chosen
        ]
        groups.append(ChangedImages(title, shown, [base.rows[i].path for i in images]))
    return groups


def _time(comparison: Comparison) -> Markup | None:
    """Score against seconds of training as a figure; None where fewer than two are known."""
    points = [
        (revision.name, revision.seconds, score)
        for revision in comparison.revisions
        if revision.seconds is not None and (score := revision.score(comparison.headline)) is not None
    ]
    if len(points) < 2 or not comparison.alike:
        return None
    return Markup(figures.trade_off(points, METRICS[comparison.headline].title))
