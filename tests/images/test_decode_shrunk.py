"""Large photographs are shrunk while they are decoded, and are hardly another picture."""

import io
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from stages.images.decode import decode, decode_shrunk, divisor, prepare
from stages.images.options import Augment
from stages.images.preprocessing import Preprocessing
from stages.images.views import EVALUATION, names, needed_side

HOW = Preprocessing(256, 224, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def photograph(width: int, height: int, orientation: int = 1, mode: str = "RGB") -> bytes:
    """A smooth JPEG with some noise."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (9, 12, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), np.int16)
    noise = generator.integers(-12, 13, (height, width, 1), dtype=np.int16)
    stream, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8)).convert(mode)
    image.save(stream, "JPEG" if mode != "RGBA" else "PNG", quality=90, exif=exif)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("width", "height", "side", "by"),
    [(4000, 3000, 256, 4), (4000, 3000, 64, 8), (4000, 3000, 700, 2), (1024, 1024, 256, 2), (1023, 1024, 256, 1),
     (300, 200, 256, 1)],
)  # fmt: skip
def test_it_stays_twice_as_large_as_needed(width: int, height: int, side: int, by: int) -> None:
    assert divisor(photograph(width, height), side) == by


@pytest.mark.parametrize("mode", ["CMYK", "RGBA"])
def test_what_is_no_plain_jpeg_is_decoded_as_it_is(mode: str) -> None:
    assert divisor(photograph(600, 600, mode=mode), 32) == 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("width", "height", "most"), [(1200, 1056, 1.0), (1203, 1061, 5.0)])  # divided by 4, and not
def test_the_view_is_nearly_the_same_and_so_is_its_map(width: int, height: int, most: float, orientation: int) -> None:
    data = photograph(width, height, orientation)
    how = Preprocessing(128, 112, "bilinear", HOW.mean, HOW.std)
    pixels, scale = decode_shrunk(data, divisor(data, 128))
    plain, plain_map = prepare(decode(data), how)
    view, view_map = prepare(pixels, how)
    assert (view.float() - plain.float()).abs().mean() < most
    moved = view_map * np.array([scale, scale, 1]) - plain_map
    corners = np.array([[0, 0, 1], [1061, 1061, 1], [1061, 0, 1]]).T
    assert np.abs(moved @ corners).max() < 1  # pixels of the view


def test_a_random_view_needs_more_than_the_evaluation_view() -> None:
    augment = Augment(crop=0.4, flip=True, rotate=0.0, lighting=0.0)
    sides = [needed_side(name, HOW) for name in names(2, augment, 0)]
    assert sides == [256, 409] and names(1, augment, 0) == [EVALUATION]


def test_a_damaged_file_goes_the_plain_way() -> None:
    data = photograph(1024, 1024)
    broken = data[: len(data) // 2] + b"\xff\xd9"
    pixels, scale = decode_shrunk(broken, 2)
    assert scale in (1.0, 0.5) and pixels.dtype == torch.uint8


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_broken_exif_block_loses_nothing(orientation: int) -> None:
    """Besides the orientation there is a width of -5, which Pillow can read but not write."""
    entries = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0) + struct.pack("<HHIi", 0x0100, 9, 1, -5)
    broken = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 2) + entries + b"\0\0\0\0"
    plain = photograph(1024, 1100, orientation)
    start = plain.index(b"\xff\xe1")
    rest = plain[start + 2 + int.from_bytes(plain[start + 2 : start + 4], "big") :]
    data = plain[:start] + b"\xff\xe1" + struct.pack(">H", len(broken) + 2) + broken + rest
    for decoded, expected in ((decode(data), decode(plain)), (decode_shrunk(data, 2)[0], decode_shrunk(plain, 2)[0])):
        assert torch.equal(decoded, expected)


def test_garbage_in_place_of_exif_loses_nothing() -> None:
    plain = photograph(1024, 1100)
    start = plain.index(b"\xff\xe1")
    end = start + 2 + int.from_bytes(plain[start + 2 : start + 4], "big")
    data = plain[:start] + b"\xff\xe1\0\x0fExif\0\0GARBAGE" + plain[end:]
    assert torch.equal(decode_shrunk(data, 2)[0], decode_shrunk(plain, 2)[0])
