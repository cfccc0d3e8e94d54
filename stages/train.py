"""train: a head on the cached features, in `cache/head/`; beside it the ridge baseline, fitted on the same features."""

import shutil

import torch

from stages import paths
from stages.backbones.device import pick_device
from stages.datasets import splits
from stages.errors import UserError
from stages.features.h5 import INPUT
from stages.heads import CLOSED_FORM, DETECTION
from stages.params import Params
from stages.stage import run
from stages.training import closed_form, data, history, loop, model, neighbours
from stages.training.data import HeadData
from stages.training.model import TrainResult

KNOBS = (  # what the head depends on, kept with it
    "dataset", "backbone", "weights", "cut", "tap", "image_size", "resize", "views", "head", "hidden", "dropout",
    "lr", "lr_backbone", "layer_decay", "freeze_batchnorm", "phases", "optimizer", "weight_decay", "momentum",
    "clip_grad", "loss", "focal_gamma", "class_weights", "schedule", "warmup", "step_size", "step_factor", "cycle_len",
    "cycle_mult", "plateau_factor", "plateau_patience", "epochs", "batch_size", "monitor", "refit",
    "early_stopping_patience", "label_smoothing", "standardize", "precision", "seed", "seeds",
)  # fmt: skip

SOLVERS = {"ridge": closed_form.fit, "knn": neighbours.fit}


def main(params: Params) -> dict[str, object]:
    """Trains on the train split, chooses on the validation split, and never looks at the test split."""
    found = data.load(params)
    train, val = found.splits["train"], found.splits["val"]
    if not len(train.y) or not len(val.y):
        raise UserError(f"There are {len(train.y)} train and {len(val.y)} val images: both are needed (see `split`).")
    device = pick_device(params.device)
    head, *others = [fit(found, with_seed(params, number), device) for number in range(params.seeds)]
    kept = [(paths.HEAD, params.head, head)]
    if params.refit == "trainval":
        kept = [(paths.HEAD, params.head, loop.refit(params.head, found, params, device, head.best_epoch))]
        kept += [(paths.HEAD / "chosen", params.head, head)]
    kept += [(paths.HEAD / f"seed-{number}", params.head, other) for number, other in enumerate(others, 1)]
    if params.head not in DETECTION:
        kept += [
            (paths.HEAD / "ridge", "ridge", head if params.head == "ridge" else closed_form.fit(found, params, device))
        ]
    kept_knobs = {*KNOBS, "augment"} if params.cut == INPUT else set(KNOBS)  # of pixels, training draws the views
    kept_knobs |= {"boxes"} if params.head in DETECTION else set()
    common = {"classes": found.classes, "shape": found.shape, "tap": params.tap, "features": found.provenance}
    shutil.rmtree(paths.HEAD, ignore_errors=True)  # heads of more seeds than now
    for folder, name, result in kept:
        model.store(
            folder,
            result.module,
            common
            | {"head": name, "knobs": result.knobs, "best_epoch": result.best_epoch, "notes": result.notes}
            | {"trained": result.trained}
            | {"params": params.model_dump(include=kept_knobs)},
        )
    history.write(paths.PLOTS / "history.csv", head.history)
    best = head.history[head.best_epoch - 1]
    scores = {"val accuracy": best.val_accuracy, "val map_50": best.val_map_50, "val loss": best.val_loss}
    said = {name: round(score, 4) for name, score in scores.items() if score is not None}
    return {"train images": len(train.y), "epochs": len(head.history), **said}


def fit(found: HeadData, params: Params, device: torch.device) -> TrainResult:
    """Solves or trains the head that params name."""
    if params.head in CLOSED_FORM:
        return SOLVERS[params.head](found, params, device)
    return loop.fit(params.head, found, params, device)


def with_seed(params: Params, number: int) -> Params:
    """The params of the head with this number: the first has `seed` itself."""
    return params.model_copy(update={"seed": params.seed + number})


def _what(params: Params) -> str:
    """What is about to be trained."""
    heads = f"{params.seeds} heads {params.head}" if params.seeds > 1 else params.head
    images = len(splits.read(params.dataset)["train"])
    epochs = sum(phase.epochs for phase in params.phases) or params.epochs
    return f"{heads} on {images:,} images" + (f", {epochs} epochs at most" if params.head not in CLOSED_FORM else "")


if __name__ == "__main__":
    run("train", main, _what, made=paths.PLOTS / "history.csv")
