"""What the numbers mean, in sentences and short lists that the page and its Markdown share."""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

from stages.errors import counted, told
from stages.features import forecast
from stages.metrics import table
from stages.reporting.gather import RunResults
from stages.training.history import LEVEL

SPLIT_NAMES = {"test": "unseen", "val": "validation"}
MONITORS = {
    "val_loss": "lowest validation loss",
    "val_accuracy": "highest validation accuracy",
    "val_map": "highest mAP on validation",
    "val_map_50": "highest average precision on validation",
}


class Bar(NamedTuple):
    """One bar of the comparison with the baselines."""

    name: str
    score: float


class Time(NamedTuple):
    """What a stage took; `speed` is in images per second."""

    seconds: float
    speed: float | None
    counts: str


class Score(NamedTuple):
    """A number at the top of the page, as text."""

    name: str
    value: str
    remark: str


class Summary(NamedTuple):
    """What the page and its Markdown say first, in the same words.

    Attributes:
        answer: the result in one sentence.
        caveats: what a reader must know before trusting it.
        scores: the numbers.
        facts: what they are about, as names and texts.
        baselines: the head beside what needs no training, by the name of the metric.
    """

    answer: str
    caveats: list[str]
    scores: list[Score]
    facts: list[tuple[str, str]]
    baselines: dict[str, list[Bar]]


def scores(run: RunResults) -> list[Score]:
    """The metrics of the run's task that it has, the headline first."""
    values = {name: run.score(name) for name in table.of_task(run.metrics["task"])}
    return [
        Score(table.METRICS[name].heading, table.METRICS[name].text(value), table.METRICS[name].remark)
        for name, value in values.items()
        if value is not None
    ]


def on_validation(run: RunResults, names: Sequence[str]) -> tuple[str, str]:
    """Some metrics on validation as a fact, as far as the run has them."""
    values = {name: run.metrics.get(table.VAL + name) for name in names}
    texts = (
        f"{table.METRICS[name].text(v)} {table.METRICS[name].title}" for name, v in values.items() if v is not None
    )
    return "On validation", ", ".join(texts)


def baselines(run: RunResults) -> dict[str, list[Bar]]:
    """The head, then what needs no training, by the name of the metric; without metrics that have no such value."""
    bars, own = dict[str, list[Bar]](), f"{run.metrics['head']}_"  # ridge regression is no baseline of itself
    for name in table.of_task(run.metrics["task"]):
        others = [
            Bar(baseline.title, run.metrics[key])
            for key, baseline in table.BASELINES.items()
            if name in baseline.metrics and key in run.metrics and key != own + name
        ]
        if others and run.score(name) is not None:
            bars[name] = [Bar(f"{run.metrics['head']} head", run.score(name)), *others]
    return bars


def caveats(run: RunResults) -> list[str]:
    """What a reader must know before trusting the numbers of any task."""
    caveats = list[str]()
    if run.part == "val":
        again = (
            " Afterwards the head was trained on them as well; the numbers are from before that."
            if refitted(run)
            else ""
        )
        caveats.append(
            "There is no test split, so everything here is evaluated on the validation images. The head was chosen on "
            f"them, too: expect slightly lower numbers on new images.{again}"
        )
    if len(run.judged) < 100:
        caveats.append(f"Only {counted(len(run.judged), 'images were')} evaluated, so the numbers are uncertain.")
    return caveats


def facts(run: RunResults) -> list[tuple[str, str]]:
    """What the numbers of any task are about."""
    m = run.metrics
    trained, total = m["parameters_trainable"], m["parameters_total"]
    return [
        *images(run),
        *([("Without a label", f"{unlabelled:,} images")] if (unlabelled := run.index.get("unlabelled")) else []),
        ("Classes", f"{m['classes']:,}"),
        ("Parameters", f"{trained:,} trained of {total:,} ({trained / total:.1%})"),
        ("Split", run.split["source"]),
    ]


def images(run: RunResults) -> list[tuple[str, str]]:
    """What was trained and judged on how many images."""
    m = run.metrics
    if not (folds := m.get("folds")):
        return [
            ("Evaluated on", counted(len(run.judged), f"{run.part} images")),
            ("Images", f"{m['n_train']:,} train, {m['n_val']:,} val, {m['n_test']:,} test"),
        ]
    kept = {name: len(run.rows_of(name)) for name in ("train", "val")}
    return [
        (
            "Evaluated on",
            f"{len(run.judged):,} images, each evaluated once, by the one of {folds} heads that was not trained on it",
        ),
        ("Images", f"{m['n_train']:,} train and {m['n_val']:,} val for the first head, about the same for the others"),
        ("Kept", f"one more head for new images, trained on {kept['train']:,} images, chosen on {kept['val']:,}"),
    ]


def refitted(run: RunResults) -> bool:
    """Whether the head was trained again on train and val together."""
    return bool(run.head["params"].get("refit") == "trainval")


def of_100(share: float) -> str:
    """A share as a number out of 100, which is 0 or 100 only where none or all are meant."""
    if 0 < share < 0.005:
        return "fewer than 1"
    return "more than 99" if 0.995 <= share < 1 else f"{100 * share:.0f}"


def share_of(share: float, count: int) -> str:
    """A share of counted things: of all of them where they are fewer than 100, else of 100."""
    return f"{round(share * count)} of {count}" if count < 100 else f"{of_100(share)} of 100"


def kept(run: RunResults) -> str:
    """How the head was trained, in a sentence."""
    if len(run.history) == 1 and run.history[0].lr is None:
        notes = ", ".join(f"{name} {value(note)}" for name, note in run.head["notes"].items())
        text = "The head was solved in closed form: no epochs, no learning rate"
        again = "; the head was then solved again with these values on train and val together" if refitted(run) else ""
        return f"{text}{f' ({notes}, chosen on validation{again})' if notes else ''}."
    best, epochs, knobs = run.head["best_epoch"], len(run.history), run.head["params"]
    reason = MONITORS[knobs["monitor"]] + one_view(run)
    allowed = sum(phase["epochs"] for phase in knobs.get("phases", [])) or knobs["epochs"]
    early = f" of at most {allowed}" if epochs < allowed else ""
    if refitted(run):
        again = run.head.get("refit_epochs", best)
        return (
            f"Epoch {best} of {epochs}{early} has the {reason}. The head was then trained again on train and val "
            f"together, for {counted(again, 'epochs')}. The curves show the first training."
        )
    return f"Epoch {best} was kept because it has the {reason}. Training ran for {counted(epochs, 'epochs')}{early}."


def one_view(run: RunResults) -> str:
    """That training looked at one view of each validation image where the evaluation looks at several."""
    several = run.decide.get("tta") and len(run.head["features"]["views"]) > 1
    return " (in one view; the scores above are of all views)" if several else ""


def never_trained_on(run: RunResults) -> list[str]:
    """The classes that the head cannot know: none in train, nor in val where a refit trained on it."""
    return [row.name for row in run.classes if not row.n_train and not (row.n_val and refitted(run))]


def beaten_by_ridge(ahead: float, *, clearly: bool) -> str:
    """That ridge regression on the same features is better than the head.

    Args:
        ahead: by how much, as a share.
        clearly: whether it lies outside the interval of the head.
    """
    verdict = (
        "(outside its interval), so training this head did not pay off"
        if clearly
        else "(inside its interval), so it is not clear that training this head pays off"
    )
    return f"Ridge regression on the same features is {100 * ahead:.1f} points better than this head {verdict}."


def choice(run: RunResults) -> str:
    """Which candidate `head: auto` took, why and by how much, in a few sentences; empty for a named head."""
    if not run.candidates:
        return ""
    best, *others = run.candidates
    trained = [row for row in others if row.choice is not None]
    level = [row for row in trained if (row.choice or 0) >= (best.choice or 0) - LEVEL]
    result = (
        f"it gets {percent(best.choice)} of the validation images right{one_view(run)}"
        if best.val_map is None
        else f"its mAP on validation is {percent(best.choice)}"
    )
    sentences = [
        f"head: auto tried {len(run.candidates)} candidates and took {best.name}: {result}, "
        + ("and is the simplest of those that are about as good as the best one." if level else "more than any other.")
    ]
    if nearest := next((row for row in trained if row.head != best.head), None):
        points = 100 * ((best.choice or 0) - (nearest.choice or 0))
        distance = (
            "level with it" if abs(points) < 0.05 else f"{abs(points):.1f} points {'below' if points > 0 else 'above'}"
        )
        sentences.append(f"The best candidate with another head is {nearest.name}, {distance}.")
    if best.val_map is None:
        sentences.append(f"One validation image counts for {100 / run.metrics['n_val']:.1f} points.")
    sentences.append("Only mlp has a learning rate, so lr changes no other candidate.")
    return " ".join(sentences)


def labels_so_far(run: RunResults) -> str:
    """How many images wait for a label, and how to ask for the next ones."""
    waiting = run.index.get("unlabelled", 0)
    if not waiting:
        return "Every image has a label by now."
    return (
        f"{waiting:,} of {len(run.rows):,} images have no label yet: they are neither trained on nor judged. "
        "python -m stages.label asks for the labels that help most (docs/labelling.md)."
    )


def rates(run: RunResults) -> str:
    """What the range test suggests, beside what was chosen."""
    taken = f"{run.head['params']['lr']:g}"
    if (suggested := run.suggested["lr"]) is None:
        text = f"The range test suggests no rate, as {run.suggested['reason']}."
    else:
        text = f"The range test suggests {suggested:g}, between the steepest descent of the loss and its lowest point."
    if source := run.head.get("lr_from"):
        return f"{text} lr: auto took {taken}, the {'suggestion' if suggested else source}."
    auto = "suggestion" if suggested else "default of the head"
    return f"{text} This run took lr={taken}; -S lr=auto takes the {auto}."


def sizes(run: RunResults) -> str:
    """The sizes of the images, in a sentence."""
    widths, heights = sorted(row.width for row in run.rows), sorted(row.height for row in run.rows)
    if widths[0] == widths[-1] and heights[0] == heights[-1]:
        return f"Every image is {widths[0]} × {heights[0]} pixels."
    middle = len(widths) // 2
    return (
        f"Images are {widths[0]:,} to {widths[-1]:,} pixels wide (median {widths[middle]:,}) and {heights[0]:,} to "
        f"{heights[-1]:,} high (median {heights[middle]:,})."
    )


def files(run: RunResults) -> list[tuple[str, int, str]]:
    """What was done with every file: name, number, explanation."""
    index = run.index
    unlabelled = index.get("unlabelled", 0)
    contradicted = sum(len(copies) for copies in index.get("conflicts", ()))
    rows = [
        ("Files", index["files"], "found"),
        ("Used", index["used"] - unlabelled - len(run.undecodable), "for training or evaluation"),
        ("Duplicates", len(index["duplicates"]), "same content as another file"),
        ("Bad", len(run.bad), "cannot be read"),
        *([("Without a label", unlabelled, "not trained on, not judged")] if unlabelled else []),
        ("Not images", len(index["not_images"]), "other kinds of files"),
    ]
    if contradicted:
        rows.append(("Under several classes", contradicted, "copies of one image, all left out"))
    if scaled := len(index.get("scaled", ())):
        rows.append(("Scaled", scaled, "used, but with values of more than 8 bits; listed below"))
    if left_out := len(index.get("excluded", ())):
        rows.append(("Left out", left_out, "for the reasons below"))
    return rows


def set_name(run: RunResults) -> str:
    """What the data of a run is called."""
    return indexed_data(run.index)


def indexed_data(index: Mapping[str, Any]) -> str:
    """What the data is called that the stage index described in a JSON file."""
    own = "source" not in index["options"]
    return named_data(index["dataset"], index["root"] if own else None)


def named_data(dataset: str, folder: str | None) -> str:
    """A dataset by its name; a user's own by its folder, with how it is read."""
    name = PurePath(folder or "").name
    return f"{name} ({dataset})" if name else dataset


def data_notes(run: RunResults) -> list[str]:
    """What reading the data showed: how its folders were understood, and classes without a single image."""
    index = run.index
    lost = [f"no image is left of class {label}" for label in index.get("lost_classes", ())]
    dropped = index.get("dropped_objects", {})
    objects = [f"{counted(count, 'objects are')} not used: {reason}" for reason, count in dropped.items()]
    return [*lost, *index.get("notes", ()), *objects]


def times(run: RunResults) -> list[tuple[str, Time]]:
    """Seconds, speed and counts of each stage whose time is known."""
    rows = []
    for stage, values in run.timings.items():
        counts = {name: value for name, value in values.items() if name not in ("seconds", "images/s", "views/s")}
        images = {"index": "images", "extract": "computed"}.get(stage)
        speed = values.get("views/s", values.get("images/s"))
        if speed is None and images and values.get(images) and values["seconds"]:
            speed = values[images] / values["seconds"]
        text = ", ".join(told(name, count) for name, count in counts.items())
        rows.append((stage, Time(values["seconds"], speed, text)))
    return rows


def saved(run: RunResults) -> str:
    """How much time the cache saved this head, in a sentence; empty where the times of its stages are not known."""
    speed = run.timings.get("extract", {}).get("images/s")
    seconds, epochs = run.timings.get("train", {}).get("seconds"), len(run.history)
    if not speed or not seconds or run.history[0].lr is None:
        return ""
    images = run.metrics["n_train"] + run.metrics["n_val"]
    return (
        f"Training took {forecast.duration(seconds)}. Without the cache, the frozen part of the backbone would have "
        f"run over {images:,} images in each of {counted(epochs, 'epochs')}, which takes "
        f"{forecast.duration(epochs * images / speed)} more at the extraction's {speed:,.0f} images/s."
    )


def percent(value: float | None) -> str:
    """A share; a dash where there is none."""
    return "–" if value is None else table.SHARE.format(value)


def number(value: float | None, digits: int = 0) -> str:
    """With commas between thousands; a dash where there is none."""
    return "–" if value is None else f"{value:,.{digits}f}"


def value(item: object) -> str:
    """A recorded value as text: commas between thousands, at most six digits of a fraction."""
    if isinstance(item, int) and not isinstance(item, bool):
        return f"{item:,}"
    return f"{item:g}" if isinstance(item, float) else str(item)
