"""Images while training: what is drawn is drawn for each image, by the generator alone, and never shows padding."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as F

from stages.images import decode, views
from stages.images.batch_views import draw, evaluation, view
from stages.images.crops import BatchCropParams
from stages.images.normalization import Normalize
from stages.images.options import Augment
from stages.images.preprocessing import FILL, Preprocessing

NOTHING = Augment(crop=1.0, flip=False, rotate=0.0, lighting=0.0)
ALL = Augment(crop=0.3, flip=True, rotate=30.0, lighting=0.3)
HOW = Preprocessing(64, 56, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def augmented(
    images: torch.Tensor, sizes: torch.Tensor, *, augment: Augment, size: int, generator: torch.Generator
) -> torch.Tensor:
    """A random view of each image."""
    return view(images, sizes, crops=draw(sizes, augment, generator), size=size)


def smooth(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """uint8 (3, height, width)."""
    blocks = torch.rand((3, 4, 4), generator=torch.Generator().manual_seed(seed)) * 255
    pixels: torch.Tensor = F.resize(blocks, [height, width], antialias=False).round().to(torch.uint8)
    return pixels


def padded(images: list[torch.Tensor], padding: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    sizes = torch.tensor([image.shape[1:] for image in images], dtype=torch.int32)
    batch = torch.full((len(images), 3, *sizes.amax(0).tolist()), padding, dtype=torch.uint8)
    for place, image in enumerate(images):
        batch[place, :, : image.shape[1], : image.shape[2]] = image
    return batch, sizes


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def plain(box: list[float], **changes: list[float]) -> BatchCropParams:
    """A single view of a box; nothing else is drawn."""
    values = {"flip": [0.0], "angle": [0.0], "brightness": [1.0], "contrast": [1.0]} | changes
    tensors = {name: torch.tensor(value) for name, value in values.items()}
    return BatchCropParams(box=torch.tensor([box]), **(tensors | {"flip": tensors["flip"].bool()}))


@pytest.mark.parametrize("side", [64, 74, 40])
def test_without_augmentation_a_square_is_resized(side: int) -> None:
    images, sizes = padded([smooth(side, side, seed) for seed in range(3)])
    expected = F.resize(images.float(), [64, 64], antialias=False)
    found = augmented(images, sizes, augment=NOTHING, size=64, generator=seeded())
    assert found.dtype == torch.float32 and found.shape == (3, 3, 64, 64)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.1)


def test_flip_flips() -> None:
    images, sizes = padded([smooth(64, 64)])
    straight, flipped = (
        view(images, sizes, crops=plain([0.0, 0.0, 64.0, 64.0], flip=[f]), size=64) for f in (0.0, 1.0)
    )
    torch.testing.assert_close(flipped, straight.flip(-1), rtol=0, atol=1e-2)
    torch.testing.assert_close(straight, images.float(), rtol=0, atol=1e-2)


def test_about_half_are_flipped() -> None:
    sizes = torch.full((1000, 2), 64)
    assert 400 < int(draw(sizes, ALL, seeded()).flip.sum()) < 600
    assert not draw(sizes, NOTHING, seeded()).flip.any()


@pytest.mark.parametrize("angle", [90.0, -90.0, 180.0, 25.0])
def test_a_rotation_turns_as_that_of_a_cached_view(angle: float) -> None:
    images, sizes = padded([smooth(64, 64)])
    found = view(images, sizes, crops=plain([0.0, 0.0, 64.0, 64.0], angle=[angle]), size=64)
    expected = F.rotate(images.float(), angle, F.InterpolationMode.BILINEAR, fill=[float(FILL)])
    differ = ((found - expected).abs().amax(1) > 3).float().mean()  # along the edges the two fill otherwise
    assert float(differ) < 0.03


def test_lighting_is_that_of_a_cached_view() -> None:
    images, sizes = padded([smooth(64, 64)])
    found = view(images, sizes, crops=plain([0.0, 0.0, 64.0, 64.0], brightness=[1.2], contrast=[0.7]), size=64)
    expected = F.adjust_contrast(F.adjust_brightness(images, 1.2), 0.7).float()
    torch.testing.assert_close(found, expected, rtol=0, atol=2.5)  # that one rounds three times


@settings(max_examples=40)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=4),
    crop=st.floats(0.05, 1),
    rotate=st.floats(0, 180),
    seed=st.integers(0, 1000),
)
def test_padding_is_never_seen(sizes: list[tuple[int, int]], crop: float, rotate: float, seed: int) -> None:
    """Images of one colour, padding of another: what is not the image is the fill."""
    batch, true = padded([torch.full((3, *size), 200, dtype=torch.uint8) for size in sizes], padding=7)
    batch = torch.nn.functional.pad(batch, (0, 3, 0, 5), value=7)
    augment = Augment(crop=crop, flip=True, rotate=rotate, lighting=0.0)
    for found in (
        augmented(batch, true, augment=augment, size=16, generator=seeded(seed)),
        evaluation(batch, true, HOW),
    ):
        shown = ((found - 200).abs() < 0.1) | (found == FILL)
        assert shown.all()
        assert rotate or (found != FILL).all()


@settings(max_examples=40)
@given(size=st.tuples(st.integers(8, 600), st.integers(8, 600)), crop=st.floats(0.05, 1), seed=st.integers(0, 1000))
def test_a_crop_lies_within_its_image_and_is_as_large_as_asked(size: tuple[int, int], crop: float, seed: int) -> None:
    sizes = torch.tensor([size] * 20)
    left, top, width, height = draw(sizes, ALL.model_copy(update={"crop": crop}), seeded(seed)).box.unbind(1)
    assert (left >= 0).all() and (left + width <= size[1] + 1e-3).all()
    assert (top >= 0).all() and (top + height <= size[0] + 1e-3).all()
    if crop == 1:
        assert (width == min(size)).all() and (height == min(size)).all()
    else:
        whole = (width < size[1] - 1e-3) & (height < size[0] - 1e-3)  # not cut by an edge of the image
        share, ratio = (width * height / (size[0] * size[1]))[whole], (width / height)[whole]
        assert (share >= crop - 1e-3).all()
        assert ((ratio >= 3 / 4 - 1e-3) & (ratio <= 4 / 3 + 1e-3)).all()


def test_each_image_has_its_own_draw_and_the_generator_decides() -> None:
    images, sizes = padded([smooth(70, 90)] * 3)
    one, again, other = (augmented(images, sizes, augment=ALL, size=32, generator=seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert len({tuple(image.flatten().tolist()) for image in one}) == 3
    assert one.min() >= 0 and one.max() <= 255


@pytest.mark.parametrize("how", [HOW, Preprocessing(None, 56, "bilinear", HOW.mean, HOW.std)])
@pytest.mark.parametrize("size", [(200, 300), (300, 200), (56, 60), (240, 240)])
def test_the_evaluation_view_is_that_of_cached_features(size: tuple[int, int], how: Preprocessing) -> None:
    image = smooth(*size)
    kept, _ = decode.shrink(image, how)
    expected, _ = decode.prepare(image, how)
    found = evaluation(*padded([kept, smooth(80, 90)]), how)[0]
    assert float((found - expected.float()).abs().mean()) < 2
    assert float((found - expected.float()).abs().max()) < 12


def test_all_is_done_where_the_images_are() -> None:
    """On a device without memory nothing can be computed beside it unnoticed."""
    images, sizes = torch.zeros((2, 3, 40, 50), dtype=torch.uint8, device="meta"), torch.tensor([[40, 50], [30, 30]])
    for found in (augmented(images, sizes, augment=ALL, size=32, generator=seeded()), evaluation(images, sizes, HOW)):
        assert found.device.type == "meta" and found.shape[:2] == (2, 3)
        assert Normalize(HOW).to(found.device)(found).device.type == "meta"


def test_places_follow_the_view() -> None:
    """The affine map is that of a cached view of the same box, flip and angle."""
    drawn = plain([10.0, 5.0, 40.0, 20.0], flip=[1.0], angle=[30.0])
    expected = views.affine(views.CropParams((10, 5, 40, 20), True, 30.0, 1.0, 1.0), 32)
    np.testing.assert_allclose(drawn.affine(32)[0].numpy(), expected, atol=1e-4)
