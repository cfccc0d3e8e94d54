"""Unknown images: far from what was trained on; validation says how far, and predict says the same."""

from pathlib import Path

import pytest
import torch

from stages.errors import UserError
from stages.evaluation import unknown
from stages.training.data import SplitData


def around(centre: int, count: int, seed: int, spread: float = 0.1) -> SplitData:
    """Images whose features lie around an axis."""
    x = spread * torch.randn(count, 1, 8, generator=torch.Generator().manual_seed(seed))
    x[:, :, centre] += 1
    return SplitData(x, torch.zeros(count, dtype=torch.long), list(range(count)))


@pytest.fixture
def known() -> unknown.Known:
    learnt = unknown.learn({"train": around(0, 50, 0), "val": around(0, 100, 1)}, 0.05)
    assert learnt
    return learnt


def test_the_share_of_val_is_unknown_and_what_lies_elsewhere(known: unknown.Known) -> None:
    assert int(known.unknown(around(0, 100, 1)).sum()) == 5
    assert known.similarity(around(0, 50, 0)).mean() > known.similarity(around(0, 100, 1)).mean()  # they are in train
    assert known.unknown(around(3, 20, 2)).all()


def test_similarity_is_the_mean_cosine_with_the_five_nearest(known: unknown.Known) -> None:
    asked, train = around(1, 7, 3), around(0, 50, 0)
    cosine = torch.nn.functional.cosine_similarity(asked.x[:, 0, None], train.x[None, :, 0], dim=2)
    expected = cosine.topk(5, dim=1).values.mean(1)
    torch.testing.assert_close(known.similarity(asked), expected, atol=2e-3, rtol=0)  # kept in float16


def test_it_does_not_depend_on_the_scale_of_features(known: unknown.Known) -> None:
    plain = around(1, 7, 3)
    scaled = SplitData(9 * plain.x, plain.y, plain.index_positions)
    torch.testing.assert_close(known.similarity(scaled), known.similarity(plain))


def test_maps_are_averaged_over_positions() -> None:
    vectors, maps = around(0, 6, 0), around(0, 6, 0)
    maps = SplitData(vectors.x[..., None, None].repeat(1, 1, 1, 3, 2), vectors.y, vectors.index_positions)
    flat, deep = (unknown.learn({"train": split, "val": split}, 0.5) for split in (vectors, maps))
    assert flat and deep
    torch.testing.assert_close(deep.similarity(maps), flat.similarity(vectors))


def test_of_many_images_an_even_selection_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unknown, "MOST", 10)
    train = around(0, 91, 0)
    learnt = unknown.learn({"train": train, "val": train}, 0.1)
    assert learnt and len(learnt.vectors) == 10
    expected = torch.nn.functional.normalize(train.x[::10, 0]).half()
    torch.testing.assert_close(learnt.vectors, expected)


def test_it_is_written_and_read_whole(workplace: Path, known: unknown.Known) -> None:
    assert unknown.read() is None
    unknown.write(known)
    read = unknown.read()
    assert read and torch.equal(read.vectors, known.vectors) and read.least == known.least
    unknown.PATH.write_bytes(unknown.PATH.read_bytes()[:50])
    with pytest.raises(UserError, match=r"known\.safetensors is damaged .*`dvc repro` writes it again"):
        unknown.read()
    unknown.write(None)
    assert unknown.read() is None


def test_nothing_is_unknown_where_nothing_shall_be() -> None:
    split = around(0, 20, 0)
    assert unknown.learn({"train": split, "val": split}, 0.0) is None
