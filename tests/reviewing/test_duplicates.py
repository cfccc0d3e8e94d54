import numpy as np
import pytest

from stages.reviewing import duplicates
from stages.reviewing.neighbours import Pairs
from tests.conftest import picture


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
    found = duplicates.confirmed(pairs, np.array([1, 0]), thumbnails, thumbnails.std((1, 2, 3)))
    assert [pair.mirrored for pair in found] == ([] if mirrored is None else [mirrored])


def test_blank_images_are_not_copies_of_each_other() -> None:
    thumbnails = np.stack([np.full((32, 32, 3), 200, np.uint8)] * 2)
    thumbnails[:, 0, 0] = 201
    pairs = Pairs(np.array([0]), np.array([1]), np.array([1.0], np.float32))
    assert not duplicates.confirmed(pairs, np.array([1, 0]), thumbnails, np.zeros(2, np.float32))


def test_groups_hang_together() -> None:
    assert duplicates.groups([(5, 2), (7, 9), (2, 1), (9, 8)]) == [[1, 2, 5], [7, 8, 9]]
