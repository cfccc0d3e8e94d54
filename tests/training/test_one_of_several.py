"""With exactly one label per image, heads for several labels rank the classes as those for one label do."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from stages import download, extract, index, split
from stages.errors import UserError
from stages.training import loop
from stages.training.data import HeadData, SplitData, load_data
from stages.training.model import logits

NOISE = 3.0  # standard errors of the difference of two shares
PROVENANCE = {"backbone": "none", "cut": "pooled"}


def top1(data: HeadData, head: str, params: Any) -> float:
    """The share of test images whose highest logit is that of their class."""
    module = loop.fit(head, data, params=params, device=torch.device("cpu")).module
    y = data.splits["test"].y
    labels = y.argmax(1) if y.ndim == 2 else y
    return float((logits(module, data.splits["test"]).argmax(1) == labels).double().mean())


def one_of_several(data: HeadData) -> HeadData:
    """The same images, their label one of several."""
    classes = len(data.classes)
    lists = {name: replace(part, y=F.one_hot(part.y, classes).to(torch.int8)) for name, part in data.splits.items()}
    return replace(data, splits=lists, identity=f"{data.identity} lists")


def assert_alike(data: HeadData, head: str, params: Any) -> None:
    one, several = top1(data, head, params), top1(one_of_several(data), head, params)
    count = len(data.splits["test"].y)
    print(f"{head}: top-1 {one:.3f} with one label, {several:.3f} as one of several")
    assert several > one - NOISE * (2 * one * (1 - one) / count) ** 0.5, (one, several)


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_clusters(head: str, params: Any, workplace: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(8, 32, generator=generator)

    def drawn(count: int) -> SplitData:
        y = torch.arange(count) % 8
        x = centres[y] + 1.5 * torch.randn(count, 32, generator=generator)
        return SplitData(x[:, None], y, list(range(count)))

    data = HeadData(
        [str(n) for n in range(8)], {"train": drawn(240), "val": drawn(120), "test": drawn(400)}, PROVENANCE
    )
    assert_alike(data, head, params(dataset="folder", epochs=40, hidden=32, lr=0.01))


@pytest.mark.slow
def test_the_logos(params: Any, workplace: Path) -> None:
    (workplace / "data/none").mkdir(parents=True)
    chosen = params(dataset="logos", root="data/none", epochs=30, datasets={"logos": {"scenes": 12}})
    try:
        for stage in (download, index, split, extract):
            stage.main(chosen)
    except UserError as error:
        pytest.skip(f"the marks or the weights cannot be had: {error}")
    data = load_data(chosen)
    for head in ("linear", "mlp"):
        assert_alike(data, head, chosen)
