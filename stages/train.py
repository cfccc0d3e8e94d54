"""train: a head on the cached features, in `cache/head/`; beside it the ridge baseline, fitted on the same features."""

import shutil
from importlib import import_module

from stages import paths
from stages.backbones.device import pick_device
from stages.errors import UserError
from stages.features.h5 import INPUT
from stages.heads import ridge
from stages.params import Params
from stages.stage import run
from stages.training import data, fitted, history

KNOBS = (  # what the head depends on, kept with it
    "dataset", "backbone", "weights", "cut", "tap", "image_size", "resize", "views", "head", "hidden", "dropout",
    "lr", "lr_backbone", "layer_decay", "freeze_batchnorm", "phases", "optimizer", "weight_decay", "momentum",
    "clip_grad", "loss", "focal_gamma", "class_weights", "schedule", "warmup", "step_size", "step_factor", "cycle_len",
    "cycle_mult", "plateau_factor", "plateau_patience", "epochs", "batch_size", "monitor", "early_stopping_patience",
    "label_smoothing", "standardize", "precision", "seed", "seeds",
)  # fmt: skip


def main(params: Params) -> dict[str, object]:
    """Trains on the train part, chooses on the validation part, and never looks at the test part."""
    found = data.load(params)
    train, val = found.parts["train"], found.parts["val"]
    if not len(train.y) or not len(val.y):
        raise UserError(f"There are {len(train.y)} train and {len(val.y)} val images: both are needed (see `split`).")
    fit, device = import_module(f"stages.heads.{params.head}").fit, pick_device(params.device)
    head, *others = [fit(found, with_seed(params, number), device) for number in range(params.seeds)]
    kept_knobs = {*KNOBS, "augment"} if params.cut == INPUT else set(KNOBS)  # of pixels, training draws the views
    common = {"classes": found.classes, "shape": found.shape, "tap": params.tap, "features": found.provenance}
    baseline = head if params.head == "ridge" else ridge.fit(found, params, device)
    kept = [(paths.HEAD, params.head, head), (paths.HEAD / "ridge", "ridge", baseline)]
    kept += [(paths.HEAD / f"seed-{number}", params.head, other) for number, other in enumerate(others, 1)]
    shutil.rmtree(paths.HEAD, ignore_errors=True)  # heads of more seeds than now
    for folder, name, result in kept:
        fitted.store(
            folder,
            result.module,
            common
            | {"head": name, "knobs": result.knobs, "best_epoch": result.best_epoch, "notes": result.notes}
            | {"trained": result.trained}
            | {"params": params.model_dump(include=kept_knobs)},
        )
    history.write(paths.PLOTS / "history.csv", head.history)
    best = head.history[head.best_epoch - 1]
    return {"train images": len(train.y), "epochs": len(head.history), "val accuracy": round(best.val_accuracy, 4)}


def with_seed(params: Params, number: int) -> Params:
    """The params of the head with this number: the first has `seed` itself."""
    return params.model_copy(update={"seed": params.seed + number})


if __name__ == "__main__":
    run("train", main)
