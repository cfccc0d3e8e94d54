"""What objects a dataset holds: how many of each class, how large, and examples with their boxes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.ticker import LogLocator, MaxNLocator

from stages.datasets.base import Box
from stages.datasets.index_file import FLAGS, IndexRow
from stages.images.colours import colour_of
from stages.reporting import choose
from stages.reporting.figures import BLUE, ORANGE, TITLED, Drawing, _figure, _make_logarithmic, _short, _style, _tag
from stages.reporting.gather import RunResults
from stages.reporting.pictures import LONGEST, SIDE, Album, Picture

EXAMPLES = 12  # annotated images
NAMED = 15  # boxes of an image that carry their class, at most
LETTER, LETTER_WIDTH = 14, 8  # the height of a name on a canvas, and about the width of its letters
LISTS = ("train", "val", "test", "all")
BINS = 32
DECADES = 500  # highest to lowest, above which an axis has room for powers of ten alone
Counted = Mapping[str, Mapping[str, Mapping[str, int]]]  # list -> class -> `objects`, and how many are `difficult`


@dataclass(frozen=True)
class ObjectCount:
    """Objects of a class: in each list, in all, and how many of all are difficult."""

    name: str
    of_list: tuple[int, ...]
    objects: int
    difficult: int


@dataclass(frozen=True)
class Outline:
    """A box to be drawn, with the name that stands beside it and what its tooltip says.

    It is there at thresholds on the confidence that lie above `above` and are at most `upto`.
    """

    box: Box
    colour: str
    name: str
    title: str
    broken: bool = False
    above: float = -1.0
    upto: float = 1.0

    def there(self, threshold: float) -> bool:
        """Whether it is shown at a threshold."""
        return self.above < threshold <= self.upto


@dataclass(frozen=True)
class DrawnBox:
    """An outline on a canvas, in its units, and where its name stands; the name is empty where there is no room."""

    outline: Outline
    x: float
    y: float
    width: float
    height: float
    name: str
    name_x: float
    name_y: float
    anchor: str


@dataclass(frozen=True)
class AnnotatedImage:
    """An annotated image on a canvas whose longer side is SIDE, so that names have one size on small images too."""

    picture: Picture
    width: float
    height: float
    marks: list[DrawnBox]


@dataclass(frozen=True)
class ObjectStatistics:
    """What the page shows of objects.

    Attributes:
        lists: the dataset's own lists, or `all`.
        counts: by class, in order of name.
        sentences: how many there are.
        examples: annotated images.
    """

    lists: tuple[str, ...]
    counts: list[ObjectCount]
    sentences: str
    examples: list[AnnotatedImage]


def explore(run: RunResults, album: Album, rows: Sequence[IndexRow]) -> ObjectStatistics | None:
    """The objects of a run's dataset, with examples among `rows`; None where it has none."""
    found = [row for row in run.rows if row.objects]
    if not found:
        return None
    annotated = run.index["objects"]
    lists = tuple(name for name in LISTS if name in annotated)
    counts = count(annotated, lists)
    colour = {row.name: colour_of(place) for place, row in enumerate(counts)}
    shown = choose.samples([row for row in rows if row.objects], EXAMPLES) if album.folder else []
    return ObjectStatistics(
        lists,
        counts,
        sentences(annotated, lists, run.rows),
        examples=[example(album.picture(row), colour) for row in shown],
    )


def drawings(run: RunResults) -> dict[str, Drawing]:
    """The figures of the objects of a run's dataset, by name; none where it has no objects."""
    found = [row for row in run.rows if row.objects]
    if not found:
        return {}
    annotated = run.index["objects"]
    part = next(name for name in LISTS if name in annotated)
    boxes = np.array([box.box for row in found for box in row.objects], float)
    size = np.array([(row.width, row.height) for row in found for _ in row.objects], float)
    sides = boxes[:, 2:] - boxes[:, :2]
    return {
        "classes": per_class(annotated[part], part),
        "an_image": an_image([len(row.objects) for row in run.rows]),
        "sides": spread("Width and height of boxes", "pixels", {"width": sides[:, 0], "height": sides[:, 1]}),
        "areas": spread("Share of the image", "% of the image's area", {"": 100 * sides.prod(1) / size.prod(1)}),
        "ratios": spread("Width to height", "width / height", {"": sides[:, 0] / sides[:, 1]}),
    }


def sentences(annotated: Counted, lists: Sequence[str], rows: Sequence[IndexRow]) -> str:
    """How many objects there are, as annotated and in use."""
    told = []
    for part in lists:
        objects, difficult = (
            sum(found[what] for found in annotated[part].values()) for what in ("objects", "difficult")
        )
        told.append(f"{objects:,} objects" + (f" ({difficult:,} difficult)" if difficult else "") + f" in {part}")
    used, empty = sum(len(row.objects) for row in rows), sum(not row.objects for row in rows)
    without = f", and {empty:,} images without any" if empty else ""
    return (
        f"Annotated: {', '.join(told)}. Used, without duplicates and broken annotations: {used:,} objects in "
        f"{len(rows) - empty:,} images{without}."
    )


def count(annotated: Counted, lists: Sequence[str]) -> list[ObjectCount]:
    """The objects of each class, from what the index counted."""
    none = {"objects": 0, "difficult": 0}
    counts = []
    for name in sorted({name for found in annotated.values() for name in found}):
        of_list = [annotated[part].get(name, none) for part in lists]
        numbers = tuple(found["objects"] for found in of_list)
        counts.append(ObjectCount(name, numbers, sum(numbers), sum(found["difficult"] for found in of_list)))
    return counts


def per_class(of_list: Mapping[str, Mapping[str, int]], part: str) -> Drawing:
    """Objects of each class in a list, most first, the difficult ones at the end of each bar."""
    order = sorted(of_list, key=lambda name: (-of_list[name]["objects"], name))
    all_of, hard = (np.array([of_list[name][what] for name in order]) for what in ("objects", "difficult"))
    named, places = len(order) <= TITLED, np.arange(len(order))
    with _style():
        figure, axes = _figure(12 * len(order) + 60 if named else 240)
        draw: Any = axes.barh if named else axes.bar
        plain = draw(places, all_of - hard, 0.72, color=BLUE)
        if hard.any():
            base = {"left" if named else "bottom": all_of - hard}
            draw(places, hard, 0.72, color=ORANGE, label="difficult", **base)
            axes.legend(loc="lower right" if named else "upper right")
        titles = {
            _tag(bar, place): f"{name}: {all_of[place]:,} objects, {hard[place]:,} of them difficult"
            for place, (name, bar) in enumerate(zip(order, plain, strict=True))
        }
        if named:
            axes.set_yticks(places, [_short(name) for name in order], fontsize=8.5)
            axes.set(ylim=(len(order) - 0.4, -0.6), xlabel="objects")
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axes.grid(axis="y", visible=False)
        else:
            axes.set(xticks=[], xlim=(-1, len(order)), xlabel="classes, most objects first", ylabel="objects")
        axes.set_title(f"Objects per class, {part}" if part != "all" else "Objects per class")
        alt = f"Bars of objects of {len(order)} classes, {all_of.sum():,} in all, {hard.sum():,} of them difficult."
        return Drawing(figure, alt, titles)


def an_image(numbers: Sequence[int]) -> Drawing:
    """How many images hold how many objects."""
    most = max(numbers)
    step = most // BINS + 1
    edges = np.arange(0, most + step + 1, step) - 0.5
    with _style():
        figure, axes = _figure(190)
        axes.stairs(np.histogram(numbers, edges)[0], edges, fill=True, color=BLUE)
        axes.set(title="Objects an image", xlabel="objects", ylabel="images")
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        return Drawing(
            figure, f"Distribution of objects over {len(numbers)} images: {np.mean(numbers):.1f} on average."
        )


def spread(title: str, unit: str, named: Mapping[str, npt.NDArray[np.float64]]) -> Drawing:
    """Distributions of positive numbers, on a logarithmic axis where they span much; one or two, each with its name."""
    every = np.concatenate(list(named.values()))
    low, high = float(every.min()), float(every.max())
    wide = high > 8 * low
    edges = np.geomspace(low, high, BINS + 1) if wide else np.histogram_bin_edges(every, BINS)
    with _style():
        figure, axes = _figure(190)
        for (name, values), colour, dash in zip(named.items(), (BLUE, ORANGE), ("-", "--"), strict=False):
            counts = np.histogram(values.clip(edges[0], edges[-1]), edges)[0]  # geomspace may miss its ends by an ulp
            single = len(named) == 1
            axes.stairs(counts, edges, fill=single, color=colour, linestyle=dash, linewidth=1.6, label=name)
        if wide:
            _make_logarithmic(axes)
        if high > DECADES * low:
            axes.xaxis.set_major_locator(LogLocator())
        if len(named) > 1:
            axes.legend()
        axes.set(title=title, xlabel=unit, ylabel="objects")
        middle = ", ".join(f"{name} median {np.median(values):.3g}".strip() for name, values in named.items())
        return Drawing(
            figure, f"{title} of {len(every) // len(named):,} objects: {middle}, {low:.3g} to {high:.3g} {unit}."
        )


def example(picture: Picture, colour: Mapping[str, str]) -> AnnotatedImage:
    """An image with its objects; the largest have the first claim to a name."""
    largest = sorted(picture.row.objects, key=lambda box: -box.area)
    return outlined(picture, [annotated(box, colour.get(box.label, colour_of(0)), box.label) for box in largest])


def annotated(box: Box, colour: str, name: str) -> Outline:
    """An object, its flags in the tooltip, with a broken line where it counts neither way."""
    title = ", ".join([box.label, *(flag for flag in FLAGS if getattr(box, flag))])
    return Outline(box, colour, name, title, broken=box.difficult or box.crowd or box.ignore)


def outlined(picture: Picture, outlines: Sequence[Outline]) -> AnnotatedImage:
    """An image with boxes, largest first, so that small ones lie on top; no name stands where an earlier one does."""
    row = picture.row
    if picture.uri is None:
        return AnnotatedImage(picture, 0, 0, [])
    scale = SIDE / max(picture.width, picture.height)
    width, height = picture.width * scale, picture.height * scale
    if max(row.width, row.height) > LONGEST * min(row.width, row.height):
        return AnnotatedImage(picture, width, height, [])  # of such a long image only the middle is shown
    across, down = width / row.width, height / row.height
    marks, taken = list[DrawnBox](), list[tuple[float, float, float]]()
    for outline in outlines:
        x1, y1, x2, y2 = (side * ratio for side, ratio in zip(outline.box.box, (across, down) * 2, strict=True))
        right = x1 > width / 2  # the name grows towards the middle
        x = min(x2, width - 2) if right else max(x1, 2)
        y = y1 - 4 if y1 > LETTER + 4 else min(y1 + LETTER, height - 3)
        beside = _short(outline.name)
        long = len(beside) * LETTER_WIDTH
        room = (x - long, x, y) if right else (x, x + long, y)
        named = len(taken) < NAMED and bool(beside) and not any(_meet(room, other) for other in taken)
        taken += [room] if named else []
        name, anchor = beside if named else "", "end" if right else "start"
        marks.append(DrawnBox(outline, x1, y1, x2 - x1, y2 - y1, name, x, y, anchor))
    return AnnotatedImage(picture, width, height, sorted(marks, key=lambda mark: -mark.outline.box.area))


def _meet(room: tuple[float, float, float], other: tuple[float, float, float]) -> bool:
    """Whether two names, each from x to x at y, would overlap."""
    return room[0] < other[1] and other[0] < room[1] and abs(room[2] - other[2]) < LETTER
