"""From a run to the text of the page and of the markdown. Names of classes and files are hostile until escaped."""

import base64
import hashlib
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from stages.datasets.listing import Row
from stages.reporting import boxes, choose, command, figures, words
from stages.reporting.gather import Run
from stages.reporting.pictures import Album, Picture

TEMPLATES = Path(__file__).parent / "templates"
SHOWN = 6  # images of each kind: right, wrong, uncertain
TOP = 5  # classes listed under an image
WEAKEST, MEMBERS = 3, 8  # classes in the gallery of the weakest, and images of each
PAIRS = 10  # most confused pairs
SAMPLES = 24  # training images
LISTED = 200  # duplicates, bad images and others: the page lists no more of each
MARKDOWN = re.compile(r"[\\`*\[\]|~$]|(?<![A-Za-z0-9])[_#]|_(?![A-Za-z0-9])")  # a_b is no emphasis


@dataclass(frozen=True)
class Guess:
    """One of the most probable classes of an image."""

    name: str
    probability: float
    actual: bool


@dataclass(frozen=True)
class Shown:
    """A judged image as the page shows it."""

    picture: Picture
    actual: str
    predicted: str
    top: list[Guess]

    @property
    def right(self) -> bool:
        """Whether the predicted class is the actual one."""
        return self.actual == self.predicted


def html(run: Run, album: Album) -> str:
    """The page: one file, nothing loaded from anywhere."""
    script = (TEMPLATES / "script.js.j2").read_text(encoding="utf-8")
    objects = boxes.explore(run, album, trained(run))
    context = {
        "figures": drawn(run),
        "objects": objects,
        "examples": examples(run, album),
        "weakest": [(row, members(run, album, row.name)) for row in choose.weakest(run, WEAKEST)],
        "pictures": [album.picture(run.judged.rows[pair.example]) for pair in confused(run)],
        "samples": [album.picture(row) for row in choose.samples(trained(run), 0 if objects else SAMPLES)],
        "views": album.views(trained(run)[0], run.head["features"]) if len(run.views) > 1 else [],
        "mean_sizes": mean_sizes(run.rows),
        "duplicates": [f"{pair['path']} is {pair['of']}{across(pair)}" for pair in run.index["duplicates"]],
        "bad": [f"{image['path']}: {image['reason']}" for image in run.bad],
        "others": run.index["not_images"],
        "broken": [f"{item['path']}: {item['reason']}" for item in run.index["broken_annotations"]],
        "missing": [f"{path}: {why}" for path, why in album.missing.items()],  # last: it is known by now
        "album": album,
        "style": Markup((TEMPLATES / "style.css.j2").read_text(encoding="utf-8")),
        "script": Markup(script),
        "script_sha256": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "listed": LISTED,
    }
    return _environment(escape=True).get_template("page.html.j2").render(common(run) | context)


def markdown(run: Run) -> str:
    """The same in text: no picture, time or path of this machine, so that it changes only when the result does."""
    return _environment(escape=False).get_template("page.md.j2").render(common(run))


def common(run: Run) -> dict[str, Any]:
    """What both templates show."""
    return {
        "run": run,
        "words": words,
        "pairs": confused(run),
        "provenance": provenance(run),
        "command": command.shell(run),
    }


def drawn(run: Run) -> dict[str, Markup]:
    """The figures that this run has data for, by name."""
    low, high = run.score("top1_low"), run.score("top1_high")
    found = {"baselines": figures.baselines(words.baselines(run), low, high)}
    if len(run.history) > 1:
        best = run.head["best_epoch"]
        found |= {what: figures.curve(run.history, best, what) for what in ("loss", "accuracy")}
        found["learning_rate"] = figures.learning_rate(run.history)
    if run.suggested:
        found["range_test"] = figures.range_test(run.rates, run.suggested, run.head["params"]["lr"])
    if len({row.n_train for row in run.classes if row.n_train and row.accuracy is not None}) > 1:
        found["by_accuracy"] = figures.accuracy_by_images(run.classes)
    else:
        found["by_accuracy"] = figures.accuracies(run.classes)
    if len({row.n_train for row in run.classes}) > 1:
        found["per_class"] = figures.images_per_class(run.classes)
    found["confusion"] = figures.confusion(run.judged.confusion(), run.head["classes"])
    if len(run.views) > 1:
        found["by_views"] = figures.accuracy_by_views(run.views)
    found["reliability"] = figures.reliability(run.bins, run.decide["confidence"])
    widths, heights = [row.width for row in run.rows], [row.height for row in run.rows]
    if len({*widths}) > 1 or len({*heights}) > 1:
        found["sizes"] = figures.sizes(widths, heights)
    return {name: Markup(figure) for name, figure in found.items()}


def examples(run: Run, album: Album) -> list[tuple[str, str, list[Shown]]]:
    """Title, remark and images of each kind that has any."""
    judged = run.judged
    kinds = (
        ("Right", "from the surest to the least sure", choose.right(judged, SHOWN)),
        ("Wrong", "the surest mistakes", choose.wrong(judged, SHOWN)),
        ("Least certain", "probability spread over many classes", choose.uncertain(judged, SHOWN)),
    )
    return [(title, text, [shown(run, album, place) for place in places]) for title, text, places in kinds if places]


def shown(run: Run, album: Album, place: int) -> Shown:
    """A judged image by its position."""
    names, judged = run.head["classes"], run.judged
    probabilities, label = judged.probabilities[place], int(judged.labels[place])
    order = (-probabilities).argsort(kind="stable")[:TOP]
    top = [Guess(names[number], float(probabilities[number]), int(number) == label) for number in order]
    return Shown(album.picture(judged.rows[place]), names[label], names[judged.chosen[place]], top)


def members(run: Run, album: Album, name: str) -> list[Shown]:
    """Images of a class, mistakes first."""
    number = run.head["classes"].index(name)
    return [shown(run, album, place) for place in choose.members(run.judged, number, MEMBERS)]


def confused(run: Run) -> list[choose.Confused]:
    """The most confused pairs."""
    return choose.confused(run.judged, run.head["classes"], PAIRS)


def trained(run: Run) -> list[Row]:
    """The images of train; those that cannot be decoded never train."""
    lost = {image["path"] for image in run.undecodable}
    return [row for row in run.rows_of("train") if row.path not in lost]


def mean_sizes(rows: Sequence[Row]) -> dict[str, tuple[float, float]]:
    """Mean width and height of each class in pixels; nothing where all images have one size."""
    if len({(row.width, row.height) for row in rows}) == 1:
        return {}
    sizes = defaultdict[str, list[tuple[int, int]]](list)
    for row in rows:
        sizes[row.label].append((row.width, row.height))
    return {
        label: (sum(w for w, _ in found) / len(found), sum(h for _, h in found) / len(found))
        for label, found in sorted(sizes.items())
    }


def across(pair: Mapping[str, str]) -> str:
    """The lists that a duplicate would have leaked between."""
    return f" (across lists: {pair['lists']})" if "lists" in pair else ""


def provenance(run: Run) -> list[tuple[str, str]]:
    """Where features and head come from, by the names they were recorded under."""
    features = dict(run.head["features"])
    versions, views, joined = features.pop("versions"), features.pop("views"), features.pop("joined", [])
    features["views"] = len(views)
    if len(views) > 1:
        features["drawn views"] = views[1].rpartition("|")[0]
    rows = [("split", run.split["source"])]
    rows += [(name.replace("_", " "), words.value(found)) for name, found in features.items()]
    for part in joined:
        own = {name: found for name, found in part.items() if features.get(name, versions) != found and name != "views"}
        rows += [(f"{part['backbone']}: {name.replace('_', ' ')}", words.value(found)) for name, found in own.items()]
    rows += [(f"{name} version", words.value(found)) for name, found in versions.items()]
    rows += [(f"head: {name}", words.value(found)) for name, found in run.head["notes"].items()]
    baseline = run.ridge["notes"] if run.head["head"] != "ridge" else {}
    return rows + [(f"ridge baseline: {name}", words.value(found)) for name, found in baseline.items()]


def escaped(value: object) -> str:
    """Text for a cell of a markdown table: one line, no markup, no HTML."""
    text = "".join(letter if letter.isprintable() else " " for letter in str(value))
    text = MARKDOWN.sub(lambda match: "\\" + match[0], text.replace("&", "&amp;"))
    return text.replace("<", "&lt;").replace(">", "&gt;")


def fence(text: str) -> str:
    """Backticks that `text` does not hold."""
    return "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))


def percent(value: float | None) -> str:
    """A share; a dash where there is none."""
    return "–" if value is None else f"{value:.1%}"


def number(value: float | None, digits: int = 0) -> str:
    """With commas between thousands; a dash where there is none."""
    return "–" if value is None else f"{value:,.{digits}f}"


def _environment(*, escape: bool) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=escape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"md": escaped, "fence": fence, "percent": percent, "number": number}
    return environment
