"""What lies near an image in the features: the training images that were made near it, and a stable map."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages import paths
from stages.evaluation import nearest
from stages.training.data import HeadData, SplitData


def shown(data: HeadData, judged: str) -> dict[str, Any]:
    return nearest.arrays(nearest.find(data, judged))


def made(per_class: int = 12, classes: int = 3, size: tuple[int, ...] = (8,)) -> HeadData:
    """Classes far apart: the images of train are rows 100, 101, …"""
    generator = torch.Generator().manual_seed(0)
    centres = 5 * torch.randn(classes, *size, generator=generator)

    def split(first: int) -> SplitData:
        y = torch.arange(classes).repeat(per_class)
        x = centres[y] + 0.1 * torch.randn(len(y), *size, generator=generator)
        return SplitData(x[:, None], y, list(range(first, first + len(y))))

    return HeadData(
        list("abc"), {"train": split(100), "val": split(200), "test": split(300)}, {"views": ["evaluation"]}
    )


@pytest.mark.parametrize("size", [(8,), (6, 3, 3)])
def test_the_nearest_are_of_the_same_class_and_the_very_nearest_first(workplace: Path, size: tuple[int, ...]) -> None:
    data = made(size=size)
    actual = shown(data, "test")
    train, test = data.splits["train"], data.splits["test"]
    assert actual["nearest"].shape == (36, 4) and actual["nearest"].min() >= 100 and actual["nearest"].max() < 136
    assert (train.y[torch.from_numpy(actual["nearest"]) - 100] == test.y[:, None]).all()
    centre = nearest._vectors(train, torch.arange(36)).mean(0)
    train_vectors, test_vectors = (nearest._vectors(split, torch.arange(36)) - centre for split in (train, test))
    by_hand = torch.nn.functional.cosine_similarity(test_vectors[:, None], train_vectors[None], dim=2).argmax(1)
    assert (actual["nearest"][:, 0] == by_hand.numpy() + 100).all()


def test_the_map_keeps_classes_together_and_is_drawn_once(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = made(per_class=24)
    actual = shown(data, "test")
    points, y = actual["map"], data.splits["test"].y.numpy()
    assert points.min() == 0 and points.max() == 1 and (actual["mapped"] == np.arange(72)).all()
    distances = np.linalg.norm(points[:, None] - points, axis=2)
    neighbours = distances.argsort(1)[:, 1:6]
    # t-SNE follows the last bits of the BLAS: with some kernels a point or two ends among another class
    assert (y[neighbours] == y[:, None]).mean() > 0.9
    monkeypatch.setattr(nearest, "_map", lambda vectors: pytest.fail("drawn again"))
    assert np.array_equal(shown(data, "test")["map"], points)


def test_a_damaged_map_is_drawn_again(workplace: Path) -> None:
    first = shown(made(), "test")["map"]
    (path,) = paths.maps().iterdir()
    path.write_bytes(path.read_bytes()[:40])
    assert np.array_equal(shown(made(), "test")["map"], first)


def test_a_few_images_have_no_map_and_none_have_nothing(workplace: Path) -> None:
    data = made(per_class=2)
    assert {*shown(data, "test")} == {"nearest", "compared"}
    empty = SplitData(torch.zeros(0, 1, 8), torch.zeros(0, dtype=torch.int64), [])
    assert not shown(HeadData(data.classes, data.splits | {"test": empty}, data.provenance), "test")


def test_a_large_part_is_mapped_evenly(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "MAPPED", 21)
    actual = shown(made(), "test")
    assert len(actual["map"]) == 21 and actual["mapped"][0] == 0 and actual["mapped"][-1] == 35
    assert np.diff(actual["mapped"]).max() <= 2


def test_of_many_images_some_are_compared(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = made()
    everything = shown(data, "test")
    monkeypatch.setattr(nearest, "PAIRS", 36 * 12)
    actual = shown(data, "test")
    assert everything["compared"] == [36] and actual["compared"] == [12]
    assert set(actual["nearest"].flatten()) <= {100 + round(35 * number / 11) for number in range(12)}


def test_folds_are_joined_in_the_order_of_the_index(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = made()
    around = [nearest.find(data, "val"), nearest.find(data, "test")]
    order = torch.randperm(72, generator=torch.Generator().manual_seed(1))
    both = nearest.joined([part for part in around if part], order)
    assert around[0] and around[1]
    assert torch.equal(both.nearest, torch.cat([around[0].nearest, around[1].nearest])[order])
    assert torch.equal(both.mapped, torch.arange(72))
    assert torch.equal(both.vectors, torch.cat([around[0].vectors, around[1].vectors])[order])
    monkeypatch.setattr(nearest, "MAPPED", 10)
    fewer = nearest.joined([part for part in around if part], order)
    assert torch.equal(fewer.vectors, both.vectors[fewer.mapped]) and len(fewer.mapped) == 10
