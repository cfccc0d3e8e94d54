"""The maths of random views: whole pixels are the rounded crop of the same random numbers."""

import pytest
import torch

from stages.images.crops import NUMBERS_PER_VIEW, random_crops
from stages.images.options import Augment


@pytest.mark.parametrize("crop", [1.0, 0.4])
def test_whole_pixels_round_the_same_crop(crop: float) -> None:
    augment = Augment(crop=crop, flip=True, rotate=20.0, lighting=0.2)
    uniform = torch.rand((50, NUMBERS_PER_VIEW), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sizes = torch.randint(1, 500, (50, 2), generator=torch.Generator().manual_seed(1))
    exact, whole = (random_crops(uniform, sizes, augment, whole_pixels=whole) for whole in (False, True))
    assert torch.equal(whole.box, whole.box.round())
    assert (whole.box - exact.box).abs().max() <= 1
    assert (whole.box[:, 2:] >= 1).all() and (whole.box[:, :2] + whole.box[:, 2:] <= sizes.flip(1)).all()
    for name in ("flip", "angle", "brightness", "contrast"):
        assert torch.equal(getattr(exact, name), getattr(whole, name))
