"""What the header tells: formats by their first bytes, the size as a viewer shows it, and no bombs."""

import contextlib
import io
import struct
import time
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from stages.images import header
from stages.images.decode import decode
from stages.images.header import BadImage

Encoder = Callable[..., bytes]
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM")


def encoded(format: str, size: tuple[int, int] = (6, 4), mode: str = "RGB") -> bytes:  # noqa: A002
    stream = io.BytesIO()
    Image.new(mode, size).save(stream, format)
    return stream.getvalue()


def declared(width: int, height: int) -> bytes:
    """A PNG whose header promises these sizes and that holds next to nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("format", FORMATS)
def test_accepted_formats(format: str) -> None:  # noqa: A002
    data = encoded(format)
    assert header.looks_like_image(data)
    assert header.size(data) == (6, 4)


@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_ppm_of_every_kind(mode: str) -> None:
    data = encoded("PPM", mode=mode)
    assert data[:2] == {"1": b"P4", "L": b"P5", "RGB": b"P6"}[mode]
    assert header.looks_like_image(data)
    assert header.size(data) == (6, 4)


def test_a_format_is_told_by_content() -> None:
    assert not header.looks_like_image(b" " + encoded("PNG"))


def test_a_huge_image_is_refused_quickly() -> None:
    data = declared(100_000, 100_000)
    assert len(data) < 200
    started = time.perf_counter()
    for read in (header.size, decode):
        with pytest.raises(BadImage, match=r"100000 x 100000 pixels: more than 50,000,000"):
            read(data)
    assert time.perf_counter() - started < 0.5


def test_the_limit_is_exact() -> None:
    assert header.size(declared(10_000, 5_000)) == (10_000, 5_000)
    with pytest.raises(BadImage, match="more than"):
        header.size(declared(10_000, 5_001))


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_size_is_that_of_the_decoded_image(format: str, turn: int) -> None:  # noqa: A002
    exif, stream = Image.Exif(), io.BytesIO()
    exif[0x0112] = turn
    Image.new("RGB", (30, 20)).save(stream, format, exif=exif)
    expected = (20, 30) if turn >= 5 else (30, 20)
    assert header.size(stream.getvalue()) == expected
    assert tuple(decode(stream.getvalue()).shape) == (3, expected[1], expected[0])


def test_an_orientation_that_does_not_exist_is_upright(jpeg: Encoder) -> None:
    exif = Image.Exif()
    exif[0x0112] = 42
    assert header.size(jpeg(size=(30, 20), exif=exif)) == (30, 20)


def test_a_damaged_exif_block_loses_nothing(jpeg: Encoder) -> None:
    data = jpeg(size=(30, 20), exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert header.size(data) == (30, 20)
    assert tuple(decode(data).shape) == (3, 20, 30)


@settings(max_examples=150)
@given(
    format=st.sampled_from(FORMATS),
    cut=st.floats(0, 1),
    places=st.lists(st.tuples(st.floats(0, 0.999), st.integers(1, 255)), max_size=6),
)
def test_damaged_images_are_bad_images_and_nothing_else(
    format: str,  # noqa: A002
    cut: float,
    places: list[tuple[float, int]],
) -> None:
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, format)
    data = bytearray(stream.getvalue())
    for place, change in places:
        data[int(place * min(len(data), 200))] ^= change
    for read in (header.size, decode):
        with contextlib.suppress(BadImage):
            read(bytes(data[: round(cut * len(data))]))


def test_large_texts_and_profiles_of_a_png_lose_nothing() -> None:
    """Pillow refuses 1 MB of them; a bomb among them is never unpacked."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    texts = PngInfo()
    texts.add_text("comment", "x" * (2 << 20), zip=True)
    for options in ({"icc_profile": bytes(3 << 20)}, {"pnginfo": texts}):
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG", **options)
        assert header.size(stream.getvalue()) == (30, 20)
        np.testing.assert_array_equal(decode(stream.getvalue()).permute(1, 2, 0).numpy(), pixels)


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
@pytest.mark.parametrize("share", [0.4, 0.9])
def test_a_file_that_was_cut_short_is_told_from_one_with_bytes_after_its_end(format: str, share: float) -> None:  # noqa: A002
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(stream, format)
    data = stream.getvalue()
    header.check_complete(data)
    header.check_complete(data + bytes(200))
    with pytest.raises(BadImage, match=r"."):
        header.check_complete(data[: int(share * len(data))])


def test_libtiff_says_nothing_of_a_damaged_file(capfd: pytest.CaptureFixture[str]) -> None:
    """Its lines name no file; what is wrong is told with the name of the file."""
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "TIFF", compression="tiff_lzw")
    data = bytearray(stream.getvalue())
    data[30 : len(data) // 2] = bytes(len(data) // 2 - 30)
    with pytest.raises(BadImage, match=r"."):
        decode(bytes(data))
    assert capfd.readouterr() == ("", "")
