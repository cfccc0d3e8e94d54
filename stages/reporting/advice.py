"""What would help a detector most, from its table of mistakes."""

from collections.abc import Mapping, Sequence

from stages.reporting.gather import RunResults
from stages.reporting.words import percent

COST = 0.02  # of map_50, from which a kind of mistake is worth a remedy
REMEDIES = 2  # that are named, those of the costliest kinds
FALLS = 0.15  # by which recall of the smallest objects is lower than that of the largest, if size is the reason
OVERFIT = 1.5  # a validation loss so many times that of train says that the head knows train by heart
LARGER = 4 / 3  # of the input, per step
STRIDE = 32  # pixels: sizes are multiples of it
LARGEST = 1024  # pixels a side
EPOCHS = 100  # of a training that is long enough


def remedies(run: RunResults) -> list[str]:
    """One sentence for each of the costliest kinds of mistakes, with what to try; empty where none costs much."""
    costs: Mapping[str, float] = run.predictions["costs"]
    kinds = sorted((kind for kind in costs if costs[kind] >= COST), key=lambda kind: -costs[kind])[:REMEDIES]
    sentences = {
        "missed": _missed(run),
        "place": f"Boxes overlap their objects too little. Try {_larger(run) or _unfrozen(run)}.",
        "class": f"Objects get the wrong class. Try {_unfrozen(run)}, or add images of the confused classes.",
        "both": f"Boxes have the wrong class and the wrong place. Try {_unfrozen(run)}, or add images.",
        "background": "Boxes lie where nothing is annotated. Annotate what is forgotten (see False alarms), and add "
        "images without objects.",
        "double": "One object gets several boxes. Try a lower decide.nms_iou: only evaluate and report run.",
    }
    chosen = [f"{sentences[kind]} ({kind}: {percent(costs[kind])} of mAP.)" for kind in kinds]
    return [*chosen, *_overfit(run)] if chosen else []


def _missed(run: RunResults) -> str:
    """What helps against missed objects: a larger input if the small ones are missed."""
    groups: Sequence[Mapping[str, float]] = run.predictions["recall_by_size"]
    if len(groups) > 1 and groups[-1]["recall"] - groups[0]["recall"] >= FALLS and (larger := _larger(run)):
        small, large = groups[0], groups[-1]
        return (
            f"Small objects are missed: {percent(small['recall'])} of those up to {small['to']:.0f} pixels a side are "
            f"found, {percent(large['recall'])} of those from {large['from']:.0f} on. Try {larger}."
        )
    short = len(run.history) < EPOCHS and run.metrics["n_train"] < 1000 and not run.head.get("epochs_from")
    longer = "epochs=auto, " if short else ""
    return f"Objects are missed. Try {longer}{_unfrozen(run)}, or add images."


def _larger(run: RunResults) -> str:
    """A larger input; empty where it is large already."""
    size = int(run.head["features"]["image_size"])
    larger = STRIDE * round(size * LARGER / STRIDE)
    space = f"now {size}; maps take {(larger / size) ** 2:.1f} times the space"
    return "" if larger > LARGEST else f"image_size={larger} ({space})"


def _unfrozen(run: RunResults) -> str:
    """Training the last block, if it is frozen; more views otherwise."""
    if run.head["tap"] == "same":
        return "unfreezing the last block (docs/unfreezing.md)"
    return "a lower lr_backbone"


def _overfit(run: RunResults) -> list[str]:
    """A sentence where the head fits train much better than val."""
    best = run.history[run.head["best_epoch"] - 1]
    if best.val_loss < OVERFIT * best.train_loss:
        return []
    views = int(run.head["params"].get("views", 1))
    more = f", or views={max(4, 2 * views)} (now {views})" if views < 8 else ""
    return [
        f"The loss is {best.train_loss:.3g} on train and {best.val_loss:.3g} on val: more images would help most{more}."
    ]
