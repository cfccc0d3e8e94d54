"""train: trains a head on the cached features, and a ridge baseline on the same features, into `cache/head/`."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from stages import files, paths
from stages.backbones.device import pick_head_device
from stages.blocks import flat_fields
from stages.datasets import splits
from stages.errors import UserError, counted
from stages.features.h5 import INPUT
from stages.heads.registry import HEADS
from stages.params import Params, with_overrides
from stages.stage import run
from stages.training import candidates, closed_form, epochs, history, learning_rate, loop, model
from stages.training.candidates import Competition
from stages.training.data import HeadData, load_data
from stages.training.model import HeadModel, TrainResult

NOT_STORED = {"root", "device", "task"}  # knobs that are not stored with a head, because it does not depend on them
BOXES = "head auto learns the class of the largest object in each image; to find all objects, see recipe detect"


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
    def scores(self) -> dict[str, str]:
        """The scores on validation that the head has, as people read them."""
        best = self.head.history[self.head.best_epoch - 1]
        scores = {
            "val accuracy": (best.val_accuracy, ".1%"),
            "val mAP": (best.val_map, ".1%"),
            "val map_50": (best.val_map_50, ".3f"),
            "val loss": (best.val_loss, ".4f"),
        }
        return {name: format(score, spec) for name, (score, spec) in scores.items() if score is not None}


def main(params: Params) -> dict[str, object]:
    """Trains on the train split, chooses on the validation split, and never looks at the test split.

    With folds also one head for each of them, in the same way.
    """
    folds = splits.rotated(splits.read_folds(params.dataset))
    kept = train(load_data(params), params, paths.HEAD, judged_by_folds=bool(folds))
    if kept.notes:
        print(kept.notes, flush=True)
    heads = list(kept.heads)
    for number, images_of in enumerate(folds, 1):
        fold = train(load_data(params, images_of), params, paths.fold(number))
        scores = ", ".join(f"{score} {name}" for name, score in fold.scores.items())
        print(f"fold {number} of {len(folds)}: {scores}", flush=True)
        heads += fold.heads
    with files.whole_folder(paths.HEAD) as new:
        for folder, module, description in heads:
            model.save_head(new / folder.relative_to(paths.HEAD), module, description)
        if kept.competition:
            kept.competition.write(new)
    history.write(paths.PLOTS / "history.csv", kept.head.history)
    tried = {"candidates": len(kept.competition.candidates)} if kept.competition else {}
    several = {"folds": len(folds)} if folds else {}
    name = kept.competition.winner.head if kept.competition else params.head
    trained = {} if HEADS[name].closed_form else {"epochs": len(kept.head.history)}
    return {"train images": kept.images, **several, **tried, **trained, **kept.scores}


def train(data: HeadData, params: Params, folder: Path, *, judged_by_folds: bool = False) -> Trained:
    """Trains the head of params, with those of other seeds, and its baseline.

    Args:
        data: train and val are read.
        params: of the run.
        folder: where the head will be; the others are in folders below it.
        judged_by_folds: heads of folds are judged in place of this one, so that it needs no split to be judged by.

    Raises:
        UserError: there is nothing to train on, or to choose by.
    """
    train, val = data.splits["train"], data.splits["val"]
    if not len(train.y) or not len(val.y):
        raise UserError(f"There are {len(train.y)} train and {len(val.y)} val images: both are needed (see `split`).")
    if data.multilabel and not (train.y == 1).any():
        raise UserError("No image of train has any label, so there is nothing to learn (see `split`).")
    if params.monitor == (unfit := "val_accuracy" if data.multilabel else "val_map"):
        count = "several labels" if data.multilabel else "one label"
        raise UserError(f"`monitor`: {unfit} is not a score for images with {count}: set monitor=val_loss.")
    params, about_epochs = epochs.resolve(params, len(train.y))
    device = pick_head_device(params.device)
    competition = candidates.compete(data, params, device) if HEADS[params.head].candidates else None
    said = [BOXES] if competition and data.boxes and not data.multilabel else []
    if competition:
        winner = competition.winner
        rate = "" if winner.head == "mlp" else "; `lr` and the other knobs of training in epochs apply to mlp only"
        said.append(
            f"auto takes head={winner.head} normalize={winner.normalize}, "
            f"from {counted(len(competition.candidates), 'candidates')}{rate}"
        )
    params, lr_from, about_lr = learning_rate.resolve(competition.winner if competition else params)
    origin: dict[str, Any] = {"lr_from": lr_from} if lr_from else {}
    origin |= {"epochs_from": about_epochs} if about_epochs else {}
    params = with_overrides(params, {"refit": "trainval" if refits(params, data, judged_by_folds) else "none"})
    if HEADS[params.head].closed_form and not competition and (much := candidates.beforehand(data, params, device)):
        print(much, flush=True)
    head = competition.result if competition else fit(data, params, device)
    chosen = [(Path(), params, head)]
    for number in range(1, params.seeds):
        seeded = with_seed(params, number)
        chosen.append((Path(f"seed-{number}"), seeded, fit(data, seeded, device)))
    known = head if params.head == "ridge" else competition.baseline if competition else None
    if baseline := ridge_baseline(known, data=data, params=params, device=device):
        chosen.append((Path("ridge"), with_overrides(params, {"head": "ridge"}), baseline))
    whole = HEADS[params.head].finds_objects
    final = [refit(result, data, of_head, device, whole=whole) for _, of_head, result in chosen]
    origin |= {"refit_epochs": len(final[0].history)} if whole and params.refit == "trainval" else {}
    results = [
        (folder / below, of_head.head, result) for (below, of_head, _), result in zip(chosen, final, strict=True)
    ]
    if params.refit == "trainval":  # val scores only heads that have not trained on it; without test images all of them
        scored = chosen[:1] if len(data.splits["test"].y) else chosen
        results += [(folder / "chosen" / below, of_head.head, result) for below, of_head, result in scored]
    heads = [
        (path, result.module, describe(name, result, data=data, params=params) | origin)
        for path, name, result in results
    ]
    notes = "\n".join([*said, *filter(None, (about_epochs, about_lr))])
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


def ridge_baseline(
    known: TrainResult | None, *, data: HeadData, params: Params, device: torch.device
) -> TrainResult | None:
    """Ridge regression on train, with the normalisation of the head; None where it would take too long.

    Args:
        known: the same, if it is there already.
        data: the features and labels.
        params: of the head.
        device: where to solve.
    """
    if HEADS[params.head].finds_objects or (params.head != "ridge" and _too_large(data, params, device)):
        return None
    return known or fit(data, with_overrides(params, {"head": "ridge"}), device)


def _too_large(data: HeadData, params: Params, device: torch.device) -> bool:
    expected = candidates.cost("ridge", candidates.size(data), params=params, device=device)
    return bool(candidates.too_much(expected))


def fit(data: HeadData, params: Params, device: torch.device) -> TrainResult:
    """Solves or trains the head of params."""
    if HEADS[params.head].closed_form:
        return closed_form.fit(params.head, data, params=params, device=device)
    return loop.fit(params.head, data, params=params, device=device)


def refits(params: Params, data: HeadData, judged_by_folds: bool) -> bool:
    """Whether the head is trained again on train and val together; auto does so where it takes a moment.

    Where nothing but val judges the head, auto leaves it alone.
    """
    if params.refit == "auto":
        return HEADS[params.head].closed_form and (judged_by_folds or len(data.splits["test"].y) > 0)
    return params.refit == "trainval"


def refit(
    result: TrainResult, data: HeadData, params: Params, device: torch.device, *, whole: bool = False
) -> TrainResult:
    """The head trained again on train and val together, with what val has chosen, if params ask for it.

    Args:
        result: of training on train alone.
        data: train and val are read.
        params: `refit`, and everything that is set for training.
        device: where to train.
        whole: train for as many epochs as before, not only up to the best one. With few images, map_50 on val differs
            from epoch to epoch by chance, and a refit that ends at an early one localises worse.
    """
    if params.refit != "trainval":
        return result
    if HEADS[params.head].closed_form:
        again = closed_form.refit(params.head, data, params=params, device=device, chosen=result)
    else:
        epochs_again = len(result.history) if whole else result.best_epoch
        again = loop.refit(params.head, data, params=params, device=device, epochs=epochs_again)
        again = replace(again, best_epoch=result.best_epoch)  # as the history of the first training has it
    model.keep_calibration(again.module, result.module)
    return again


def with_seed(params: Params, number: int) -> Params:
    """The params of one of several heads: the head with number 0 has `seed` itself, the next one `seed` + 1."""
    return with_overrides(params, {"seed": params.seed + number})


def _what(params: Params) -> str:
    """What is about to be trained, for the console."""
    images = len(splits.read(params.dataset)["train"])
    if HEADS[params.head].candidates:
        return f"several heads and normalisations on {counted(images, 'images')}; validation chooses"
    heads = f"{params.seeds} {params.head} heads" if params.seeds > 1 else params.head
    params, _ = epochs.resolve(params, images)
    most = sum(phase.epochs for phase in params.phases) or params.epoch_count
    limit = "" if HEADS[params.head].closed_form else f", {counted(most, 'epochs')} at most"
    folds = splits.read_folds(params.dataset)
    trained_on = f"{heads} on {counted(images, 'images')}{limit}"
    return f"{trained_on}{f', and one for each of {len(folds)} folds' if folds else ''}"


if __name__ == "__main__":
    run("train", main, announce=_what, result_file=paths.PLOTS / "history.csv")
