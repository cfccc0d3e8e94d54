"""Features, labels and splits are lined up, or refused with the difference named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages import memory, paths
from stages.datasets import index_file, splits
from stages.datasets.index_file import IndexRow
from stages.errors import UserError
from stages.features import h5
from stages.training import data

Make = Callable[..., Any]
LABELS = ["cat", "ant", "cat", "bee", "ant", "bee", "ant"]
SPLIT = {"train": [0, 1, 3, 6], "val": [2, 4], "test": [5]}
BAD = 4
PROVENANCE = {"backbone": "squeezenet1_1", "cut": "pooled", "views": ["evaluation"], "image_size": 64, "resize": "crop",
              "weights": "random"}  # fmt: skip


def sha(number: int) -> str:
    return f"{number:064x}"


@pytest.fixture
def files(workplace: Path, params: Make) -> Make:
    """Writes an index, a split and features that fit together, but for what is asked; returns the params."""

    def make(
        *,
        order: list[int] | None = None,
        provenance: dict[str, Any] | None = None,
        cut: str = "pooled",
        columns: int = 1,
        **turned: Any,
    ) -> Any:
        order = order or list(range(len(LABELS)))
        rows = [IndexRow(f"{n}.jpg", sha(n), 8, 8, label, (), None) for n, label in enumerate(LABELS)]
        index_file.write(paths.index("folder"), rows)
        chosen = params(
            dataset="folder", root=str(workplace), backbone="squeezenet1_1", weights="random", cut=cut, **turned
        )
        split = {split: [sha(n) for n in numbers] for split, numbers in SPLIT.items()}
        splits.write(paths.split("folder"), split, source="by hand", choices=chosen.split)
        shape = (5,) if cut == "pooled" else (5, 2, 2)
        values = np.zeros((len(order), columns, *shape), "f2")
        for position, number in enumerate(order):
            for column in range(columns):
                values[position, column] = number + 10 * column + np.arange(np.prod(shape)).reshape(shape) / 8
        arrays = {
            f"features/{cut}": values,
            "sha256": np.array([sha(n) for n in order], "S64"),
            "ok": np.array([n != BAD for n in order], "u1"),
            "views": np.zeros((len(order), columns, 2, 3), "f4"),
        }
        h5.write(
            paths.features("folder", "squeezenet1_1", cut),
            members=h5.layout(len(order), columns, {cut: (shape, "f2")}),
            provenance=(PROVENANCE | {"cut": cut}) if provenance is None else provenance,
            pieces=iter([(0, arrays)]),
        )
        return chosen

    return make


def test_rows_labels_and_parts(files: Make) -> None:
    head_data = data.load_data(files())
    assert head_data.classes == ["ant", "bee", "cat"]
    assert {name: split.index_positions for name, split in head_data.splits.items()} == {
        "train": [0, 1, 3, 6],
        "val": [2],
        "test": [5],
    }
    assert {name: split.y.tolist() for name, split in head_data.splits.items()} == {
        "train": [2, 0, 1, 0],
        "val": [2],  # image 4 cannot be decoded
        "test": [1],
    }
    expected = torch.tensor([0.0, 1, 3, 6])[:, None, None] + torch.arange(5) / 8
    assert head_data.splits["train"].x.dtype == torch.float32
    torch.testing.assert_close(head_data.splits["train"].x, expected, rtol=0, atol=0)
    assert head_data.provenance == PROVENANCE


def test_a_map_is_kept_as_stored_for_a_head_that_takes_one(files: Make) -> None:
    head_data = data.load_data(files(cut="map", head="squeezenet"))
    train = head_data.splits["train"]
    assert head_data.shape == (5, 2, 2) and train.x.dtype == torch.float16
    batch = train.batch(torch.tensor([2, 0]))
    assert batch.dtype == torch.float32 and batch.shape == (2, 5, 2, 2)
    torch.testing.assert_close(batch[0], 3 + torch.arange(20).reshape(5, 2, 2) / 8, rtol=0, atol=2e-3)


@pytest.mark.parametrize(("head", "kept"), [("squeezenet", 1), ("linear", 0)])
def test_freed_memory_is_kept_for_maps_alone(
    files: Make, monkeypatch: pytest.MonkeyPatch, head: str, kept: int
) -> None:
    calls = list[None]()
    monkeypatch.setattr(memory, "keep_freed", lambda: calls.append(None))
    data.load_data(files(cut="map", head=head))
    assert len(calls) == kept


def test_the_identity_follows_images_labels_and_parts(files: Make) -> None:
    head_data = data.load_data(files())
    assert head_data.identity == data.load_data(files()).identity and len(head_data.identity) == 64


def test_a_map_becomes_its_mean_over_positions(files: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "BLOCK", 3)
    head_data = data.load_data(files(cut="map"))
    expected = torch.tensor([0.0, 1, 3, 6])[:, None, None] + (4 * torch.arange(5) + 1.5) / 8
    torch.testing.assert_close(head_data.splits["train"].x, expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize(
    "order", [[1, 0, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 3, 4, 5, 7]]
)
def test_features_of_other_images_are_refused(files: Make, order: list[int]) -> None:
    with pytest.raises(
        UserError, match=r"squeezenet1_1-pooled.h5 holds the features of other images than .*folder.jsonl"
    ):
        data.load_data(files(order=order))


@pytest.mark.parametrize(
    ("found", "turned", "message"),
    [
        ({"backbone": "resnet18"}, {}, "backbone 'resnet18', params ask for 'squeezenet1_1'"),
        ({"cut": "map"}, {}, "cut 'map', params ask for 'pooled'"),
        ({"image_size": 224}, {"image_size": 64}, "image_size 224, params ask for 64"),
        ({"resize": "crop"}, {"resize": "squash"}, "resize 'crop', params ask for 'squash'"),
    ],
)
def test_other_features_are_refused(files: Make, found: dict[str, Any], turned: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=rf"was extracted with {message}: `dvc repro`"):
        data.load_data(files(provenance=PROVENANCE | found, **turned))


@pytest.mark.parametrize(("names", "asked"), [(["evaluation", "a"], 1), (["evaluation"], 2), ([], 1), (None, 1)])
def test_another_number_of_views_is_refused(files: Make, names: list[str] | None, asked: int) -> None:
    provenance = {name: value for name, value in PROVENANCE.items() if name != "views"}
    provenance |= {} if names is None else {"views": names}
    message = rf"has {len(names or ())} views per image, params ask for {asked}: `dvc repro`"
    with pytest.raises(UserError, match=message):
        data.load_data(files(provenance=provenance, views=asked))


@pytest.mark.parametrize("cut", ["pooled", "map"])
def test_every_view_is_a_vector(files: Make, cut: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "BLOCK", 2)
    names = ["evaluation", "a", "b"]
    chosen = files(provenance=PROVENANCE | {"cut": cut, "views": names}, cut=cut, columns=3, views=3)
    split_data = data.load_data(chosen).splits
    assert {name: tuple(split.x.shape) for name, split in split_data.items()} == {
        "train": (4, 3, 5), "val": (1, 3, 5), "test": (1, 3, 5),
    }  # fmt: skip
    channels = torch.arange(5) / 8 if cut == "pooled" else (4 * torch.arange(5) + 1.5) / 8
    images, views = torch.tensor([0.0, 1, 3, 6])[:, None, None], 10 * torch.arange(3)[:, None]
    torch.testing.assert_close(split_data["train"].x, images + views + channels, rtol=0, atol=1e-2)
    assert torch.equal(split_data["train"].evaluation_vectors, split_data["train"].x[:, 0])


def test_an_automatic_size_takes_what_there_is(files: Make) -> None:
    assert data.load_data(files(provenance=PROVENANCE | {"image_size": 224})).provenance["image_size"] == 224


def test_damaged_features_are_refused(files: Make) -> None:
    chosen = files()
    path = paths.features("folder", "squeezenet1_1", "pooled")
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        UserError,
        match=r"squeezenet1_1-pooled.h5 is missing or damaged: `python -m stages.store verify --repair`",
    ):
        data.load_data(chosen)
