"""The convolutional classifier on maps."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import squeezenet1_1

from stages.errors import UserError
from stages.heads import squeezenet
from stages.heads.options import SqueezenetOptions
from stages.training import loop, model
from stages.training.data import HeadData, SplitData

Make = Callable[..., Any]
FEATURES = {"cut": "pooled", "backbone": "squeezenet1_1", "image_size": 64, "weights": "random"}
CPU = torch.device("cpu")


def toy(views: int = 1) -> HeadData:
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> SplitData:
        y = torch.arange(count) % 3
        x = torch.rand(count, views, 8, 5, 5, generator=generator)
        x[torch.arange(count), :, y, 1:4, 2] += 3  # a class shows in a few positions of one channel
        return SplitData(x.half(), y, list(range(count)))

    return HeadData(["a", "b", "c"], {"train": split(60), "val": split(30), "test": split(9)}, FEATURES)


@pytest.fixture
def turned(workplace: Path, params: Make) -> Make:
    def make(**overrides: Any) -> Any:
        plain = {"head": "squeezenet", "cut": "map", "backbone": "squeezenet1_1", "epochs": 30, "batch_size": 16}
        return params(**(plain | {"lr": 0.03, "dropout": 0.2, "precision": "float32"} | overrides))

    return make


def test_it_is_the_classifier_of_torchvision() -> None:
    own = squeezenet.build((512, 13, 13), 1000, SqueezenetOptions(dropout=0.5))
    theirs = squeezenet1_1(weights=None).classifier
    own.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 512, 13, 13)
    torch.testing.assert_close(own.eval()(x), theirs.eval()(x).flatten(1))
    assert sum(
        parameter.numel()
        for parameter in squeezenet.build((512, 13, 13), 33, SqueezenetOptions(dropout=0)).parameters()
    ) == (512 * 33 + 33)


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_it_learns_from_maps(turned: Make, views: int, precision: str) -> None:
    result = loop.fit("squeezenet", toy(views), params=turned(precision=precision), device=CPU)
    assert max(epoch.val_accuracy for epoch in result.history) > 0.9
    assert result.module.precision == precision
    assert model.logits(result.module, toy(views).splits["test"]).dtype == torch.float32


def test_maps_are_standardised_by_channel(turned: Make) -> None:
    result = loop.fit("squeezenet", toy(), params=turned(epochs=1), device=CPU)
    x = toy().splits["train"].x.float()[:, 0]
    torch.testing.assert_close(result.module.standardize.mean, x.mean((0, 2, 3)))


def test_vectors_are_refused_with_what_fits(turned: Make) -> None:
    vectors = {
        name: SplitData(split.x.mean((-2, -1)).float(), split.y, split.index_positions)
        for name, split in toy().splits.items()
    }
    with pytest.raises(UserError, match=r"squeezenet takes a map.* take cut=map or tap=map, or a head for these"):
        loop.fit("squeezenet", HeadData(["a", "b", "c"], vectors, FEATURES), params=turned(), device=CPU)
