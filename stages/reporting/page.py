"""From the results of a run to the text of its page and of its Markdown."""

import pickle
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from stages.backbones import names
from stages.backbones.licences import restriction
from stages.datasets.index_file import IndexRow
from stages.features.h5 import INPUT
from stages.metrics.table import METRICS
from stages.reporting import (
    choose,
    classification,
    command,
    detection,
    figures,
    largest,
    multilabel,
    objects,
    rendering,
    review,
    words,
)
from stages.reporting.figures import Drawing
from stages.reporting.gather import RunResults
from stages.reporting.pictures import Album

SAMPLES = 24  # training images
NAMED = 10  # lines of each list of files in the Markdown
GROUPS = ("baselines", "curves", "by_views")  # of figures that stand together, by how their names begin
FIGURE = "report-{}.png"  # file name of a figure: the folder holds other files too


class TaskPage(Protocol):
    """What the page says and shows for one task.

    Attributes:
        template: name of its templates.
    """

    template: str

    @property
    def sections(self) -> tuple[str, ...]:
        """The headings of its sections."""

    def summary(self) -> words.Summary:
        """What the page says first."""

    def text(self) -> dict[str, Any]:
        """What both templates need besides."""

    def notes(self) -> list[tuple[str, object]]:
        """More rows of the provenance: name and value."""

    def figures(self) -> dict[str, Drawing]:
        """The figures that the run has data for, by name."""

    def details(self, album: Album) -> dict[str, Any]:
        """What the template of the page needs besides."""


def of(run: RunResults) -> TaskPage:
    """The page for the task of a run."""
    tasks: dict[str, Callable[[RunResults], TaskPage]] = {
        "classification": classification.ClassificationPage,
        "multilabel": multilabel.MultilabelPage,
        "detection": detection.DetectionPage,
        "largest": largest.LargestPage,
    }
    return tasks[run.metrics["task"]](run)


def html(run: RunResults, album: Album, drawn: Mapping[str, Drawing]) -> str:
    """The page: one file that loads nothing.

    Args:
        run: its results.
        album: makes the pictures.
        drawn: the figures, as `drawings` returns them.
    """
    task, has_views = of(run), len(run.views) > 1
    statistics = objects.explore(run, album, trained(run)) if finds_objects(run) else None
    labels = ["Labels"] if run.rounds else []
    sections = {"Views": has_views, "Objects": statistics is not None, "Data": True, "Provenance": True}
    context = {
        "contents": [
            "Review",
            "Training",
            *labels,
            *task.sections,
            *(name for name, present in sections.items() if present),
        ],
        "figures": drawn,
        **{group: [drawn[name] for name in drawn if name.startswith(group)] for group in GROUPS},
        "suspected": review.kinds(run, album),
        "corrections": review.corrections_listed(run),
        "objects": statistics,
        "samples": [album.picture(row) for row in choose.samples(trained(run), 0 if statistics else SAMPLES)],
        "views": album.views(trained(run)[0], run.head["features"]) if has_views else [],
        "mean_sizes": mean_sizes(run.rows),
        **task.details(album),
        "missing": [f"{path}: {why}" for path, why in album.missing.items()],  # last: it is complete by now
        "album": album,
        "listed": rendering.LISTED,
        **rendering.shell(),
    }
    template = rendering.environment(escape=True).get_template(f"{task.template}.html.j2")
    return template.render(common(run, task) | context)


def pngs(pickled: bytes) -> dict[str, bytes]:
    """The figures as PNGs, by the file names that the Markdown refers to.

    Args:
        pickled: what `drawings` gives. An executor would pickle it in a thread, while this one draws the same figures,
            and matplotlib changes them as it draws.
    """
    drawn: dict[str, Drawing] = pickle.loads(pickled)
    return {FIGURE.format(name): figure.png() for name, figure in drawn.items()}


def markdown(run: RunResults, drawn: Mapping[str, Drawing]) -> str:
    """The same as text: without pictures, times or paths of this machine, so it changes only when the result does."""
    task = of(run)
    template = rendering.environment(escape=False).get_template(f"{task.template}.md.j2")
    return template.render(
        common(run, task) | {"NAMED": NAMED, "drawn": {FIGURE.format(name): drawn[name] for name in drawn}}
    )


def common(run: RunResults, task: TaskPage) -> dict[str, Any]:
    """What all templates need."""
    summary = task.summary()
    right = task.judged.right if isinstance(task, classification.ClassificationPage) else None
    return {
        "run": run,
        "m": run.metrics,
        "words": words,
        "metrics": METRICS,
        "summary": summary._replace(answer=summary.answer[:1].upper() + summary.answer[1:]),
        "provenance": provenance(run, task),
        "command": command.differing(run),
        "complete_command": command.complete(run),
        "data_lists": data_lists(run),
        "reviewed": review.sentences(run, right, task.doubts() if isinstance(task, detection.DetectionPage) else ""),
        **task.text(),
    }


def drawings(run: RunResults) -> dict[str, Drawing]:
    """Every figure that a run has data for, by name."""
    drawn = {f"curves_{name}": curve for name, curve in figures.curves(run.history, run.head["best_epoch"]).items()}
    drawn |= of(run).figures()
    if len(run.rounds) > 1:
        drawn["labels"] = figures.by_labels(run.rounds)
    if len(run.views) > 1:
        drawn |= {f"by_views_{score}": figures.by_views(run.views, score) for score in run.views[0] if score != "views"}
    if run.suggested and run.rates and run.history[0].lr is not None:
        drawn["range_test"] = figures.range_test(run.rates, run.suggested["lr"], run.head["params"]["lr"])
    widths, heights = [row.width for row in run.rows], [row.height for row in run.rows]
    if len({*widths}) > 1 or len({*heights}) > 1:
        drawn["sizes"] = figures.sizes(widths, heights)
    if finds_objects(run):
        drawn |= {f"objects_{name}": figure for name, figure in objects.drawings(run).items()}
    return drawn


def finds_objects(run: RunResults) -> bool:
    """Whether the head finds objects: a classifier's page has no section on them."""
    return run.metrics["task"] not in ("classification", "multilabel")


def trained(run: RunResults) -> list[IndexRow]:
    """The images of train; those that cannot be decoded never train."""
    undecodable = {image["path"] for image in run.undecodable}
    return [row for row in run.rows_of("train") if row.path not in undecodable]


def mean_sizes(rows: Sequence[IndexRow]) -> dict[str, tuple[float, float]]:
    """Mean width and height of each class in pixels; nothing where all images have one size."""
    if len({(row.width, row.height) for row in rows}) == 1:
        return {}
    sizes = defaultdict[str, list[tuple[int, int]]](list)
    for row in rows:
        for label in row.classes:
            sizes[label].append((row.width, row.height))
    return {
        label: (sum(w for w, _ in pairs) / len(pairs), sum(h for _, h in pairs) / len(pairs))
        for label, pairs in sorted(sizes.items())
    }


def data_lists(run: RunResults) -> dict[str, list[str]]:
    """What of the data is not used, counts once or was scaled: the title and the lines of each list."""
    index = run.index
    conflicts = (
        " = ".join(f"{copy['path']} ({', '.join(copy['labels'])})" for copy in copies)
        for copies in index.get("conflicts", ())
    )
    repeated = (f"{item['path']}: {item['label']} at {item['box']}" for item in index.get("repeated_objects", ()))
    left_out = (f"{item['path']}: {item['reason']}" for item in index.get("excluded", ()))
    scaled = (f"{item['path']}: {item['scaling']}" for item in index.get("scaled", ()))
    duplicates = (f"{pair['path']} is {pair['of']}{across(pair)}" for pair in index["duplicates"])
    lists = {
        "Copies in several classes": conflicts,
        "Left out": left_out,
        "Objects that stand twice in their image": repeated,
        "Images whose values were scaled to 0 to 255": scaled,
        "Duplicates": duplicates,
        "Bad images": (f"{image['path']}: {image['reason']}" for image in run.bad),
        "Not images": index["not_images"],
        "Broken annotations": (f"{item['path']}: {item['reason']}" for item in index["broken_annotations"]),
    }
    return {title: lines for title, items in lists.items() if (lines := list(items))}


def across(pair: Mapping[str, str]) -> str:
    """The splits that a duplicate would have leaked between."""
    return f" (across splits: {pair['lists']})" if "lists" in pair else ""


def provenance(run: RunResults, task: TaskPage) -> list[tuple[str, str]]:
    """Where features and head come from: names and values as they were recorded."""
    features = dict(run.head["features"])
    versions, views, backbones = features.pop("versions"), features.pop("views"), features.pop("joined", [])
    features["views"] = len(views)
    if len(views) > 1:
        features["drawn views"] = views[1].rpartition("|")[0]
    rows: list[tuple[str, object]] = [("split", run.split["source"])]
    rows += [(name.replace("_", " "), value) for name, value in features.items()]
    for backbone in backbones:
        own = {name: value for name, value in backbone.items() if name != "views"}
        own = {name: value for name, value in own.items() if features.get(name, versions) != value}
        rows += [(f"{backbone['backbone']}: {name.replace('_', ' ')}", value) for name, value in own.items()]
    rows += licences(run)
    rows += [(f"{name} version", value) for name, value in versions.items()]
    rows += [(f"head: {name}", value) for name, value in run.head["notes"].items()]
    return [(name, words.value(value)) for name, value in [*rows, *task.notes()]]


def licences(run: RunResults) -> list[tuple[str, str]]:
    """The licences of pretrained weights that are not free for all uses."""
    params, features = run.head["params"], run.head["features"]
    if features.get("cut") == INPUT and run.head["tap"] == "same":
        return []
    texts = {name: restriction(name, weights) for name, weights in names.joined(params["backbone"], params["weights"])}
    return [(f"licence of {name}", text) for name, text in texts.items() if text]
