from collections.abc import Callable

import numpy as np
import pytest

from stages.reviewing import odd
from stages.reviewing.pixels import THUMBNAIL, Pixels, Thumbnails
from tests.reviewing.data import row

COUNT = 60


def pixels(**changed: np.ndarray) -> Pixels:
    """Of COUNT ordinary images, but for some values."""
    generator = np.random.default_rng(0)
    ordinary = {"contrast": 50.0, "sharpness": 1.0, "colour": 40.0}
    values = {
        name: (value + generator.normal(0, value / 20, COUNT)).astype(np.float32) for name, value in ordinary.items()
    }
    thumbnails = Thumbnails(np.zeros((COUNT, THUMBNAIL, THUMBNAIL, 3), np.uint8), np.arange(COUNT))
    return Pixels(readable=np.ones(COUNT, bool), thumbnails=thumbnails, **values | changed)


def only_first(value: float, ordinary: np.ndarray) -> np.ndarray:
    changed = ordinary.copy()
    changed[0] = value
    return changed


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [("contrast", 0.5, "blank"), ("sharpness", 0.01, "blurred"), ("colour", 0.0, "grey in a class in colour")],
)
def test_an_odd_image_is_found_by_its_pixels(name: str, value: float, what: str) -> None:
    rows, ordinary = [row(number) for number in range(COUNT)], pixels()
    assert not list(odd.by_pixels(rows, ordinary))
    changed = pixels(**{name: only_first(value, getattr(ordinary, name))})
    assert [(item.position, item.what) for item in odd.by_pixels(rows, changed)] == [(0, what)]


@pytest.mark.parametrize(
    ("width", "height", "what"), [(10, 10, "tiny"), (100, 500, "extreme shape"), (900, 100, "extreme shape")]
)
def test_an_odd_image_is_found_by_its_size(width: int, height: int, what: str) -> None:
    rows = [row(0, width=width, height=height), *(row(number) for number in range(1, COUNT))]
    assert [(item.position, item.what) for item in odd.by_size(rows)] == [(0, what)]


def test_an_image_far_from_all_others_is_found() -> None:
    cosine = np.random.default_rng(0).normal(0.7, 0.03, COUNT).astype(np.float32)
    assert [item.position for item in odd.by_features(only_first(0.1, cosine))] == [0]


@pytest.mark.parametrize(
    "find",
    [
        lambda: odd.by_size([row(number, width=500 if number % 2 else 100) for number in range(COUNT)]),
        lambda: odd.by_pixels([row(number) for number in range(COUNT)], pixels(colour=np.zeros(COUNT, np.float32))),
        lambda: odd.by_features(np.full(COUNT, 0.7, np.float32)),
    ],
    ids=["shapes", "a grey set", "all alike"],
)
def test_what_many_images_are_is_not_odd(find: Callable[[], object]) -> None:
    assert not list(find())  # type: ignore[call-overload]
