"""From a run to the text of the page and of the markdown. Names of classes and files are hostile until escaped."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from stages.datasets.index_file import IndexRow
from stages.metrics.table import METRICS
from stages.reporting import choose, classification, command, detection, figures, largest, objects, rendering, words
from stages.reporting.figures import Drawing
from stages.reporting.gather import RunResults
from stages.reporting.pictures import Album

SAMPLES = 24  # training images
GROUPS = ("baselines", "curves", "by_views")  # of figures that stand together, by how their names begin
FIGURE = "report-{}.png"  # files of figures by their names: the folder holds others too


class TaskPage(Protocol):
    """What is said and shown of a head, as each task has it.

    Attributes:
        template: the names of its templates.
    """

    template: str

    @property
    def sections(self) -> tuple[str, ...]:
        """Their headings."""

    def summary(self) -> words.Summary:
        """The headline."""

    def text(self) -> dict[str, Any]:
        """What page and markdown show besides."""

    def notes(self) -> list[tuple[str, object]]:
        """Rows of the provenance."""

    def figures(self) -> dict[str, Drawing]:
        """The figures that this run has data for, by name."""

    def details(self, album: Album) -> dict[str, Any]:
        """What the page alone shows."""


def of(run: RunResults) -> TaskPage:
    """The page of the task that a head is for."""
    tasks: dict[str, Callable[[RunResults], TaskPage]] = {
        "classification": classification.ClassificationPage,
        "detection": detection.DetectionPage,
        "largest": largest.LargestPage,
    }
    return tasks[run.metrics["task"]](run)


def html(run: RunResults, album: Album, drawn: Mapping[str, Drawing]) -> str:
    """The page: one file, nothing loaded from anywhere; `drawn` is what `drawings` gave."""
    task, viewed = of(run), len(run.views) > 1
    exploration = objects.explore(run, album, trained(run))
    behind = {"Views": viewed, "Objects": exploration is not None, "Data": True, "Provenance": True}
    context = {
        "contents": ["Training", *task.sections, *(name for name, there in behind.items() if there)],
        "figures": drawn,
        **{group: [drawn[name] for name in drawn if name.startswith(group)] for group in GROUPS},
        "objects": exploration,
        "samples": [album.picture(row) for row in choose.samples(trained(run), 0 if exploration else SAMPLES)],
        "views": album.views(trained(run)[0], run.head["features"]) if viewed else [],
        "mean_sizes": mean_sizes(run.rows),
        "duplicates": [f"{pair['path']} is {pair['of']}{across(pair)}" for pair in run.index["duplicates"]],
        "bad": [f"{image['path']}: {image['reason']}" for image in run.bad],
        "others": run.index["not_images"],
        **data_lists(run.index),
        "broken": [f"{item['path']}: {item['reason']}" for item in run.index["broken_annotations"]],
        **task.details(album),
        "missing": [f"{path}: {why}" for path, why in album.missing.items()],  # last: it is known by now
        "album": album,
        "listed": rendering.LISTED,
        **rendering.shell(),
    }
    template = rendering.environment(escape=True).get_template(f"{task.template}.html.j2")
    return template.render(common(run, task) | context)


def pngs(drawn: Mapping[str, Drawing]) -> dict[str, bytes]:
    """The figures as the text refers to them, by their file names."""
    return {FIGURE.format(name): figure.png() for name, figure in drawn.items()}


def markdown(run: RunResults, drawn: Mapping[str, Drawing]) -> str:
    """The same in text: no picture, time or path of this machine, so that it changes only when the result does."""
    task = of(run)
    template = rendering.environment(escape=False).get_template(f"{task.template}.md.j2")
    return template.render(common(run, task) | {"drawn": {FIGURE.format(name): one for name, one in drawn.items()}})


def common(run: RunResults, task: TaskPage) -> dict[str, Any]:
    """What both templates show."""
    summary = task.summary()
    return {
        "run": run,
        "m": run.metrics,
        "words": words,
        "metrics": METRICS,
        "summary": summary._replace(answer=summary.answer[:1].upper() + summary.answer[1:]),
        "provenance": provenance(run, task),
        "command": command.shell(run),
        **task.text(),
    }


def drawings(run: RunResults) -> dict[str, Drawing]:
    """Every figure that a run has data for, by name."""
    task = of(run)
    found = {f"curves_{what}": figure for what, figure in figures.curves(run.history, run.head["best_epoch"]).items()}
    found |= task.figures()
    if len(run.views) > 1:
        found |= {f"by_views_{what}": figures.by_views(run.views, what) for what in run.views[0] if what != "views"}
    if run.suggested:
        found["range_test"] = figures.range_test(run.rates, run.suggested, run.head["params"]["lr"])
    widths, heights = [row.width for row in run.rows], [row.height for row in run.rows]
    if len({*widths}) > 1 or len({*heights}) > 1:
        found["sizes"] = figures.sizes(widths, heights)
    return found | {f"objects_{name}": figure for name, figure in objects.drawings(run).items()}


def trained(run: RunResults) -> list[IndexRow]:
    """The images of train; those that cannot be decoded never train."""
    lost = {image["path"] for image in run.undecodable}
    return [row for row in run.rows_of("train") if row.path not in lost]


def mean_sizes(rows: Sequence[IndexRow]) -> dict[str, tuple[float, float]]:
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


def data_lists(index: Mapping[str, Any]) -> dict[str, list[str]]:
    """What of the data is not used, or counts once, as lists of lines."""
    conflicts = (
        " = ".join(f"{copy['path']} ({', '.join(copy['labels'])})" for copy in copies)
        for copies in index.get("conflicts", ())
    )
    repeated = (f"{item['path']}: {item['label']} at {item['box']}" for item in index.get("repeated_objects", ()))
    left_out = (f"{item['path']}: {item['reason']}" for item in index.get("excluded", ()))
    return {"conflicts": list(conflicts), "left_out": list(left_out), "repeated": list(repeated)}


def across(pair: Mapping[str, str]) -> str:
    """The lists that a duplicate would have leaked between."""
    return f" (across lists: {pair['lists']})" if "lists" in pair else ""


def provenance(run: RunResults, task: TaskPage) -> list[tuple[str, str]]:
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
    return rows + [(name, words.value(found)) for name, found in task.notes()]
