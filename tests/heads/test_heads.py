"""The heads: their size, what is kept of them, and that a kept head answers as the trained one did."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stages import train
from stages.blocks import HeadOptions
from stages.errors import UserError
from stages.heads import linear, mlp, ridge
from stages.heads.options import MlpOptions
from stages.training import model
from stages.training.data import HeadData, SplitData
from stages.training.model import TrainResult

Make = Callable[..., Any]
FEATURES = {"cut": "pooled", "backbone": "squeezenet1_1", "image_size": 64, "weights": "random"}
HEADS = ["linear", "mlp", "ridge", "logistic", "lda", "knn"]


def toy(columns: int = 6) -> HeadData:
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> SplitData:
        y = torch.arange(count) % 3
        x = torch.randn(count, columns, generator=generator)
        x[:, 0] += 3 * y
        return SplitData(100 + 20 * x[:, None], y, list(range(count)))

    return HeadData(["a", "b", "c"], {"train": split(48), "val": split(24), "test": split(9)}, FEATURES)


@pytest.fixture
def trained(workplace: Path, params: Make) -> Make:
    def make(head: str, **turned: Any) -> tuple[model.TrainResult, Any]:
        chosen = params(head=head, epochs=3, hidden=7, batch_size=16, **turned)
        return train.fit(toy(), chosen, torch.device("cpu"))

    return make


def described(head: str, result: TrainResult) -> dict[str, Any]:
    return {"head": head, "shape": [6], "classes": ["a", "b", "c"], "knobs": result.knobs} | {
        "tap": "same",
        "features": FEATURES,
    }


def trainable(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def test_the_published_caltech101_head_has_its_number_of_parameters() -> None:
    knobs = {"hidden": 256, "dropout": 0.4, "precision": "float32"}
    module = mlp.build((4096,), 100, MlpOptions(hidden=256, dropout=0.4))
    assert trainable(module) == 1_074_532
    assert (
        trainable(model.assemble("mlp", (4096,), classes=100, knobs=knobs)) == 1_074_532
    )  # standardisation trains nothing
    assert [type(layer).__name__ for layer in module] == ["Linear", "ReLU", "Dropout", "Linear"]  # type: ignore[attr-defined]
    assert module[2].p == 0.4  # type: ignore[index]


@pytest.mark.parametrize("head", [linear, ridge])
def test_linear_heads_have_one_layer(head: Any) -> None:
    assert trainable(head.build((512,), 33, HeadOptions())) == 512 * 33 + 33


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_standardisation_is_of_the_train_part_alone(trained: Make, head: str) -> None:
    x = toy().splits["train"].evaluation_vectors
    result = trained(head)
    torch.testing.assert_close(result.module.standardize.mean, x.mean(0))
    std = x.std(0, correction=0)
    torch.testing.assert_close(result.module.standardize.scale, 1 / std.clamp(min=float(std.square().mean().sqrt())))
    plain = trained(head, normalize="none")
    assert plain.module.standardize.mean.tolist() == [0] * 6 and plain.module.standardize.scale.tolist() == [1] * 6


@pytest.mark.parametrize("head", HEADS)
def test_a_kept_head_gives_identical_logits(trained: Make, workplace: Path, head: str) -> None:
    result = trained(head)
    model.save_head(workplace / "head", result.module, described(head, result))
    torch.manual_seed(99)
    module, description = model.load_head(workplace / "head")
    x = toy().splits["test"].evaluation_vectors
    with torch.inference_mode():
        assert torch.equal(module(x), result.module(x))
    assert not module.training
    assert description == described(head, result)
    assert sorted(path.name for path in (workplace / "head").iterdir()) == ["head.json", "head.safetensors"]


@pytest.mark.parametrize("head", HEADS)
def test_trained_and_kept_twice_it_is_byte_identical(trained: Make, workplace: Path, head: str) -> None:
    for folder in ("one", "two"):
        result = trained(head)
        model.save_head(workplace / folder, result.module, described(head, result))
    for name in ("head.json", "head.safetensors"):
        assert (workplace / "one" / name).read_bytes() == (workplace / "two" / name).read_bytes()


@pytest.mark.parametrize(
    "damage", ["no json", "half json", "no weights", "half weights", "other hidden", "no such head"]
)
def test_a_head_that_is_not_whole_is_refused(trained: Make, workplace: Path, damage: str) -> None:
    result = trained("mlp")
    description = described("mlp", result)
    if damage == "other hidden":
        description["knobs"]["hidden"] = 8
    if damage == "no such head":
        description.pop("head")
    folder = workplace / "head"
    model.save_head(folder, result.module, description)
    target = folder / ("head.json" if "json" in damage else "head.safetensors")
    if damage.startswith("half"):
        target.write_bytes(target.read_bytes()[:50])
    if damage in ("no json", "no weights"):
        target.unlink()
    with pytest.raises(UserError, match=r"(?s)head has no complete head \(.*then `dvc repro` trains it again"):
        model.load_head(folder)
