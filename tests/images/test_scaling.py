"""Values of more than 8 bits: none comes out black, ordinary ones come out as they always did, and scaling is told."""

import io
import re
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from stages.images.decode import decode
from stages.images.header import BadImage
from stages.images.loading import inspect, load

PICTURE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
GREY = PICTURE[..., 0]
MAX_SAMPLE, SIGNED_MAX_SAMPLE = 281, 341  # tags of a TIFF


def tiff(values: npt.NDArray[Any], **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "TIFF", **options)
    return stream.getvalue()


def png_16(values: npt.NDArray[Any]) -> bytes:
    """A PNG of 16 bits per channel, which Pillow reads and does not write."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def wide(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return values.astype(np.uint16)


SCALED = {
    "floats, 0 to 1": (tiff((GREY / 255).astype(np.float32)), GREY, 0),
    "floats, -1 to 1": (tiff((GREY / 127.5 - 1).astype(np.float32)), GREY, 0),
    "12-bit integers, 0 to 4,095": (tiff(wide(GREY) * 16), GREY, 1),
    "10-bit integers, 0 to 1,023": (tiff(wide(GREY) * 4), GREY, 1),
    "14-bit integers, 0 to 16,383": (tiff(wide(GREY) * 64), GREY, 1),
    "8-bit integers, 0 to 255": (tiff(GREY.astype(np.int32)), GREY, 0),
    "0 to 5,100, as the file states": (tiff(wide(GREY) * 20, tiffinfo={MAX_SAMPLE: 5100}), GREY, 0),
    "0 to 2, as the file states": (
        tiff((GREY / 127.5).astype(np.float32), tiffinfo={SIGNED_MAX_SAMPLE: 2.0}), GREY, 0,
    ),
    "integers, .*: its range without the outer 0.5 %": (tiff(GREY.astype(np.int32) * 1_000_000), GREY, 4),
    "floats, .*: its range without the outer 0.5 %": (tiff(GREY.astype(np.float32) * 100), GREY, 4),
}  # fmt: skip


@pytest.mark.parametrize("description", SCALED)
def test_no_kind_of_values_comes_out_black(description: str) -> None:
    data, expected, tolerance = SCALED[description]
    image, scaling = load(data)
    assert np.abs(np.asarray(image)[..., 0].astype(int) - expected).max() <= tolerance
    assert scaling and re.fullmatch(description, scaling.description)
    assert inspect(data).scaling == scaling.description
    np.testing.assert_array_equal(decode(data).permute(1, 2, 0).numpy(), np.asarray(image))


PLAIN = {
    "16 bits": (tiff(wide(GREY) * 257), GREY),
    "floats of 0 to 255": (tiff(GREY.astype(np.float32)), GREY),
    "16 bits, as the file states": (tiff(wide(GREY), tiffinfo={MAX_SAMPLE: 65_535}), 0 * GREY),
    "a PGM of 10 bits": (b"P5 30 20 1020\n" + (wide(GREY) * 4).astype(">u2").tobytes(), GREY),
}


@pytest.mark.parametrize("kind", PLAIN)
def test_plain_conversions_stay_as_they_were_and_go_without_a_word(kind: str) -> None:
    data, expected = PLAIN[kind]
    image, scaling = load(data)
    np.testing.assert_array_equal(np.asarray(image)[..., 0], expected)
    assert scaling is None and inspect(data).scaling is None


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(("factor", "description"), [(257, None), (16, "12-bit integers, 0 to 4,095")])
def test_several_channels_of_16_bits(channels: int, factor: int, description: str | None) -> None:
    picture = np.concatenate([PICTURE, PICTURE[..., :1]], -1)[..., :channels]
    image, scaling = load(png_16(wide(picture) * factor))
    assert (scaling and scaling.description) == description
    shown = min(channels, 3)
    assert np.abs(np.asarray(image)[..., :shown].astype(int) - picture[..., :shown]).max() <= (
        0 if factor == 257 else 1
    )


def test_what_is_not_a_number_is_black_and_spoils_nothing() -> None:
    values = (GREY / 255).astype(np.float32)
    values[0, :3] = np.nan, np.inf, -np.inf
    image, scaling = load(tiff(values))
    assert scaling and scaling.description == "floats, 0 to 1"
    assert np.asarray(image)[0, :3, 0].tolist() == [0, 255, 0]
    np.testing.assert_array_equal(np.asarray(image)[1:, :, 0], GREY[1:])


@pytest.mark.parametrize("value", [0.0, 1.0, 1e30, -7.0])
def test_an_image_of_one_value(value: float) -> None:
    assert load(tiff(np.full((4, 5), value, np.float32)))[0].size == (5, 4)


def test_only_an_image_of_many_bits_is_decoded_for_the_index(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(data: bytes) -> None:
        raise BadImage("decoded")

    monkeypatch.setattr("stages.images.loading.load", refuse)
    stream = io.BytesIO()
    Image.fromarray(PICTURE).save(stream, "PNG")
    assert inspect(stream.getvalue()) == (30, 20, None)
    with pytest.raises(BadImage, match="decoded"):
        inspect(tiff(wide(GREY)))
