"""How many unreadable images a run leaves out, and what it says when there are more."""

import pytest

from stages.datasets.registry import BadImages


@pytest.mark.parametrize(
    ("max_fraction", "images", "limit"),
    [(0.01, 5, 3), (0.01, 300, 3), (0.01, 1000, 10), (0.5, 10, 5), (0.0, 1000, 0), (1.0, 7, 7)],
)
def test_a_few_bad_images_are_left_out_unless_none_may_be(max_fraction: float, images: int, limit: int) -> None:
    assert BadImages(max_fraction=max_fraction).limit(images) == limit


@pytest.mark.parametrize("images", [5, 63, 999])
def test_the_advised_share_is_enough(images: int) -> None:
    bad = [{"path": f"{number}.jpg", "reason": "truncated"} for number in range(4)]
    message = BadImages(max_fraction=0.001).refusal(bad, images=images, verb="read")
    assert message.startswith(f"4 of {images} images cannot be read") and "4 x truncated (such as 0.jpg)" in message
    advised = float(message.rpartition("-S bad_images.max_fraction=")[2].splitlines()[0])
    assert BadImages(max_fraction=advised).limit(images) >= 4
