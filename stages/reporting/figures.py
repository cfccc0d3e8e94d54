"""The figures, each a function from numbers to a drawing, which is an inline SVG on the page and a PNG anywhere else.

On the page colours are CSS variables (light, dark and print), and text stays text: small files, searchable, in the font
of the page. Names are never parsed as mathematics.
"""

import html
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator, PercentFormatter
from PIL import Image

from stages.errors import counted
from stages.reporting.gather import ClassRow
from stages.reporting.predictions import CalibrationBin, Counts
from stages.reporting.rounds import Round
from stages.reporting.words import Bar
from stages.training.history import Epoch

# The light colours of style.css, replaced by its variables on the page.
INK, MUTED, LINE, PAPER = "#1b1f23", "#5c6670", "#dce0e4", "#ffffff"
BLUE, ORANGE, GREEN, RED, GREY = "#0072b2", "#c77f00", "#008a65", "#c65500", "#a3abb3"
VARIABLES = {
    INK: "--ink", MUTED: "--muted", LINE: "--line", PAPER: "--paper",
    BLUE: "--blue", ORANGE: "--orange", GREEN: "--green", RED: "--red", GREY: "--grey",
}  # fmt: skip
STYLE: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "coldcut", "text.parse_math": False, "font.size": 9.5,
    "figure.facecolor": "none", "axes.facecolor": "none", "axes.titlecolor": INK, "axes.labelcolor": MUTED,
    "text.color": INK, "axes.edgecolor": LINE,
    "xtick.color": LINE, "ytick.color": LINE, "xtick.labelcolor": MUTED, "ytick.labelcolor": MUTED,
    "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10.5, "axes.titlelocation": "left",
    "axes.grid": True, "axes.axisbelow": True, "grid.color": LINE, "grid.linewidth": 0.6, "xtick.major.size": 0,
    "ytick.major.size": 0, "legend.frameon": False, "lines.linewidth": 1.8, "axes.formatter.useoffset": False,
}  # fmt: skip
DPI, SHADES = 144, 64  # of PNGs: with so many colours they take a third of the room in git
WIDTH = 340  # points; about the width of a phone, so that text keeps its size there
NAME = 20  # characters of a class name in a figure
SCORES = {  # of which there are curves
    "loss": "Loss",
    "accuracy": "Accuracy",
    "map": "Mean average precision",
    "map_50": "Average precision",
    "mean_iou": "Overlap of boxes",
}
OF_A_CLASS = {"accuracy": "accuracy", "ap_50": "AP", "ap": "AP"}
COLOURED, DASHES = (BLUE, ORANGE, GREEN, RED), ("-", "--", "-.", ":")
COUNTED, TITLED = 40, 60  # classes up to which cells carry their count, and bars their names
MATRIX = 200  # classes of a confusion matrix at most: those with the most mistakes; of 10,000 no PNG can be drawn
TOLD = 1000  # classes up to which each has a point or bar of its own that tells its name
NAMED = 12  # points up to which each carries its name


@dataclass(frozen=True)
class Drawing:
    """A figure.

    Attributes:
        figure: what was drawn.
        alt: what those read who do not see it.
        titles: tooltip of each tagged artist.
        natural: keep it as wide as it is drawn, for a box that scrolls.
        cells: what tagged artists that can be clicked say of themselves.
    """

    figure: Figure
    alt: str
    titles: dict[str, str] = field(default_factory=dict)
    natural: bool = False
    cells: dict[str, str] = field(default_factory=dict)

    def __html__(self) -> str:
        """As Jinja takes it: the SVG, unescaped."""
        return self.svg()

    def svg(self) -> str:
        """An element for a page: no header, metadata or ids, colours as variables, tooltips."""
        stream = io.StringIO()
        self._save(stream, format="svg", metadata={"Date": None})
        text = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", "", stream.getvalue(), flags=re.S)
        text = re.sub("|".join(VARIABLES), lambda match: f"var({VARIABLES[match[0]]})", text)
        text = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--font)", text)
        for tag, title in self.titles.items():
            mark = f' data-cell="{self.cells[tag]}"' if tag in self.cells else ""
            text = text.replace(f'<g id="{tag}">', f"<g{mark}><title>{html.escape(title)}</title>", 1)
        text = re.sub(r'<g id="[^"]*"', "<g", text)
        width, height = (round(72 * inches) for inches in self.figure.get_size_inches())
        style = f' style="min-width:{width}px;max-width:{1.4 * width:.0f}px"' if self.natural else ""
        alt = html.escape(self.alt)
        head = f'<svg class="figure" viewBox="0 0 {width} {height}" role="img" aria-label="{alt}"{style}>'
        return head + re.sub(r"\n\s*", "\n", text.split("<svg", 1)[1].split(">", 1)[1])

    def png(self) -> bytes:
        """An image in the light colours, for slides and code hosts: the same bytes for the same numbers."""
        stream = io.BytesIO()
        self._save(stream, format="png", dpi=DPI, facecolor=PAPER, pil_kwargs={"compress_level": 0})
        small = Image.open(stream).convert("RGB").quantize(SHADES, dither=Image.Dither.NONE)
        stream = io.BytesIO()
        small.save(stream, "PNG")
        return stream.getvalue()

    def _save(self, stream: Any, **how: Any) -> None:
        with _style(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph")  # the browser has a font for what matplotlib has none for
            self.figure.savefig(stream, **how)


def baselines(bars: Sequence[Bar], what: str, interval: tuple[float, float] | None = None) -> Drawing:
    """A score of the head, with its 95% interval where it is known, beside what needs no training."""
    with _style():
        figure, axes = _figure(34 * len(bars) + 42)
        places = np.arange(len(bars))
        colours = [BLUE] + [GREY] * (len(bars) - 1)
        axes.barh(places, [bar.score for bar in bars], 0.36, color=colours)
        texts = [f"{bar.score:.1%}" for bar in bars]
        alt = f"Bars of {what}: " + ", ".join(f"{bar.name} {text}" for bar, text in zip(bars, texts, strict=True))
        if interval:
            axes.plot(interval, [0, 0], color=INK, linewidth=1.4, marker="|", markersize=8)
            low, high = (f"{end:.1%}" for end in interval)
            texts[0] += f"  ({low} – {high})"
            alt += f"; 95% interval of the head {low} to {high}"
        for i, (bar, text) in enumerate(zip(bars, texts, strict=True)):
            axes.text(0, i - 0.3, bar.name, verticalalignment="bottom")
            axes.text(1, i - 0.3, text, horizontalalignment="right", verticalalignment="bottom")
        axes.set(xlim=(0, 1), ylim=(len(bars) - 0.6, -0.75), yticks=[], title=_capital(what))
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        return Drawing(figure, f"{alt}.")


def curves(history: Sequence[Epoch], best: int) -> dict[str, Drawing]:
    """Curves of every score that was kept, then the learning rate; nothing of a head that was solved at once."""
    if len(history) == 1:
        return {}
    scores = [what for what in SCORES if getattr(history[0], f"val_{what}", None) is not None]
    return {what: curve(history, best, what) for what in scores} | {"learning_rate": learning_rate(history)}


def curve(history: Sequence[Epoch], best: int, what: str) -> Drawing:
    """Train, where it is known, and validation score by epoch, the kept epoch marked."""
    title = SCORES[what]
    with _style():
        figure, axes = _figure(210)
        epochs = [epoch.epoch for epoch in history]
        for part, name, colour, dash in (("train", "train", ORANGE, (4, 1.5)), ("val", "validation", BLUE, (1, 0))):
            if getattr(history[0], f"{part}_{what}", None) is not None:
                values = [getattr(epoch, f"{part}_{what}") for epoch in history]
                axes.plot(epochs, values, color=colour, dashes=dash, label=name)
        kept = getattr(history[best - 1], f"val_{what}")
        axes.axvline(best, color=MUTED, linewidth=0.8, dashes=(2, 2))
        axes.plot(
            [best],
            [kept],
            "o",
            color=BLUE,
            label=f"kept: epoch {best}, {kept:.3g}" if what == "loss" else f"kept: epoch {best}, {kept:.1%}",
        )
        axes.set(title=f"{title} by epoch", xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if what == "loss":
            axes.set_ylim(bottom=0)
        else:
            axes.yaxis.set_major_formatter(PercentFormatter(1))
            axes.set_ylim(0, 1.03)
        axes.legend(loc="best")
        return Drawing(figure, f"{title} over {counted(len(history), 'epochs')}; epoch {best} was kept, {kept:.3g}.")


def by_views(points: Sequence[Mapping[str, float]], what: str) -> Drawing:
    """A score when the first so many views of an image are averaged."""
    title = SCORES[what]
    with _style():
        figure, axes = _figure(150)
        counts, scores = [int(point["views"]) for point in points], [point[what] for point in points]
        axes.plot(counts, scores, "o-", color=BLUE)
        axes.set(title=f"{title} and views averaged", xlabel="views", xticks=counts)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
        compared = ", ".join(f"{count}: {score:.1%}" for count, score in zip(counts, scores, strict=True))
        return Drawing(figure, f"{title} by the number of views averaged: {compared}.")


def by_labels(rounds: Sequence[Round]) -> Drawing:
    """Accuracy of each round of labelling against the number of labels in train."""
    with _style():
        figure, axes = _figure(200)
        lines = {
            "test": [(row.labels, row.test_accuracy) for row in rounds if row.test_accuracy is not None],
            "validation": [(row.labels, row.val_accuracy) for row in rounds],
        }
        for (name, points), colour in zip(lines.items(), (BLUE, ORANGE), strict=True):
            if points:
                axes.plot(*zip(*points, strict=True), "o-", color=colour, label=name)
        axes.set(title="Accuracy and labels", xlabel="labelled images in train")
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.legend()
        compared = "; ".join(
            f"{name}: {', '.join(f'{labels:,} labels {score:.1%}' for labels, score in points)}"
            for name, points in lines.items()
            if points
        )
        return Drawing(figure, f"Accuracy by the number of labels. {compared}.")


def trade_off(points: Sequence[tuple[str, float, float]], what: str) -> Drawing:
    """A score against seconds of training.

    Args:
        points: name, seconds and score, the baseline first.
        what: the score.
    """
    with _style():
        figure, axes = _figure(240)
        titles, together = dict[str, str](), dict[tuple[str, float], list[str]]()  # names of points at one place
        for i, (name, seconds, score) in enumerate(points):
            (point,) = axes.plot(seconds, score, "o" if i else "s", color=BLUE if i else ORANGE)
            titles[_tag(point, i)] = f"{name}: {score:.1%} in {seconds:.1f} s"
            if len(points) <= NAMED:
                together.setdefault((f"{seconds:.2g}", score), []).append(_short(name))
        for (place, score), names in together.items():
            axes.annotate(
                ", ".join(names), (float(place), score), xytext=(6, 4), textcoords="offset points", fontsize=8
            )
        times = [seconds for _, seconds, _ in points]
        if max(times) > 8 * min(times):
            _make_logarithmic(axes)
        axes.margins(x=0.25, y=0.2)
        axes.set(title=f"{_capital(what)} and training", xlabel="seconds of training (the square: the baseline)")
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
        compared = ", ".join(titles.values())
        return Drawing(figure, f"{_capital(what)} against seconds of training: {compared}.", titles)


def learning_rate(history: Sequence[Epoch]) -> Drawing:
    """The learning rate by epoch."""
    with _style():
        figure, axes = _figure(100)
        rates = [epoch.lr or 0.0 for epoch in history]
        axes.plot([epoch.epoch for epoch in history], rates, color=GREEN, drawstyle="steps-mid")
        axes.set(title="Learning rate by epoch", xlabel="epoch", ylim=(0, 1.1 * max(rates) or 1))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_yticks([0, max(rates)], ["0", f"{max(rates):g}"])
        return Drawing(figure, f"Learning rate, from {rates[0]:g} in the first epoch to {rates[-1]:g} in the last.")


def range_test(points: Sequence[tuple[float, float, float]], suggested: float | None, chosen: float) -> Drawing:
    """Loss against learning rate, the suggested and the chosen rate marked."""
    with _style():
        figure, axes = _figure(210)
        rates, losses, smoothed = zip(*points, strict=True)
        axes.plot(rates, losses, color=GREY, linewidth=0.8, label="each step")
        axes.plot(rates, smoothed, color=BLUE, label="smoothed")
        axes.axvline(chosen, color=MUTED, linewidth=1, dashes=(2, 2), label=f"chosen: {chosen:g}")
        if suggested:
            height = np.interp(np.log(suggested), np.log(rates), smoothed)
            axes.plot(suggested, height, "v", color=ORANGE, label=f"suggested: {suggested:g}")
        low, high = min(smoothed), smoothed[0]
        axes.set(title="Learning rate range test", xlabel="learning rate", xscale="log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_ylim(low - 0.1 * (high - low), high + 0.6 * (high - low) if high > low else high + 1)
        axes.legend(loc="best")
        compared = f"{suggested:g} suggested" if suggested else "no rate suggested"
        return Drawing(figure, f"Loss while the learning rate grows: {compared}, {chosen:g} chosen.")


def by_number(classes: Sequence[ClassRow], what: str, of: str) -> Drawing:
    """A score of each class against its number of training images or objects, with the trend; two numbers at least.

    Args:
        classes: rows of per_class.csv.
        what: accuracy or ap_50.
        of: images or objects.
    """
    known = [row for row in classes if getattr(row, what) is not None and row.n_train]
    numbers = np.array([row.n_train for row in known], float)
    scores = np.array([getattr(row, what) for row in known], float)
    name = OF_A_CLASS[what]
    with _style():
        figure, axes = _figure(230)
        titles = {}
        if len(known) > TOLD:
            axes.plot(numbers, scores, "o", color=BLUE, alpha=0.3, markersize=3, rasterized=True)
        else:
            for i, (row, number, score) in enumerate(zip(known, numbers, scores, strict=True)):
                (point,) = axes.plot(number, score, "o", color=BLUE, alpha=0.65, markersize=5.5)
                titles[_tag(point, i)] = f"{row.name}: {row.n_train} training {of}, {name} {score:.1%}"
        x = np.log10(numbers)
        slope, start = np.polyfit(x, scores, 1)
        ends = np.array([x.min(), x.max()])
        axes.plot(10**ends, slope * ends + start, color=ORANGE, dashes=(4, 2))
        correlation = float(np.corrcoef(x, scores)[0, 1]) if scores.std() else 0.0
        if numbers.max() > 8 * numbers.min():
            _make_logarithmic(axes)
        axes.set(title=f"{_capital(name)} and training {of}", xlabel=f"training {of} of the class", ylim=(-0.04, 1.04))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        alt = f"{_capital(name)} of each class against its number of training {of}"
        return Drawing(figure, f"{alt}; correlation with the logarithm of the number {correlation:+.2f}.", titles)


def spread(classes: Sequence[ClassRow], what: str) -> Drawing:
    """How many classes have which score: in the place of a trend where all have equally many training images."""
    known = [getattr(row, what) for row in classes if getattr(row, what) is not None]
    name = OF_A_CLASS[what]
    with _style():
        figure, axes = _figure(180)
        middles = np.linspace(0, 1, 11)
        counts, _ = np.histogram(known, np.append(middles, 1.1) - 0.05)
        axes.bar(middles, counts, 0.09, color=BLUE)
        axes.set(title=f"Classes by {name}", xlabel=f"{name} of the class", ylabel="classes", xlim=(-0.06, 1.06))
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.grid(axis="x", visible=False)
        alt = f"Histogram of {name} over {counted(len(known), 'classes')}, from {min(known):.0%} to {max(known):.0%}."
        return Drawing(figure, alt)


def scores_of_classes(classes: Sequence[ClassRow], what: str, of: str) -> Drawing:
    """The score of each class against its number of training images or objects, as far as that differs."""
    numbers = {row.n_train for row in classes if row.n_train and getattr(row, what) is not None}
    return by_number(classes, what, of) if len(numbers) > 1 else spread(classes, what)


def per_class(classes: Sequence[ClassRow], of: str) -> Drawing:
    """Training images or objects of each class, most first; with names where there is room for them."""
    order = sorted(classes, key=lambda row: (-row.n_train, row.name))
    named = len(order) <= TITLED
    with _style():
        figure, axes = _figure(12 * len(order) + 50 if named else 240)
        places, titles = np.arange(len(order)), {}
        if len(order) > TOLD:
            some = np.linspace(0, len(order) - 1, TOLD).round().astype(int)
            axes.fill_between(places[some], [order[place].n_train for place in some], color=BLUE, linewidth=0)
        else:
            draw = axes.barh if named else axes.bar
            for i, bar in enumerate(draw(places, [row.n_train for row in order], 0.72, color=BLUE)):
                titles[_tag(bar, i)] = f"{order[i].name}: {order[i].n_train} training {of}"
        if named:
            axes.set_yticks(places, [_short(row.name) for row in order], fontsize=8.5)
            axes.set(ylim=(len(order) - 0.4, -0.6), xlabel=f"training {of}")
            axes.grid(axis="y", visible=False)
        else:
            axes.set(xticks=[], xlim=(-1, len(order)), xlabel="classes, largest first", ylabel=f"training {of}")
        axes.set_title(f"Training {of} per class")
        spread = f"from {order[-1].n_train} to {order[0].n_train}"
        return Drawing(figure, f"Bars of training {of} for {counted(len(order), 'classes')}, {spread}.", titles)


def precision_recall(curves: Mapping[str, Sequence[tuple[float, float]]], *, of: str = "objects") -> Drawing:
    """The best precision at each recall or more of each class: a few by colour, many thin; the mean of them bold.

    Args:
        curves: pairs of recall and precision of each class.
        of: objects, which boxes find, or images, which have labels.
    """
    shares = ("objects found", "boxes right") if of == "objects" else ("images found", "images said right")
    few, grid, titles = len(curves) <= len(COLOURED), np.linspace(0, 1, 101), {}
    with _style():
        figure, axes = _figure(260)
        best = []
        for i, (name, points) in enumerate(curves.items()):
            recall, precision = np.array([(0, 0), *points]).T
            highest = np.maximum.accumulate(precision[::-1])[::-1]  # at this recall or more
            colour, dash = (COLOURED[i], DASHES[i]) if few else (GREY, "-")
            width, label = (1.5, _short(name)) if few else (0.7, None)
            (line,) = axes.step(recall, highest, color=colour, linestyle=dash, linewidth=width, label=label)
            titles[_tag(line, i)] = name
            best.append(np.append(highest, 0)[np.searchsorted(recall, grid)])
        if len(curves) > 1:
            axes.plot(grid, np.mean(best, 0), color=INK if few else BLUE, linewidth=2.4, label="mean of the classes")
        axes.set(title="Precision and recall", xlim=(-0.02, 1.02), ylim=(-0.02, 1.04))
        axes.set(xlabel=f"recall: share of the {shares[0]}", ylabel=f"precision: share of the {shares[1]}")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1))
        axes.legend(loc="best")
        overlap = ", at an overlap of one half" if of == "objects" else ""
        return Drawing(figure, f"Precision against recall of {counted(len(curves), 'classes')}{overlap}.", titles)


def recall_by_size(groups: Sequence[Mapping[str, float]]) -> Drawing:
    """The share of objects that are found, in groups of equal numbers by size."""
    with _style():
        figure, axes = _figure(200)
        places, recalls, titles = range(len(groups)), [group["recall"] for group in groups], {}
        ends = [(f"{group['from']:.0f}", f"{group['to']:.0f}") for group in groups]
        names = [low if low == high else f"{low}–{high}" for low, high in ends]
        for i, bar in enumerate(axes.bar(places, recalls, 0.8, color=BLUE)):
            titles[_tag(bar, i)] = f"{counted(int(groups[i]['objects']), 'objects')} of {names[i]} pixels"
            axes.text(i, recalls[i] + 0.02, f"{recalls[i]:.0%}", ha="center")
        axes.set(
            title="Objects found by any box, by their size",
            xlabel="side in pixels: the root of the area",
            ylim=(0, 1.12),
        )
        axes.set_xticks(places, names)
        axes.set_yticks(np.linspace(0, 1, 5))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.grid(axis="x", visible=False)
        compared = ", ".join(f"{name}: {recall:.0%}" for name, recall in zip(names, recalls, strict=True))
        return Drawing(figure, f"Share of objects found by any box, by their side in pixels: {compared}.", titles)


def overlaps(values: Sequence[float], typical: float | None) -> Drawing:
    """How many boxes overlap how much with what they should be, and the mean overlap of the typical box."""
    with _style():
        figure, axes = _figure(190)
        counts, edges = np.histogram(values, np.linspace(0, 1, 21))
        axes.stairs(counts, edges, fill=True, color=BLUE)
        axes.axvline(0.5, color=GREEN, linewidth=1, dashes=(1, 1.5), label="counts as found")
        if typical is not None:
            axes.axvline(typical, color=ORANGE, linewidth=1.4, dashes=(4, 2), label="the typical box")
        axes.set(title="Overlap with the largest object", xlabel="IoU", ylabel="images", xlim=(0, 1))
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.legend(loc="best")
        return Drawing(
            figure, f"Distribution of overlap over {counted(len(values), 'images')}, {np.mean(values):.2f} on average."
        )


def confusion(counts: Counts, names: Sequence[str], *, several: bool = False) -> Drawing:
    """The confusion matrix: right answers in blue, mistakes in vermilion, the stronger the larger share of the row.

    Of more than MATRIX classes it shows those with the most mistakes.

    Args:
        counts: images of each pair of an actual class and a predicted one.
        names: of all C classes.
        several: of images with several labels: a mistake is a label missed where another one is added.
    """
    labels = counts.most_mistaken(MATRIX)
    classes = len(labels)
    cell = 36 if classes <= 10 else 17 if classes <= COUNTED else 9
    font = min(9.0, 0.75 * cell)
    margin = 0.56 * font * min(NAME, max(len(names[label]) for label in labels)) + 28
    size = classes * cell + margin + 8
    shown = [_short(names[label]) for label in labels]
    with _style():
        figure = Figure(figsize=(size / 72, size / 72))
        axes = figure.add_axes((margin / size, 8 / size, classes * cell / size, classes * cell / size))
        titles, cells = _cells(axes, counts, labels, names, cell, several=several)
        axes.set(xlim=(-0.5, classes - 0.5), ylim=(classes - 0.5, -0.5))
        axes.set(xlabel="added" if several else "predicted", ylabel="missed" if several else "actual")
        outside = (margin - 9) / (classes * cell)
        axes.xaxis.set_label_coords(0.5, 1 + outside)
        axes.yaxis.set_label_coords(-outside, 0.5)
        axes.set_xticks(range(classes), shown, rotation=90, fontsize=font)
        axes.set_yticks(range(classes), shown, fontsize=font)
        axes.tick_params(labeltop=True, labelbottom=False, labelcolor=INK)
        axes.grid(linewidth=0.4)
        right, images = counts.right, counted(int(counts.images.sum()), "images lie")
        alt = f"Confusion matrix of {counted(len(names), 'classes')}: {right} of {images} on the diagonal."
        if several:
            what = f"Labels missed and added together, of {counted(len(names), 'classes')}"
            alt = f"{what}; {right:,} hits on the diagonal."
        if classes < len(names):
            alt += f" Drawn: the {classes} classes with the most mistakes."
        return Drawing(figure, alt, titles, natural=True, cells=cells)


def _cells(
    axes: Axes, counts: Counts, labels: Sequence[int], names: Sequence[str], cell: float, *, several: bool
) -> tuple[dict[str, str], dict[str, str]]:
    """Draws every cell that holds anything; returns the tooltips, and the classes of each: `actual,predicted`.

    Args:
        axes: where rows and columns are those of `labels`.
        counts: of all pairs of classes.
        labels: the classes that are shown.
        names: of all classes.
        cell: its side in points.
        several: see `confusion`.
    """
    totals, place_of = counts.totals, {label: place for place, label in enumerate(labels)}
    titles, cells = {}, {}
    among = [pair for pair in counts.pairs() if pair[0] in place_of and pair[1] in place_of]
    for i, (actual, predicted, count) in enumerate(among):
        row, column = place_of[actual], place_of[predicted]
        share, colour = count / totals[actual], BLUE if row == column else RED
        box = Rectangle((column - 0.5, row - 0.5), 1, 1, color=colour, alpha=0.18 + 0.72 * share, linewidth=0)
        axes.add_patch(box)
        what = "recognised" if row == column else f"taken for {names[predicted]}"
        tag = _tag(box, i)
        titles[tag] = f"{names[actual]} {what}: {count} of {totals[actual]}"
        if several:
            what = "recognised" if row == column else f"missed, {names[predicted]} added"
            titles[tag] = f"{names[actual]} {what}: {counted(count, 'images')}"
        cells[tag] = f"{actual},{predicted}"
        if len(labels) <= COUNTED:
            ink, font = PAPER if share > 0.5 else INK, min(12.0, 0.55 * cell)
            axes.text(column, row, str(count), fontsize=font, color=ink, ha="center", va="center_baseline")
    return titles, cells


def reliability(bins: Sequence[CalibrationBin], threshold: float | None) -> Drawing:
    """Accuracy against confidence, and below it how many images each bin holds.

    Args:
        bins: of the diagram.
        threshold: of a confident prediction; None for several labels, of which each has its own.
    """
    of, share = ("labels", "share that is there") if threshold is None else ("images", "accuracy")
    what = "probability" if threshold is None else "confidence"
    with _style():
        figure = Figure(figsize=(WIDTH / 72, 300 / 72), layout="constrained")
        top, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        x, y = [row.confidence for row in bins], [row.accuracy for row in bins]
        top.plot([0, 1], [0, 1], color=MUTED, linewidth=1, dashes=(3, 2))
        top.vlines(x, y, x, color=RED, linewidth=1.2, alpha=0.7)
        top.plot(x, y, color=BLUE, marker="o", markersize=4.5)
        top.set(title=_capital(f"{share} by {what}"), ylim=(-0.03, 1.03), ylabel=share)
        top.yaxis.set_major_formatter(PercentFormatter(1))
        titles, bars = {}, below.bar(x, [row.count for row in bins], 0.05, color=BLUE)
        for i, (row, bar) in enumerate(zip(bins, bars, strict=True)):
            title = f"{counted(row.count, of)}: {what} {row.confidence:.1%}, {share} {row.accuracy:.1%}"
            titles[_tag(bar, i)] = title
        for axes in (top, below) if threshold is not None else ():
            axes.axvline(threshold, color=GREEN, linewidth=1, dashes=(1, 1.5))
        dotted = "" if threshold is None else " (dotted: the threshold)"
        below.set(xlabel=f"{what}{dotted}", ylabel=of, xlim=(-0.02, 1.02))
        below.xaxis.set_major_formatter(PercentFormatter(1))
        below.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        return Drawing(figure, f"Reliability diagram of {len(bins)} bins; on the diagonal {what} is {share}.", titles)


def sizes(widths: Sequence[int], heights: Sequence[int]) -> Drawing:
    """Distribution of widths and heights in pixels."""
    both = np.array([widths, heights])
    low, high = both.min(), both.max()
    edges = np.geomspace(low, high + 1, 33) if high > 8 * low else np.linspace(low, high + 1, 33)
    with _style():
        figure, axes = _figure(190)
        for values, name, colour, dash in ((widths, "width", BLUE, "-"), (heights, "height", ORANGE, "--")):
            axes.stairs(np.histogram(values, edges)[0], edges, color=colour, linestyle=dash, linewidth=1.6, label=name)
        if high > 8 * low:
            _make_logarithmic(axes)
        axes.set(title="Width and height", xlabel="pixels", ylabel="images")
        axes.legend()
        return Drawing(
            figure, f"Distribution of widths and heights of {counted(len(widths), 'images')}, {low} to {high} pixels."
        )


def _style() -> AbstractContextManager[None]:
    context: AbstractContextManager[None] = mpl.rc_context(STYLE)
    return context


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH / 72, height / 72), layout="constrained")
    return figure, figure.subplots()


def _make_logarithmic(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()


def _short(name: str) -> str:
    """A class name on one line, its end cut off where it is long."""
    name = "".join(letter if letter.isprintable() else " " for letter in name)
    return name if len(name) <= NAME else name[: NAME - 1] + "…"


def _capital(name: str) -> str:
    if name.startswith("mAP"):
        return name
    return name[:1].upper() + name[1:]


def _tag(artist: Any, i: int) -> str:
    """Marks what gets a tooltip."""
    tag = f"tooltip-{i}"
    artist.set_gid(tag)
    return tag
