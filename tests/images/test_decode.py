"""From bytes to pixels: every kind of image a folder may hold, and where a pixel ends up."""

import io
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torchvision import models
from torchvision.transforms.functional import InterpolationMode

from stages.images.decode import MAX_RATIO, decode, kept_shape, kept_side, prepare, shrink
from stages.images.header import BadImage
from stages.images.preprocessing import Preprocessing, interpolation

Encoder = Callable[..., bytes]
MEAN = STD = (0.5, 0.5, 0.5)
HOW = Preprocessing(64, 56, "bilinear", MEAN, STD)
SQUASH = Preprocessing(None, 56, "bilinear", MEAN, STD)


def pixels(data: bytes) -> npt.NDArray[np.uint8]:
    """(H, W, 3) as coldcut decodes it."""
    decoded = decode(data)
    assert decoded.dtype == torch.uint8 and decoded.shape[0] == 3
    return decoded.permute(1, 2, 0).numpy()


def by_pillow(data: bytes) -> npt.NDArray[np.uint8]:
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


def saved(image: Image.Image, format: str, **options: Any) -> bytes:  # noqa: A002
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


# --- decode


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_plain_jpeg(jpeg: Encoder, mode: str) -> None:
    data = jpeg(mode=mode, size=(50, 30))
    difference = np.abs(pixels(data).astype(int) - by_pillow(data))
    assert difference.max() <= 3 and difference.mean() < 0.5


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "P"])
def test_png_is_exact(png: Encoder, mode: str) -> None:
    data = png(mode=mode)
    np.testing.assert_array_equal(pixels(data), by_pillow(data))


def test_grey_has_three_equal_channels(jpeg: Encoder, png: Encoder) -> None:
    for data in (jpeg(mode="L"), png(mode="L"), png(mode="LA")):
        found = pixels(data)
        assert (found == found[:, :, :1]).all()
        assert found.std() > 10


def test_cmyk_jpeg(jpeg: Encoder) -> None:
    data = jpeg(mode="CMYK")
    assert Image.open(io.BytesIO(data)).mode == "CMYK"
    np.testing.assert_array_equal(pixels(data), by_pillow(data))
    assert np.abs(pixels(data).astype(int) - pixels(jpeg())).mean() < 4  # and not its negative


def test_palette_with_transparency() -> None:
    image = Image.new("P", (4, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 8, 7])
    image.putdata([0, 1, 2, 3])
    expected = [[[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 8, 7]]]
    for transparency in (1, bytes([0, 128, 255, 3])):
        data = saved(image, "PNG", transparency=transparency)
        assert pixels(data).tolist() == expected


def test_alpha_is_dropped_and_not_blended() -> None:
    image = Image.new("RGBA", (2, 1))
    image.putdata([(200, 100, 50, 0), (10, 20, 30, 128)])
    assert pixels(saved(image, "PNG")).tolist() == [[[200, 100, 50], [10, 20, 30]]]


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_and_not_clipped(format: str) -> None:  # noqa: A002
    wide = np.array([[0, 256, 257, 514, 32_896, 65_535]], dtype=np.uint16)
    found = pixels(saved(Image.fromarray(wide), format))
    assert found[0, :, 0].tolist() == [0, 0, 1, 2, 128, 255]
    assert (found == found[:, :, :1]).all()


def test_floats_of_0_to_255_keep_their_whole_part() -> None:
    values = np.array([[0, 1.5, 254.9, 255]], dtype=np.float32)
    assert pixels(saved(Image.fromarray(values), "TIFF"))[0, :, 0].tolist() == [0, 1, 254, 255]


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize(("format", "mode"), [("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGB"),
                                              ("PNG", "P"), ("WEBP", "RGB"), ("TIFF", "RGB")])  # fmt: skip
def test_every_orientation(format: str, mode: str, turn: int) -> None:  # noqa: A002
    blocks = np.random.default_rng(3).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    image = Image.fromarray(blocks).resize((64, 48), Image.Resampling.NEAREST).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = turn
    options: dict[str, Any] = {"lossless": True} if format == "WEBP" else {"quality": 95} if format == "JPEG" else {}
    data = saved(image, format, exif=exif, **options)
    expected = by_pillow(data)
    assert expected.shape == ((64, 48, 3) if turn >= 5 else (48, 64, 3))
    found = pixels(data)
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= (4 if format == "JPEG" else 0)
    if turn > 1:  # the picture has no symmetry that would hide a wrong turn
        plain = pixels(saved(image, format, **options))
        assert plain.shape != found.shape or np.abs(plain.astype(int) - found).mean() > 20


@pytest.mark.parametrize("turn", range(1, 9))
def test_every_orientation_of_a_16_bit_png(turn: int) -> None:
    values = (np.arange(12, dtype=np.uint16) * 257 * 20).reshape(3, 4)
    exif = Image.Exif()
    exif[0x0112] = turn
    data = saved(Image.fromarray(values), "PNG", exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data)))) // 257
    np.testing.assert_array_equal(pixels(data)[..., 0], expected)


def test_the_first_frame_of_an_animation() -> None:
    red, blue = Image.new("RGB", (8, 6), (255, 0, 0)), Image.new("RGB", (8, 6), (0, 0, 255))
    data = saved(red, "GIF", save_all=True, append_images=[blue, blue], duration=100)
    assert Image.open(io.BytesIO(data)).n_frames > 1
    assert pixels(data).tolist() == [[[255, 0, 0]] * 8] * 6


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
def test_one_pixel(format: str) -> None:  # noqa: A002
    data = saved(Image.new("RGB", (1, 1), (255, 255, 255)), format)
    image = decode(data)
    assert image.shape == (3, 1, 1)
    for how in (HOW, SQUASH):
        view, affine = prepare(image, how)
        assert view.shape == (3, 56, 56)
        assert view.min() >= 254
        assert affine[0, 0] == (64 if how.resize else 56)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP"])
def test_truncated_images_are_refused(format: str, share: float) -> None:  # noqa: A002
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8))
    data = saved(noise, format)
    decode(data)
    with pytest.raises(BadImage, match=r"."):
        decode(data[: int(share * len(data))])


def test_a_jpeg_without_its_last_byte_is_refused(jpeg: Encoder) -> None:
    with pytest.raises(BadImage, match="truncated"):
        decode(jpeg(size=(200, 200))[:-60])


def test_zeros_after_a_jpeg_are_nothing(jpeg: Encoder) -> None:
    np.testing.assert_array_equal(pixels(jpeg() + bytes(7)), pixels(jpeg()))


def test_decode_does_not_write_into_the_bytes_it_is_given(jpeg: Encoder) -> None:
    data = jpeg()
    before = bytes(bytearray(data))
    decode(data)
    assert data == before


# --- prepare


@pytest.mark.parametrize("size", [(100, 60), (60, 100), (64, 64), (301, 200), (57, 333)])
def test_the_shape_is_always_the_crop(jpeg: Encoder, size: tuple[int, int]) -> None:
    for how in (HOW, SQUASH):
        view, affine = prepare(decode(jpeg(size=size)), how)
        assert view.shape == (3, 56, 56) and view.dtype == torch.uint8
        assert affine.shape == (2, 3) and affine.dtype == np.float32


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (3, 4000), (20_000, 2)])
def test_extreme_aspect_ratios_are_cheap(png: Encoder, size: tuple[int, int]) -> None:
    image = decode(png(size=size))
    started = time.perf_counter()
    for how in (HOW, SQUASH):
        view, _ = prepare(image, how)
        assert view.shape == (3, 56, 56)
    assert time.perf_counter() - started < 0.5


def test_of_an_extreme_image_the_middle_is_seen() -> None:
    image = torch.zeros(3, 2, 2000, dtype=torch.uint8)
    image[:, :, 999:1001] = 255
    view, affine = prepare(image, SQUASH)
    kept = 2 * MAX_RATIO
    np.testing.assert_allclose(affine, [[56 / kept, 0, -56 / kept * (2000 - kept) / 2], [0, 28, 0]], rtol=1e-6)
    columns = view[0].float().mean(0)
    assert columns.argmax() in (27, 28) and columns[0] == columns[-1] == 0


@pytest.mark.parametrize(
    "weights",
    [
        models.ResNet18_Weights.IMAGENET1K_V1,
        models.EfficientNet_B1_Weights.IMAGENET1K_V1,  # bicubic
        models.MobileNet_V3_Large_Weights.IMAGENET1K_V2,
        models.Inception_V3_Weights.IMAGENET1K_V1,  # 342 to 299
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(500, 375), (333, 512), (256, 256), (120, 97)])
def test_the_same_as_torchvision_on_pillow_images(jpeg: Encoder, weights: Any, size: tuple[int, int]) -> None:
    transforms = weights.transforms()
    data = jpeg(seed=5, size=size)
    expected = transforms(Image.open(io.BytesIO(data)))
    how = Preprocessing(
        transforms.resize_size[0],
        transforms.crop_size[0],
        interpolation(transforms.interpolation.value),
        tuple(transforms.mean),
        tuple(transforms.std),
    )
    view, _ = prepare(decode(data), how)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (how.mean, how.std))
    levels = (view.float() - 255 * (mean + std * expected)).abs()
    assert levels.mean() < 2
    assert levels.max() < 16


def centre_of(view: torch.Tensor) -> tuple[float, float]:
    """Where the light is, in pixels: the centre of the first pixel is at 0.5, 0.5."""
    light = view[0].double()
    rows, columns = (torch.arange(side).double() + 0.5 for side in light.shape)
    total = light.sum()
    return float((light.sum(0) * columns).sum() / total), float((light.sum(1) * rows).sum() / total)


@settings(max_examples=120)
@given(
    width=st.integers(60, 400),
    height=st.integers(60, 400),
    across=st.floats(0.02, 0.98),
    down=st.floats(0.02, 0.98),
    how=st.sampled_from([HOW, SQUASH, Preprocessing(96, 96, "bicubic", MEAN, STD)]),
)
def test_the_map_says_where_a_dot_lands(
    width: int, height: int, across: float, down: float, how: Preprocessing
) -> None:
    left, top = round(across * (width - 9)), round(down * (height - 9))
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[:, top : top + 9, left : left + 9] = 255
    view, affine = prepare(image, how)
    corners = affine @ np.array([[left, left + 9], [top, top + 9], [1, 1]])
    if corners.min() < 4 or corners.max() > how.crop - 4:
        return  # cut by the edge of the view
    x, y = affine @ np.array([left + 4.5, top + 4.5, 1])
    found = centre_of(view)
    assert abs(found[0] - x) < 1 and abs(found[1] - y) < 1


@pytest.mark.parametrize("how", [HOW, SQUASH], ids=["crop", "squash"])
@pytest.mark.parametrize("size", [(320, 200), (200, 320), (64, 2000), (2000, 64)])
def test_a_dot_in_the_middle_and_off_it(size: tuple[int, int], how: Preprocessing) -> None:
    width, height = size
    for dx, dy in ((0, 0), (11, 0), (0, -11), (-9, 9)):
        x, y = width // 2 + dx, height // 2 + dy
        image = torch.zeros(3, height, width, dtype=torch.uint8)
        image[:, y - 4 : y + 5, x - 4 : x + 5] = 255
        view, affine = prepare(image, how)
        expected = affine @ np.array([x + 0.5, y + 0.5, 1])
        assert expected.min() > 0 and expected.max() < 56
        np.testing.assert_allclose(centre_of(view), expected, atol=1)


# --- Preprocessing


def test_it_says_what_it_does() -> None:
    assert str(Preprocessing(256, 224, "bilinear", (0.1, 0.2, 0.3), (1, 1, 1))) == (
        "decode|resize(256,bilinear)|center_crop(224)|normalize([0.1, 0.2, 0.3],[1, 1, 1])"
    )
    assert str(Preprocessing(None, 224, "bicubic", (0, 0, 0), (1, 1, 1))) == (
        "decode|resize(224x224,bicubic)|normalize([0, 0, 0],[1, 1, 1])"
    )


def test_another_size_keeps_the_share_of_the_crop() -> None:
    how = Preprocessing(256, 224, "bilinear", MEAN, STD)
    assert how.at("auto", "crop") == how
    assert (how.at(112, "crop").resize, how.at(112, "crop").crop) == (128, 112)
    assert (how.at(112, "squash").resize, how.at(112, "squash").crop) == (None, 112)
    assert (SQUASH.at("auto", "crop").resize, SQUASH.at("auto", "crop").crop) == (None, 56)


@pytest.mark.parametrize("name", ["nearest", "bilinear", "bicubic", "lanczos", "BICUBIC"])
def test_every_interpolation_is_known(name: str) -> None:
    assert interpolation(name) == name.lower()


@pytest.mark.parametrize("name", ["nearest", "bilinear", "bicubic"])
def test_every_interpolation_runs(name: str) -> None:
    image = torch.full((3, 100, 80), 77, dtype=torch.uint8)
    view, _ = prepare(image, Preprocessing(64, 56, interpolation(name), MEAN, STD))
    assert (view == 77).all()
    assert InterpolationMode(name).value == name


def test_an_unknown_interpolation_is_refused() -> None:
    with pytest.raises(ValueError, match="'cubic' is not one of"):
        interpolation("cubic")


# --- keep


@settings(max_examples=50)
@given(height=st.integers(1, 400), width=st.integers(1, 400))
def test_what_is_kept_is_no_larger_than_training_needs(height: int, width: int) -> None:
    image = torch.zeros((3, height, width), dtype=torch.uint8)
    kept, affine = shrink(image, HOW)
    short, long = sorted(kept.shape[1:])
    assert short == min(kept_side(HOW), height, width) and kept_side(HOW) == 64
    assert long <= 2 * short and kept.dtype == torch.uint8
    corners = np.array([[0, 0, 1], [width, height, 1]]) @ affine.T  # of the image, in pixels of what is kept
    room = np.array([kept.shape[2], kept.shape[1]])
    np.testing.assert_allclose(corners.mean(0), room / 2, atol=1 + 0.5 * affine[0, 0])  # the middle stays the middle
    assert (corners[0] <= 1e-3).all() and (corners[1] >= room - 1e-3).all()


def test_a_small_image_is_kept_as_it_is() -> None:
    image = torch.randint(0, 256, (3, 30, 50), dtype=torch.uint8)
    kept, affine = shrink(image, HOW)
    assert torch.equal(kept, image)
    np.testing.assert_array_equal(affine, [[1, 0, 0], [0, 1, 0]])


@pytest.mark.parametrize(("height", "width"), [(40, 300), (300, 40), (200, 1000)])
def test_of_a_long_image_the_middle_is_kept(height: int, width: int) -> None:
    ramp = torch.linspace(0, 255, max(height, width))
    image = (ramp[None, :] if width > height else ramp[:, None]).expand(3, height, width).to(torch.uint8)
    kept, affine = shrink(image, HOW)
    short, long = sorted(kept.shape[1:])
    assert long == 2 * short
    assert abs(float(kept.float().mean()) - 127.5) < 2
    span = (
        (affine[0, 0], -affine[0, 2], kept.shape[2]) if width > height else (affine[1, 1], -affine[1, 2], kept.shape[1])
    )
    scale, start, length = span
    first, last = start / scale, (start + length) / scale  # in pixels of the image
    expected = 255 * np.array([first, last]) / max(height, width)
    found = kept[0, 0, [0, -1]] if width > height else kept[0, [0, -1], 0]
    np.testing.assert_allclose(found.float(), expected, atol=4)


def test_what_is_kept_is_resized_with_antialiasing() -> None:
    stripes = torch.zeros((3, 256, 256), dtype=torch.uint8)
    stripes[:, :, ::2] = 255
    kept, _ = shrink(stripes, HOW)
    assert kept.shape == (3, 64, 64) and 110 < kept[:, 2:-2, 2:-2].min() <= kept[:, 2:-2, 2:-2].max() < 145


@pytest.mark.parametrize("sizes", [[(28, 28)], [(300, 200), (90, 600)], [(640, 480), (480, 640), (31, 1000), (7, 5)]])
def test_the_shape_of_kept_images_is_known_beforehand(sizes: list[tuple[int, int]]) -> None:
    kept = [shrink(torch.zeros((3, height, width), dtype=torch.uint8), HOW)[0].shape for width, height in sizes]
    assert kept_shape(sizes, HOW) == (3, max(shape[1] for shape in kept), max(shape[2] for shape in kept))
