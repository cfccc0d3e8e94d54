"""`image_size: objects`: large enough for the objects, no larger than the images."""

from collections.abc import Callable
from typing import Any

import pytest

from stages import extract
from stages.datasets.base import Box
from stages.datasets.index_file import IndexRow
from stages.errors import UserError
from stages.features import input_size


def rows(*sides: float, size: int = 640, split: str | None = None) -> list[IndexRow]:
    """Square images with one square object each, of these sides in pixels."""
    return [
        IndexRow(f"{i}.jpg", f"{i:064}", size, size, "ant", (Box("ant", (0.0, 0.0, side, side)),), split)
        for i, side in enumerate(sides)
    ]


@pytest.mark.parametrize(
    ("side", "of_images", "expected"),
    [
        (94, 640, 448),  # 64 pixels need 436
        (320, 640, 224),  # large objects: not below what networks were trained for
        (10, 640, 512),  # tiny ones: not above what a cache can hold
        (30, 200, 224),  # small images: pixels that are not there help nobody
        (94, 400, 288),
    ],
)
def test_nine_of_ten_objects_have_64_pixels(side: int, of_images: int, expected: int) -> None:
    size, sentence = input_size.choose(rows(*[side] * 9, size=of_images))
    assert size == expected and sentence.startswith(f"image_size: objects takes {expected}: ")


def test_one_object_is_enough_and_none_is_refused() -> None:
    assert input_size.choose(rows(94))[0] == 448
    with pytest.raises(UserError, match="no image of train has any: take image_size=auto"):
        input_size.choose(rows(94, split="test"))


def test_objects_of_official_test_lists_do_not_take_part() -> None:
    train, test = rows(*[94] * 9, split="train"), rows(*[10] * 90, split="test")
    assert input_size.choose([*train, *test])[0] == 448


def test_other_values_stay(params: Callable[..., Any]) -> None:
    for value in ("auto", 320):
        chosen = params(image_size=value)
        assert extract.sized(chosen, rows(94)) == (chosen, "")
    assert extract.sized(params(image_size="objects"), rows(94))[0].input_size == 448
    with pytest.raises(ValueError, match="to be replaced"):
        _ = params(image_size="objects").input_size


def test_what_is_neither_is_explained(params: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match=r"`image_size` must be auto, objects or"):
        params(image_size="large")
