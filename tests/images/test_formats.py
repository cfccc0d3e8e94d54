"""Formats by their first bytes: what is read, what is known and not read, and what is not an image at all."""

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stages.images.formats import HEAD_BYTES, SIGNATURES, image_format
from stages.images.header import BadImage, looks_like_image, open_image, size
from stages.images.loading import load

READ = ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "AVIF", "JPEG2000", "QOI", "PCX", "SGI", "DDS", "ICO"]
UNREAD = {
    "JPEG XL": [b"\xff\x0a\xfa\x7f", b"\0\0\0\x0cJXL \r\n\x87\n\0\0"],
    "Photoshop": [b"8BPS\0\1" + bytes(20)],
    "GIMP": [b"gimp xcf v011\0"],
    "SVG": [
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b'<?xml version="1.0"?>\n<!-- drawn by hand -->\n<!DOCTYPE svg PUBLIC "x">\n<svg width="1">',
    ],
    "OpenEXR": [b"\x76\x2f\x31\x01\2\0\0\0"],
    "DICOM": [bytes(128) + b"DICM\2\0"],
    "camera raw": [
        b"II*\0\x10\0\0\0CR\2\0",
        b"\0\0\0\x18ftypcrx \0\0\0\1crx isom",
        b"FUJIFILMCCD-RAW 0201",
        b"IIRO\x08\0\0\0",
    ],
    "JPEG XR": [b"II\xbc\x01\x08\0\0\0"],
    "EPS": [b"%!PS-Adobe-3.0 EPSF-3.0\n"],
}
NOT_IMAGES = [
    b"",
    b"\xff\xd8",
    b"%PDF-1.7 a document",
    b"MM",
    b"RIFF\0\0\0\0WAVEfmt ",
    b"BMW and Mercedes: a list of cars",
    b"P1 is the first point of the plan",
    b"P5\n",
    b"II*",
    b"GIF87 was an early version",
    b"FLIF is a format, said the text",
    b"<html><body><svg></svg></body></html>",
    b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom",
    b"\0\0\1\xba MPEG",
    b"{}",
]


def encoded(plugin: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.arange(32 * 20 * 3, dtype=np.uint8).reshape(20, 32, 3)).save(stream, plugin, **options)
    return stream.getvalue()


@pytest.mark.parametrize("plugin", READ)
def test_what_pillow_reads_is_read(plugin: str) -> None:
    options = {"sizes": [(32, 20)]} if plugin == "ICO" else {}
    data = encoded(plugin, **options)
    assert looks_like_image(data) and looks_like_image(data[:HEAD_BYTES])
    assert size(data) == load(data)[0].size == (32, 20)


@pytest.mark.parametrize("plugin", READ)
def test_a_damaged_file_is_bad_under_its_own_name(plugin: str) -> None:
    data = encoded(plugin)[:40]
    kind = image_format(data)
    assert kind and kind.plugin == plugin
    with pytest.raises(BadImage, match=r".") as error:
        load(data)
    assert "not an image" not in str(error.value)


@pytest.mark.parametrize("byteorder", ["II+\0\x08\0\0\0", "II*\0"])
def test_both_kinds_of_tiff(byteorder: str) -> None:
    data = encoded("TIFF", big_tiff=byteorder.startswith("II+"))
    assert data.startswith(byteorder.encode())
    assert size(data) == (32, 20)


def test_a_jpeg_2000_codestream_without_a_box() -> None:
    assert size(encoded("JPEG2000", no_jp2=True)) == (32, 20)


@pytest.mark.parametrize(("name", "data"), [(name, data) for name, files in UNREAD.items() for data in files])
def test_what_is_known_and_not_read_is_bad_with_its_name(name: str, data: bytes) -> None:
    assert looks_like_image(data)
    with pytest.raises(BadImage, match=rf"{name} files are not read: \w+"):
        open_image(data)


@pytest.mark.parametrize("data", NOT_IMAGES)
def test_what_is_not_an_image(data: bytes) -> None:
    assert not looks_like_image(data)
    with pytest.raises(BadImage, match="not an image of a known format"):
        size(data)


def test_a_comment_in_the_header_of_a_ppm() -> None:
    assert size(b"P5\n# made by hand\n# twice\n4 2\n255\n" + bytes(8)) == (4, 2)


def test_no_pattern_takes_long_on_hostile_text() -> None:
    """Every signature is tried on long runs of what it may repeat."""
    hostile = [b"P1" + b" " * HEAD_BYTES, b"P1" + b"#\n" * 500, b"<!--" * 250, b"<?xml " * 170, b" " * HEAD_BYTES]
    assert not any(image_format(data) for data in hostile)
    assert len(SIGNATURES) > 20


def heic(*brands: bytes) -> bytes:
    content = brands[0] + bytes(4) + b"".join(brands[1:])
    return struct.pack(">I", 8 + len(content)) + b"ftyp" + content + bytes(50)


@pytest.mark.parametrize("brands", [(b"heic", b"mif1", b"heic"), (b"mif1", b"heic"), (b"heix",), (b"msf1", b"hevc")])
def test_heic_is_known_and_the_error_says_what_reads_it(
    brands: tuple[bytes, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.images.header._can_read_heic", lambda: False)
    with pytest.raises(BadImage, match=r"HEIC files are not read: pip install '.\[heic\]'"):
        open_image(heic(*brands))


def test_heic_is_read_where_pillow_heif_is_installed() -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    data = encoded("HEIF")
    assert size(data) == load(data)[0].size == (32, 20)


def test_avif_under_a_general_brand_is_avif() -> None:
    kind = image_format(heic(b"mif1", b"miaf", b"avif"))
    assert kind and kind.name == "AVIF"


@pytest.mark.parametrize("tags", [{50706: b"\1\4\0\0"}, {254: 1, 330: 8}])
def test_the_preview_of_a_camera_raw_file_is_not_taken_for_the_photograph(tags: dict[int, Any]) -> None:
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    directory = ImageFileDirectory_v2()
    for tag, value in tags.items():
        directory[tag] = value
        directory.tagtype[tag] = 1 if isinstance(value, bytes) else 4
    with pytest.raises(BadImage, match="camera raw"):
        open_image(encoded("TIFF", tiffinfo=directory))
