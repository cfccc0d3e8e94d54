import numpy as np
import pytest

from stages.reviewing import duplicates
from stages.reviewing.neighbours import Pairs
from stages.reviewing.pixels import Thumbnails
from tests.conftest import picture


def kept(thumbnails: np.ndarray) -> Thumbnails:
    """As they come out of the file where they are kept: in another order there."""
    order = np.arange(len(thumbnails))[::-1]
    return Thumbnails(thumbnails[order], order)


def thumbnail(seed: int) -> np.ndarray:
    return np.asarray(picture(seed, (32, 32)))


@pytest.mark.parametrize(
    ("second", "mirrored"),
    [
        (thumbnail(0), False),
        (thumbnail(0)[:, ::-1], True),
        (np.clip(thumbnail(0).astype(int) * 0.9 + 9, 0, 255).astype(np.uint8), False),
        (thumbnail(1), None),
        (np.full((32, 32, 3), 90, np.uint8), None),
    ],
    ids=["same", "mirrored", "darker", "another", "blank"],
)
def test_pixels_confirm_a_pair(second: np.ndarray, mirrored: bool | None) -> None:
    thumbnails = np.stack([thumbnail(0), second])
    pairs = Pairs(np.array([0]), np.array([1]), np.array([0.5], np.float32))
    found = duplicates.confirmed(pairs, np.array([1, 0]), kept(thumbnails), thumbnails.std((1, 2, 3)))
    assert [pair.mirrored for pair in found] == ([] if mirrored is None else [mirrored])


@pytest.mark.parametrize("noise", [0, 6, 12, 20, 40])
def test_the_coarse_comparison_loses_no_pair(noise: int) -> None:
    """Fine patterns too, of which little is left on coarse pixels."""
    generator = np.random.default_rng(noise)
    first = np.concatenate([[thumbnail(seed) for seed in range(20)], generator.integers(0, 256, (20, 32, 32, 3))])
    second = first + noise * generator.standard_normal(first.shape)
    second[::2] = second[::2, :, ::-1]
    thumbnails = np.concatenate([first, second]).clip(0, 255).astype(np.uint8)
    every = np.arange(40)
    pairs = Pairs(np.repeat(every, 40), np.tile(every + 40, 40), np.zeros(1600, np.float32))
    plain, mirror = duplicates._correlations(pairs, kept(thumbnails))
    alike = np.maximum(plain, mirror) >= duplicates.SAME_NEAREST
    possible = duplicates._possible(pairs, kept(thumbnails))
    left = set(zip(possible.first.tolist(), possible.second.tolist(), strict=True))
    assert {(int(one), int(other)) for one, other in zip(pairs.first[alike], pairs.second[alike], strict=True)} <= left
    assert len(left) < 200  # of 1,600


def test_blank_images_are_not_copies_of_each_other() -> None:
    thumbnails = np.stack([np.full((32, 32, 3), 200, np.uint8)] * 2)
    thumbnails[:, 0, 0] = 201
    pairs = Pairs(np.array([0]), np.array([1]), np.array([1.0], np.float32))
    assert not duplicates.confirmed(pairs, np.array([1, 0]), kept(thumbnails), np.zeros(2, np.float32))
