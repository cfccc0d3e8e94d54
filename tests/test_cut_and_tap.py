"""index, extract, train and evaluate at every kind of cut and tap, and what refuses features and heads of another."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from stages import evaluate, extract, index, paths, split, train
from stages.backbones import zoo
from stages.errors import UserError
from stages.features import h5
from stages.training import data, model
from tests.trained import VIT

Make = Callable[..., Any]
SMALL = "shufflenet_v2_x0_5"  # conv1, stage2, stage3, stage4, conv5
WHOLE, LAST = 341_792, 1024  # its parameters without the classifier, and what that takes
PLACES: dict[str, dict[str, Any]] = {  # what is kept, and how the head sits on it
    "vector": {"cut": "pooled", "head": "mlp", "hidden": 8},
    "map": {"cut": "map", "head": "squeezenet"},
    "map averaged": {"cut": "map", "head": "linear"},
    "module": {"cut": "stage3", "tap": "pooled", "head": "linear"},
    "module to map": {"cut": "stage3", "tap": "map", "head": "squeezenet"},
    "module to map, attentive": {"cut": "stage3", "tap": "map", "head": "attentive"},
    "tokens": {"cut": "cls+avg", "head": "linear", "backbone": VIT},
    "blocks to tokens": {"cut": "blocks.3", "tap": "cls+avg@2", "head": "linear", "backbone": VIT},
    "images to tokens": {"cut": "input", "tap": "avg", "head": "linear", "backbone": VIT},
    "images": {"cut": "input", "tap": "pooled", "head": "linear"},
    "images to map": {"cut": "input", "tap": "map", "head": "squeezenet"},
    "images themselves": {"cut": "input", "head": "lenet5"},
    "images themselves, small": {"cut": "input", "head": "smallnet", "image_size": 32},
}


@pytest.fixture
def run(workplace: Path, class_folder: Callable[[int], Path], params: Make) -> Make:
    """`run(**knobs)`: from the folder to the metrics."""
    folder = class_folder(8)

    def make(*, until: str = "evaluate", **knobs: Any) -> Any:
        plain = {"dataset": "folder", "root": str(folder), "backbone": SMALL, "weights": "random", "image_size": 64}
        plain |= {"epochs": 2, "batch_size": 8, "precision": "float32"}
        chosen = params(**(plain | knobs))
        for stage in (index, split, extract, train, evaluate):
            stage.main(chosen)
            if stage.__name__ == f"stages.{until}":
                break
        return chosen

    return make


def metrics() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((paths.EVALUATION).read_text())
    return found


def files() -> dict[str, bytes]:
    kept = [path for folder in (paths.HEAD, paths.PREDICTIONS, paths.REPORTS) for path in folder.rglob("*")]
    return {str(path): path.read_bytes() for path in kept if path.is_file()}


@pytest.mark.parametrize("place", PLACES)
def test_a_kept_head_gives_identical_logits_and_fetches_nothing(
    run: Make, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    trained: list[nn.Module] = []
    store = model.save_head

    def spy(folder: Path, module: nn.Module, about: Any) -> None:
        trained.append(module)
        store(folder, module, about)

    monkeypatch.setattr(model, "save_head", spy)
    chosen = run(until="train", **PLACES[place])

    def refuse(*_: Any) -> None:
        raise AssertionError("weights are read")

    monkeypatch.setattr(zoo, "load", refuse)
    part = data.load_data(chosen).splits["test"]
    for folder, module in zip((paths.HEAD, paths.HEAD / "ridge"), trained, strict=True):
        restored, _ = model.load_head(folder)
        assert torch.equal(model.logits(restored, part), model.logits(module, part))


@pytest.mark.parametrize(
    ("knobs", "trained", "total"),
    [
        ({"head": "linear"}, 3 * LAST + 3, WHOLE + 3 * LAST + 3),
        ({"head": "ridge"}, 3 * LAST + 3, WHOLE + 3 * LAST + 3),
        ({"head": "knn"}, 0, WHOLE),
        ({"cut": "stage3", "tap": "pooled", "head": "knn"}, 0, WHOLE),
        ({"cut": "input", "tap": "pooled", "head": "linear"}, WHOLE + 3 * LAST + 3, WHOLE + 3 * LAST + 3),
        ({"cut": "input", "tap": "pooled", "head": "ridge"}, 3 * LAST + 3, WHOLE + 3 * LAST + 3),
        (
            {"cut": "input", "tap": "pooled", "head": "linear", "phases": [{"epochs": 1, "train_from": "head"}]},
            3 * LAST + 3,
            WHOLE + 3 * LAST + 3,
        ),
        ({"cut": "input", "head": "smallnet", "image_size": 32}, 295_675, 295_675),
    ],
)
def test_the_parameters_are_counted_and_how_many_trained(
    run: Make, knobs: dict[str, Any], trained: int, total: int
) -> None:
    run(**knobs)
    assert (metrics()["parameters_trainable"], metrics()["parameters_total"]) == (trained, total)


# --- images: views are drawn while training, and only there


@pytest.mark.parametrize("place", ["images", "images themselves"])
def test_training_on_images_is_deterministic(run: Make, place: str) -> None:
    run(**PLACES[place])
    once = files()
    run(**PLACES[place])
    assert files() == once
    run(seed=1, **PLACES[place])
    assert files() != once


def test_what_may_be_drawn_changes_training_and_not_evaluation(run: Make) -> None:
    chosen = run(**PLACES["images themselves"])
    once = files()
    evaluate.main(
        chosen.model_copy(update={"augment": chosen.augment.model_copy(update={"crop": 0.1, "rotate": 90.0})})
    )
    assert files() == once
    run(augment={"crop": 1.0, "flip": False, "lighting": 0.0}, **PLACES["images themselves"])
    assert files()["reports/plots/history.csv"] != once["reports/plots/history.csv"]


def test_images_are_judged_in_the_view_that_cached_features_are_of(run: Make) -> None:
    """A head on the frozen rest behind images answers much as the same head on cached vectors."""
    frozen = {"phases": [{"epochs": 1, "train_from": "head", "lr": 1e-12}], "head": "linear", "normalize": "none"}
    run(cut="input", tap="pooled", **frozen)
    behind = load_file(paths.PREDICTIONS / "probabilities.safetensors")["test"]
    run(cut="pooled", head="linear", epochs=1, lr=1e-12, normalize="none")
    cached = load_file(paths.PREDICTIONS / "probabilities.safetensors")["test"]
    torch.testing.assert_close(behind, cached, rtol=0.05, atol=0.02)
    assert cached.std(0).max() > 0


def test_images_are_standardised_by_those_of_the_train_part(run: Make) -> None:
    chosen = run(until="train", **PLACES["images themselves"])
    head, _ = model.load_head(paths.HEAD)
    train_part = data.load_data(chosen).splits["train"]
    pixels = torch.cat([*train_part.batches()]).movedim(1, -1).reshape(-1, 3) / 255
    std = pixels.std(0, correction=0)
    torch.testing.assert_close(head.standardize.mean, pixels.mean(0))
    torch.testing.assert_close(1 / head.standardize.scale, std.clamp(min=float(std.square().mean().sqrt())))


# --- nothing of another cut, backbone or weights is taken


def test_a_second_cut_reuses_no_row_of_the_first(run: Make) -> None:
    chosen = run(until="extract", cut="stage3", tap="pooled")
    assert extract.main(chosen)["computed"] == 0
    other = chosen.model_copy(update={"cut": "stage2"})
    assert extract.main(other)["computed"] == 24
    first, second = (h5.read(paths.features("folder", SMALL, cut)) for cut in ("stage3", "stage2"))
    assert first.layers["stage3"].shape == (24, 1, 96, 4, 4) and second.layers["stage2"].shape == (24, 1, 48, 8, 8)
    assert extract.main(chosen)["computed"] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cut": "stage2"}, "cut 'stage3', params ask for 'stage2'"),
        ({"backbone": "shufflenet_v2_x1_0"}, "backbone 'shufflenet_v2_x0_5', params ask for 'shufflenet_v2_x1_0'"),
        ({"weights": "IMAGENET1K_V1"}, "weights 'random', params ask for 'IMAGENET1K_V1'"),
        ({"image_size": 32}, "image_size 64, params ask for 32"),
    ],
)
def test_features_of_another_cut_or_network_are_refused(run: Make, change: dict[str, Any], message: str) -> None:
    chosen = run(until="extract", cut="stage3", tap="pooled", head="linear")
    made = paths.features("folder", SMALL, "stage3")
    other = chosen.model_copy(update=change)
    target = paths.features("folder", other.backbone, other.cut)
    if target != made:
        shutil.copy(made, target)
    with pytest.raises(UserError, match=f"was extracted with {message}"):
        train.main(other)


def test_a_file_of_other_weights_is_refused(run: Make, workplace: Path) -> None:
    """The features were made with one content of the file, the rest would start from another."""
    file = workplace / "weights.pth"
    torch.save(zoo.load(SMALL, "random").model.state_dict(), file)
    chosen = run(until="extract", cut="stage3", tap="pooled", head="linear", weights=str(file))
    torch.save({name: value + 1 for name, value in torch.load(file).items()}, file)
    with pytest.raises(UserError, match=rf"other weights of {SMALL} \(\w{{12}}\) than the current ones \(\w{{12}}\)"):
        train.main(chosen)


def test_a_head_of_another_cut_is_refused(run: Make) -> None:
    run(until="train", cut="stage3", tap="pooled", head="linear")
    chosen = run(until="extract", cut="stage2", tap="pooled", head="linear")
    with pytest.raises(UserError, match="`cache/head` was trained on other features or classes"):
        evaluate.main(chosen)


# --- slips


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"cut": "stage5"}, r"`cut`: shufflenet_v2_x0_5 has no module 'stage5'; did you mean stage"),
        ({"cut": "stage3", "tap": "stag4"}, r"`tap`: shufflenet_v2_x0_5 has no module 'stag4'; did you mean stage4"),
        ({"cut": "stage3", "tap": "stage2"}, r"`tap`: stage2 does not come after cut stage3 in shufflenet_v2_x0_5"),
        (
            {"cut": "input", "head": "squeezenet", "tap": "pooled"},
            r"takes a map .*, and `tap` pooled is a vector",
        ),
        ({"cut": "map", "head": "lenet5"}, r"`head`: lenet5 takes 16 x 16 or more, found 2 x 2: take cut=input"),
        ({"phases": [{"epochs": 1}]}, r"`phases` unfreeze what lies between cut and tap, and tap=same leaves nothing"),
    ],
)
def test_slips_are_told_before_anything_trains(run: Make, knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(**knobs)
