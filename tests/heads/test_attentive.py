"""The attentive head: its pooling by hand, that it learns what an average hides, and what it refuses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.errors import UserError
from stages.heads import attentive
from stages.heads.options import AttentiveOptions
from stages.training import loop
from stages.training.data import HeadData, SplitData

Make = Callable[..., Any]
FEATURES = {"cut": "pooled", "backbone": "squeezenet1_1", "image_size": 64, "weights": "random"}
CPU = torch.device("cpu")


def toy(views: int = 1) -> HeadData:
    """A class shows in one position of a map whose average is the same for all classes."""
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> SplitData:
        y = torch.arange(count) % 3
        x = 0.1 * torch.randn(count, views, 8, 5, 5, generator=generator)
        where = torch.randint(0, 25, (count, views, 2), generator=generator)
        images, columns = torch.arange(count)[:, None], torch.arange(views)[None]
        flat = x.flatten(3)
        flat[images, columns, y[:, None], where[..., 0]] += 4
        for label in range(3):  # the other places hold what makes the averages alike, beside a channel that tells them
            flat[images, columns, label, where[..., 1]] += torch.where(y == label, 0.0, 4.0)[:, None]
        flat[images, columns, 7, where[..., 0]] += 4
        return SplitData(flat.view_as(x).half(), y, list(range(count)))

    return HeadData(["a", "b", "c"], {"train": split(120), "val": split(60), "test": split(9)}, FEATURES)


@pytest.fixture
def turned(workplace: Path, params: Make) -> Make:
    def make(**overrides: Any) -> Any:
        plain = {"head": "attentive", "cut": "map", "backbone": "squeezenet1_1", "epochs": 40, "batch_size": 16}
        return params(**(plain | {"lr": 0.01, "queries": 2, "precision": "float32"} | overrides))

    return make


def test_each_query_takes_the_weighted_mean_of_its_own_values() -> None:
    pooling = attentive.AttentivePooling(6, 3)
    x = torch.randn(2, 6, 4, 5)
    with torch.no_grad():
        pooling.queries.mul_(100)
        actual = pooling(x)
    positions = x.flatten(2).transpose(1, 2)  # (N, H W, C)
    for query in range(3):
        weights = (positions @ pooling.queries[query] / 6**0.5).softmax(1)
        values = positions @ pooling.values.weight[2 * query : 2 * query + 2, :, 0].T
        expected = (weights[:, :, None] * values).sum(1)
        torch.testing.assert_close(actual[:, 2 * query : 2 * query + 2], expected)


def test_its_parameters_are_queries_values_and_one_layer() -> None:
    layers = attentive.build((1280, 7, 7), 102, AttentiveOptions(queries=8))
    assert sum(parameter.numel() for parameter in layers.parameters()) == 8 * 1280 + 1280**2 + 1280 * 102 + 102


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_it_learns_what_an_average_hides(turned: Make, views: int, precision: str) -> None:
    attentive_params = turned(precision=precision)
    result = loop.fit("attentive", toy(views), params=attentive_params, device=CPU)
    assert max(epoch.val_accuracy for epoch in result.history) > 0.9
    assert result.module.precision == precision
    averaged = loop.fit("linear", toy(views), params=turned(head="linear"), device=CPU)
    assert max(epoch.val_accuracy for epoch in averaged.history) < 0.7


def test_queries_that_do_not_divide_the_channels_are_refused(turned: Make) -> None:
    with pytest.raises(UserError, match="share of the 8 channels of the map, found queries=3: take queries=2"):
        loop.fit("attentive", toy(), params=turned(queries=3), device=CPU)
