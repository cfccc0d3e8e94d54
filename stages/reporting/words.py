"""What the numbers say, in sentences and short lists that the page and the text share."""

from typing import NamedTuple

from stages.reporting.gather import Run

PART_NAMES = {"test": "unseen", "val": "validation"}


class Bar(NamedTuple):
    """One bar of the comparison with the baselines."""

    name: str
    accuracy: float


class Time(NamedTuple):
    """What a stage took."""

    seconds: float
    speed: float | None  # images a second
    counts: str


def baselines(run: Run) -> list[Bar]:
    """Top-1 of the head, then of what needs no training, as far as it is not the head itself."""
    bars = [Bar(f"{run.metrics['head']} head", run.score("top1"))]
    if run.metrics["head"] != "ridge":
        bars.append(Bar("ridge regression, same features", run.metrics["ridge_top1"]))
    return [
        *bars,
        Bar("always the most frequent class", run.metrics["majority"]),
        Bar("a guess", run.metrics["chance"]),
    ]


def answer(run: Run) -> str:
    """The result in one sentence."""
    top1, low, high = (of_100(run.score(name)) for name in ("top1", "top1_low", "top1_high"))
    ridge = run.metrics["ridge_top1"]
    others = [f"a guess would get {of_100(run.metrics['chance'])}"]
    others.append(f"the most frequent class {of_100(run.metrics['majority'])}")
    if run.metrics["head"] != "ridge":
        others.append(f"ridge regression on the same features {of_100(ridge)}")
    kind = PART_NAMES[run.judged.part]
    return f"{top1} of 100 {kind} images get the right class ({low}–{high} with 95% confidence); {', '.join(others)}."


def caveats(run: Run) -> list[str]:
    """What a reader must know before trusting the number."""
    found, top1 = [], run.score("top1")
    if run.judged.part == "val":
        found.append(
            "There is no test part. Everything here is judged on the validation images, which also chose what was "
            "kept: expect a little less on new images."
        )
    ahead = round(run.metrics["ridge_top1"], 4) - round(top1, 4)
    if run.metrics["head"] != "ridge" and ahead > 0:
        clearly = run.metrics["ridge_top1"] > run.score("top1_high")
        found.append(
            f"Ridge regression, fitted in closed form on the same features, is {100 * ahead:.1f} points better than "
            f"this head{', outside its interval' if clearly else ', inside its interval'}: "
            "the head's training has not paid off here."
        )
    if top1 <= run.metrics["majority"]:
        found.append("The head is no better than always answering the most frequent class.")
    if len(run.judged.rows) < 100:
        found.append(f"Only {len(run.judged.rows)} images were judged: the interval is wide.")
    return found


def of_100(share: float) -> str:
    """A share as a number of 100 that never claims none or all where it is not."""
    if 0 < share < 0.005:
        return "fewer than 1"
    return "more than 99" if 0.995 <= share < 1 else f"{100 * share:.0f}"


def kept(run: Run) -> str:
    """How the head came about, in a sentence."""
    if len(run.history) == 1 and run.history[0].lr is None:
        notes = ", ".join(f"{name} {value(found)}" for name, found in run.head["notes"].items())
        text = "The head was solved in closed form: no epochs, no learning rate"
        return f"{text}{f' ({notes}, chosen on validation)' if notes else ''}."
    best, epochs, knobs = run.head["best_epoch"], len(run.history), run.head["params"]
    lowest = "lowest validation loss" if knobs["monitor"] == "val_loss" else "highest validation accuracy"
    early = f" of {knobs['epochs']} allowed" if epochs < knobs["epochs"] else ""
    return f"Epoch {best} was kept, the one with the {lowest}; {epochs} epochs were run{early}."


def rates(run: Run) -> str:
    """What the range test suggests, beside what was chosen."""
    steepest, tenth = (f"{run.suggested[name]:g}" for name in ("lr_steepest", "lr_minimum_tenth"))
    return (
        f"The loss falls most steeply at {steepest}; a tenth of the rate with the lowest loss is {tenth}. "
        f"This run took lr={run.head['params']['lr']:g}. Both are places to start from: -S lr={steepest}"
        f"{f' or -S lr={tenth}' if tenth != steepest else ''}."
    )


def confident(run: Run) -> str:
    """What a threshold on the probability buys."""
    threshold, share = run.decide["confidence"], run.metrics["confident_share"]
    if not share:
        return f"No image gets a probability of {threshold:g} or more."
    return (
        f"{of_100(share)} of 100 images get a probability of {threshold:g} or more; of these, "
        f"{of_100(run.metrics['confident_accuracy'])} of 100 are right."
    )


def sizes(run: Run) -> str:
    """The sizes of the images in a sentence."""
    widths, heights = sorted(row.width for row in run.rows), sorted(row.height for row in run.rows)
    if widths[0] == widths[-1] and heights[0] == heights[-1]:
        return f"Every image has {widths[0]} × {heights[0]} pixels."
    middle = len(widths) // 2
    return (
        f"Images are {widths[0]:,} to {widths[-1]:,} pixels wide (median {widths[middle]:,}) and {heights[0]:,} to "
        f"{heights[-1]:,} high (median {heights[middle]:,})."
    )


def files(run: Run) -> list[tuple[str, int, str]]:
    """What became of every file: name, number, explanation."""
    index = run.index
    return [
        ("Files", index["files"], "found"),
        ("Used", index["used"] - len(run.undecodable), "trained or judged on"),
        ("Duplicates", len(index["duplicates"]), "same content as another"),
        ("Bad", len(run.bad), "cannot be read"),
        ("Not images", len(index["not_images"]), "other kinds of files"),
    ]


def times(run: Run) -> list[tuple[str, Time]]:
    """Seconds, speed and counts of each stage whose time was kept."""
    found = []
    for stage, values in run.timings.items():
        counts = {name: value for name, value in values.items() if name not in ("seconds", "images/s")}
        images = {"index": "images", "extract": "computed"}.get(stage)
        speed = values.get("images/s")
        if speed is None and images and values.get(images) and values["seconds"]:
            speed = values[images] / values["seconds"]
        text = ", ".join(f"{value(count)} {name}" for name, count in counts.items())
        found.append((stage, Time(values["seconds"], speed, text)))
    return found


def value(found: object) -> str:
    """A recorded value as text: commas between thousands, no more than six digits of a fraction."""
    if isinstance(found, int) and not isinstance(found, bool):
        return f"{found:,}"
    return f"{found:g}" if isinstance(found, float) else str(found)
