"""The objects of a dataset: how many of each class, how large, and examples with their boxes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.ticker import LogLocator, MaxNLocator

from stages.datasets.base import Box
from stages.datasets.index_file import FLAGS, IndexRow
from stages.errors import counted
from stages.images.colours import colour_of
from stages.reporting import choose
from stages.reporting.figures import BLUE, ORANGE, TITLED, Drawing, _figure, _make_logarithmic, _short, _style, _tag
from stages.reporting.gather import RunResults
from stages.reporting.pictures import LONGEST, SIDE, Album, Picture

EXAMPLES = 12  # annotated images that the page shows
NAMED = 15  # boxes of an image that carry a name, at most
LETTER, LETTER_WIDTH = 14, 8  # the height of a name on a canvas, and about the width of its letters
LISTS = ("train", "val", "test", "all")
BINS = 32
DECADES = 500  # highest to lowest, above which an axis has room for powers of ten alone
Counted = Mapping[str, Mapping[str, Mapping[str, int]]]  # list -> class -> `objects`, and how many are `difficult`


@dataclass(frozen=True)
class ObjectCount:
    """Numbers of objects of a class.

    Attributes:
        name: the class.
        of_list: in each list of the dataset.
        objects: in all lists.
        difficult: how many of these are difficult.
    """

    name: str
    of_list: tuple[int, ...]
    objects: int
    difficult: int


@dataclass(frozen=True)
class Outline:
    """A box to be drawn.

    It is shown at thresholds on the confidence above `above` and up to `upto`.

    Attributes:
        box: where.
        colour: of its line.
        name: what stands next to it; empty for nothing.
        title: its tooltip.
        broken: whether its line is.
        above, upto: the thresholds at which it is shown.
    """

    box: Box
    colour: str
    name: str
    title: str
    broken: bool = False
    above: float = -1.0
    upto: float = 1.0

    def is_shown(self, threshold: float) -> bool:
        """Whether it is shown at a threshold."""
        return self.above < threshold <= self.upto


@dataclass(frozen=True)
class DrawnBox:
    """An outline on a canvas, in its units, and where its name stands; no name where there is no room for it."""

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
    """An image with its boxes on a canvas whose longer side is SIDE, so that names have the same size on all images."""

    picture: Picture
    width: float
    height: float
    marks: list[DrawnBox]


@dataclass(frozen=True)
class ObjectStatistics:
    """What the page shows of the objects of a dataset.

    Attributes:
        lists: the lists of the dataset, or `all`.
        counts: of each class, sorted by name.
        sentences: how many objects there are.
        examples: annotated images.
    """

    lists: tuple[str, ...]
    counts: list[ObjectCount]
    sentences: str
    examples: list[AnnotatedImage]


def explore(run: RunResults, album: Album, rows: Sequence[IndexRow]) -> ObjectStatistics | None:
    """The objects of a run's dataset, with examples from `rows`; None where it has no objects."""
    if not any(row.objects for row in run.rows):
        return None
    annotated = run.index["objects"]
    lists = tuple(name for name in LISTS if name in annotated)
    counts = count(annotated, lists)
    colour = {row.name: colour_of(i) for i, row in enumerate(counts)}
    chosen = choose.samples([row for row in rows if row.objects], EXAMPLES) if album.folder else []
    return ObjectStatistics(
        lists,
        counts,
        sentences(annotated, lists, run.rows),
        examples=[example(album.picture(row), colour) for row in chosen],
    )


def drawings(run: RunResults) -> dict[str, Drawing]:
    """The figures of the objects of a run's dataset, by name; none where it has no objects."""
    annotated_rows = [row for row in run.rows if row.objects]
    if not annotated_rows:
        return {}
    annotated = run.index["objects"]
    first = next(name for name in LISTS if name in annotated)
    boxes = np.array([box.box for row in annotated_rows for box in row.objects], float)
    size = np.array([(row.width, row.height) for row in annotated_rows for _ in row.objects], float)
    sides = boxes[:, 2:] - boxes[:, :2]
    return {
        "classes": per_class(annotated[first], first),
        "an_image": an_image([len(row.objects) for row in run.rows]),
        "sides": spread("Width and height of boxes", "pixels", {"width": sides[:, 0], "height": sides[:, 1]}),
        "areas": spread("Share of the image", "% of the image's area", {"": 100 * sides.prod(1) / size.prod(1)}),
        "ratios": spread("Width to height", "width / height", {"": sides[:, 0] / sides[:, 1]}),
    }


def sentences(annotated: Counted, lists: Sequence[str], rows: Sequence[IndexRow]) -> str:
    """How many objects are annotated and how many are used."""
    texts = []
    for name in lists:
        objects, difficult = (
            sum(counts[kind] for counts in annotated[name].values()) for kind in ("objects", "difficult")
        )
        texts.append(counted(objects, "objects") + (f" ({difficult:,} difficult)" if difficult else "") + f" in {name}")
    used, empty = sum(len(row.objects) for row in rows), sum(not row.objects for row in rows)
    without = f"; {counted(empty, 'images have')} none" if empty else ""
    return (
        f"Annotated: {', '.join(texts)}. Used, without duplicates and broken annotations: {counted(used, 'objects')} "
        f"in {counted(len(rows) - empty, 'images')}{without}."
    )


def count(annotated: Counted, lists: Sequence[str]) -> list[ObjectCount]:
    """The objects of each class, as the index counted them."""
    none = {"objects": 0, "difficult": 0}
    counts = []
    for name in sorted({name for counts_of in annotated.values() for name in counts_of}):
        of_list = [annotated[item].get(name, none) for item in lists]
        numbers = tuple(numbers_of["objects"] for numbers_of in of_list)
        difficult = sum(numbers_of["difficult"] for numbers_of in of_list)
        counts.append(ObjectCount(name, numbers, sum(numbers), difficult))
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
            _tag(bar, i): f"{name}: {counted(all_of[i], 'objects')}, {hard[i]:,} of them difficult"
            for i, (name, bar) in enumerate(zip(order, plain, strict=True))
        }
        if named:
            axes.set_yticks(places, [_short(name) for name in order], fontsize=8.5)
            axes.set(ylim=(len(order) - 0.4, -0.6), xlabel="objects")
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axes.grid(axis="y", visible=False)
        else:
            axes.set(xticks=[], xlim=(-1, len(order)), xlabel="classes, most objects first", ylabel="objects")
        axes.set_title(f"Objects per class, {part}" if part != "all" else "Objects per class")
        alt = f"Bars of objects of {counted(len(order), 'classes')}, {all_of.sum():,} in all, {hard.sum():,} difficult."
        return Drawing(figure, alt, titles)


def an_image(numbers: Sequence[int]) -> Drawing:
    """How many images have how many objects."""
    most = max(numbers)
    step = most // BINS + 1
    edges = np.arange(0, most + step + 1, step) - 0.5
    with _style():
        figure, axes = _figure(190)
        axes.stairs(np.histogram(numbers, edges)[0], edges, fill=True, color=BLUE)
        axes.set(title="Objects per image", xlabel="objects", ylabel="images")
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        return Drawing(
            figure,
            f"Distribution of objects over {counted(len(numbers), 'images')}: {np.mean(numbers):.1f} on average.",
        )


def spread(title: str, unit: str, named: Mapping[str, npt.NDArray[np.float64]]) -> Drawing:
    """One or two distributions of positive numbers, on a logarithmic axis where they span much.

    Args:
        title: of the figure.
        unit: of the numbers.
        named: name -> numbers.
    """
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
        middle = ", ".join(f"{name} median {_digits(np.median(values))}".strip() for name, values in named.items())
        ends = f"{_digits(low)} to {_digits(high)} {unit}"
        return Drawing(figure, f"{title} of {counted(len(every) // len(named), 'objects')}: {middle}, {ends}.")


def _digits(value: float) -> str:
    """A positive number in three digits, or as many as it has before its point."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def example(picture: Picture, colour: Mapping[str, str]) -> AnnotatedImage:
    """An image with its objects; the largest get their names first."""
    largest = sorted(picture.row.objects, key=lambda box: -box.area)
    return outlined(picture, [annotated(box, colour.get(box.label, colour_of(0)), box.label) for box in largest])


def annotated(box: Box, colour: str, name: str) -> Outline:
    """An object, its flags in the tooltip, with a broken line where it counts neither way."""
    title = ", ".join([box.label, *(flag for flag in FLAGS if getattr(box, flag))])
    return Outline(box, colour, name, title, broken=box.difficult or box.crowd or box.ignore)


def outlined(picture: Picture, outlines: Sequence[Outline]) -> AnnotatedImage:
    """An image with boxes, small ones on top; a name is left out where it would lie on an earlier one."""
    row = picture.row
    if picture.uri is None:
        return AnnotatedImage(picture, 0, 0, [])
    scale = SIDE / max(picture.width, picture.height)
    width, height = picture.width * scale, picture.height * scale
    if max(row.width, row.height) > LONGEST * min(row.width, row.height):
        return AnnotatedImage(picture, width, height, [])  # only the middle of such a long image is shown
    across, down = width / row.width, height / row.height
    marks, taken = list[DrawnBox](), list[tuple[float, float, float]]()
    for outline in outlines:
        x1, y1, x2, y2 = (side * ratio for side, ratio in zip(outline.box.box, (across, down) * 2, strict=True))
        right = x1 > width / 2  # the name grows towards the middle
        x = min(x2, width - 2) if right else max(x1, 2)
        y = y1 - 4 if y1 > LETTER + 4 else min(y1 + LETTER, height - 3)
        text = _short(outline.name)
        length = len(text) * LETTER_WIDTH
        room = (x - length, x, y) if right else (x, x + length, y)
        named = len(taken) < NAMED and bool(text) and not any(_overlap(room, other) for other in taken)
        taken += [room] if named else []
        name, anchor = text if named else "", "end" if right else "start"
        marks.append(DrawnBox(outline, x1, y1, x2 - x1, y2 - y1, name, x, y, anchor))
    return AnnotatedImage(picture, width, height, sorted(marks, key=lambda mark: -mark.outline.box.area))


def _overlap(room: tuple[float, float, float], other: tuple[float, float, float]) -> bool:
    """Whether two names, each (left, right, y), would overlap."""
    return room[0] < other[1] and other[0] < room[1] and abs(room[2] - other[2]) < LETTER
