"""train: a head on the cached features, written to `cache/head/`, and the ridge baseline on the same features."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stages import paths
from stages.backbones.device import pick_device
from stages.blocks import flat_fields
from stages.datasets import splits
from stages.errors import UserError, counted
from stages.features.h5 import INPUT
from stages.heads.registry import HEADS
from stages.params import Params, with_overrides
from stages.stage import run
from stages.training import candidates, closed_form, history, learning_rate, loop, model
from stages.training.candidates import Competition
from stages.training.data import HeadData, load_data
from stages.training.model import HeadModel, TrainResult

NOT_STORED = {"root", "device"}  # knobs that are not stored with a head, because it does not depend on them


@dataclass
class Trained:
    """What training on one set of splits gives.

    Attributes:
        images: in the train split.
        head: as validation chose it, before a refit.
        heads: folder, module and description of every head to write.
        notes: what a reader of the console should know.
        competition: of `head: auto`.
    """

    images: int
    head: TrainResult
    heads: list[tuple[Path, HeadModel, dict[str, Any]]]
    notes: str
    competition: Competition | None

    @property
    def scores(self) -> dict[str, float]:
        """The scores on validation that the head has, to four digits."""
        best = self.head.history[self.head.best_epoch - 1]
        scores = {"val accuracy": best.val_accuracy, "val map_50": best.val_map_50, "val loss": best.val_loss}
        return {name: round(score, 4) for name, score in scores.items() if score is not None}


def main(params: Params) -> dict[str, object]:
    """Trains on the train split, chooses on the validation split, and never looks at the test split.

    With folds also one head for each of them, in the same way.
    """
    kept, folds = train(load_data(params), params, paths.HEAD), splits.rotated(splits.read_folds(params.dataset))
    if kept.notes:
        print(kept.notes, flush=True)
    heads = list(kept.heads)
    for number, images_of in enumerate(folds, 1):
        fold = train(load_data(params, images_of), params, paths.fold(number))
        scores = ", ".join(f"{name} {score}" for name, score in fold.scores.items())
        print(f"fold {number} of {len(folds)}: {scores}", flush=True)
        heads += fold.heads
    shutil.rmtree(paths.HEAD, ignore_errors=True)  # there may be heads of more seeds or folds than now
    for folder, module, description in heads:
        model.save_head(folder, module, description)
    if kept.competition:
        kept.competition.write()
    history.write(paths.PLOTS / "history.csv", kept.head.history)
    tried = {"candidates": len(kept.competition.candidates)} if kept.competition else {}
    several = {"folds": len(folds)} if folds else {}
    return {"train images": kept.images, **several, **tried, "epochs": len(kept.head.history), **kept.scores}


def train(data: HeadData, params: Params, folder: Path) -> Trained:
    """Trains the head of params, with those of other seeds, and its baseline.

    Args:
        data: train and val are read.
        params: of the run.
        folder: where the head will be; the others are in folders below it.

    Raises:
        UserError: there is nothing to train on, or to choose by.
    """
    train, val = data.splits["train"], data.splits["val"]
    if not len(train.y) or not len(val.y):
        raise UserError(f"There are {len(train.y)} train and {len(val.y)} val images: both are needed (see `split`).")
    device = pick_device(params.device)
    competition = candidates.compete(data, params, device) if HEADS[params.head].candidates else None
    params, lr_from, notes = learning_rate.resolve(competition.winner if competition else params)
    origin = {"lr_from": lr_from} if lr_from else {}
    head = competition.result if competition else fit(data, params, device)
    others = [fit(data, with_seed(params, number), device) for number in range(1, params.seeds)]
    results = [(folder, params.head, head)]
    if params.refit == "trainval":
        refitted = loop.refit(params.head, data, params=params, device=device, epochs=head.best_epoch)
        results = [(folder, params.head, refitted), (folder / "chosen", params.head, head)]
    results += [(folder / f"seed-{number}", params.head, other) for number, other in enumerate(others, 1)]
    if not HEADS[params.head].finds_objects:
        baseline = competition.baseline if competition else None
        baseline = baseline or ridge_baseline(head, data=data, params=params, device=device)
        results.append((folder / "ridge", "ridge", baseline))
    heads = [
        (path, result.module, describe(name, result, data=data, params=params) | origin)
        for path, name, result in results
    ]
    return Trained(len(train.y), head, heads, notes, competition)


def describe(name: str, result: TrainResult, *, data: HeadData, params: Params) -> dict[str, Any]:
    """The contents of `head.json`: everything that is needed to build the head again, and how it was trained.

    Args:
        name: of the head.
        result: of its training.
        data: that it was trained on.
        params: that it was trained with.
    """
    knobs = set(flat_fields(type(params))) - NOT_STORED
    if params.cut == INPUT:  # training draws the views of pixels itself
        knobs |= {"augment"}
    if HEADS[name].finds_objects:
        knobs |= {"boxes"}
    return {
        "head": name,
        "knobs": result.knobs,
        "classes": data.classes,
        "shape": data.shape,
        "tap": params.tap,
        "features": data.provenance,
        "best_epoch": result.best_epoch,
        "notes": result.notes,
        "trained": result.trained,
        "params": params.model_dump(include=knobs),
    }


def ridge_baseline(head: TrainResult, *, data: HeadData, params: Params, device: torch.device) -> TrainResult:
    """Ridge regression on standardised features, whatever `normalize` is: one baseline for all runs on the features.

    Args:
        head: the head that was trained, which may be the same.
        data: the features and labels.
        params: of the run.
        device: where to solve.
    """
    if params.head == "ridge" and params.normalize == "standardize":
        return head
    standardized = with_overrides(params, {"normalize": "standardize"})
    return closed_form.fit("ridge", data, params=standardized, device=device)


def fit(data: HeadData, params: Params, device: torch.device) -> TrainResult:
    """Solves or trains the head of params."""
    if HEADS[params.head].closed_form:
        return closed_form.fit(params.head, data, params=params, device=device)
    return loop.fit(params.head, data, params=params, device=device)


def with_seed(params: Params, number: int) -> Params:
    """The params of one of several heads: the head with number 0 has `seed` itself, the next one `seed` + 1."""
    return with_overrides(params, {"seed": params.seed + number})


def _what(params: Params) -> str:
    """What is about to be trained, for the console."""
    images = len(splits.read(params.dataset)["train"])
    if several := HEADS[params.head].candidates:
        settings = f"each with {len(candidates.NORMALIZATIONS)} normalisations"
        return f"{', '.join(several)}, {settings}, on {counted(images, 'images')}"
    heads = f"{params.seeds} heads {params.head}" if params.seeds > 1 else params.head
    epochs = sum(phase.epochs for phase in params.phases) or params.epochs
    limit = "" if HEADS[params.head].closed_form else f", {counted(epochs, 'epochs')} at most"
    folds = splits.read_folds(params.dataset)
    trained_on = f"{heads} on {counted(images, 'images')}{limit}"
    return f"{trained_on}{f', and one for each of {len(folds)} folds' if folds else ''}"


if __name__ == "__main__":
    run("train", main, announce=_what, result_file=paths.PLOTS / "history.csv")
