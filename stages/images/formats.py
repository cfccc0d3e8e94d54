"""The image formats: how a file's first bytes show its format, and which formats are read.

A format that is known and not read has no plugin: such a file is an image that cannot be used, and is named as what it
is. A text that begins with two letters of a signature is not an image: binary formats must have a NUL byte there,
textual ones their numbers.
"""

import re
from typing import NamedTuple

HEAD_BYTES = 1024  # that tell the format
NEEDS_CONVERTING = "convert such files to PNG or JPEG"


class ImageFormat(NamedTuple):
    """An image format.

    Attributes:
        name: as people call it.
        plugin: of Pillow, which reads it; None where nothing does.
        hint: what to do about a file that is not read.
    """

    name: str
    plugin: str | None
    hint: str = NEEDS_CONVERTING


HEIC = ImageFormat("HEIC", "HEIF", "pip install '.[heic]' (pillow-heif) reads them, or convert them to JPEG")
AVIF = ImageFormat("AVIF", "AVIF", "this Pillow was built without it: pip install --upgrade pillow, or convert them")
RAW = ImageFormat("camera raw", None, "develop such files to JPEG or PNG")
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")

SIGNATURES = [
    (ImageFormat("JPEG", "JPEG"), rb"\xff\xd8\xff"),
    (ImageFormat("PNG", "PNG"), rb"\x89PNG\r\n\x1a\n"),
    (ImageFormat("GIF", "GIF"), rb"GIF8[79]a"),
    (ImageFormat("BMP", "BMP"), rb"BM(?=.{0,15}\0)"),
    (RAW, rb"II\*\0.{4}CR\x02"),
    (ImageFormat("TIFF", "TIFF"), rb"II\*\0|MM\0\*|II\+\0|MM\0\+"),
    (ImageFormat("WebP", "WEBP"), rb"RIFF.{4}WEBP"),
    (ImageFormat("PPM", "PPM"), rb"P(?:[1-6](?:\s|#[^\r\n]*[\r\n])+\d+\s+\d+\s|[fF]\s+\d+\s+\d+\s+-?[\d.]+\s)"),
    (ImageFormat("JPEG 2000", "JPEG2000"), rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
    (ImageFormat("QOI", "QOI"), rb"qoif.{8}[\x03\x04][\0\x01]"),
    (ImageFormat("PCX", "PCX"), rb"\x0a[\0\x02\x03\x05]\x01[\x01\x02\x04\x08]"),
    (ImageFormat("SGI", "SGI"), rb"\x01\xda[\0\x01][\x01\x02]"),
    (ImageFormat("DDS", "DDS"), rb"DDS \x7c\0\0\0"),
    (ImageFormat("ICO", "ICO"), rb"\0\0\x01\0[\x01-\x40]\0.{3}\0"),
    (ImageFormat("JPEG XL", None), rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n"),
    (ImageFormat("JPEG XR", None), rb"II\xbc\x01"),
    (ImageFormat("Photoshop", None), rb"8BPS\0[\x01\x02]"),
    (ImageFormat("GIMP", None), rb"gimp xcf "),
    (ImageFormat("OpenEXR", None), rb"\x76\x2f\x31\x01"),
    (ImageFormat("Radiance HDR", None), rb"#\?(?:RADIANCE|RGBE)\n"),
    (ImageFormat("FITS", None), rb"SIMPLE  = {20}"),
    (ImageFormat("DICOM", None), rb".{128}DICM"),
    (
        ImageFormat("SVG", None),
        rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*|<!--.*?-->\s*|<!DOCTYPE svg[^>]*>\s*)*<svg[\s>/]",
    ),
    (ImageFormat("EPS", None), rb"%!PS-Adobe-\d\.\d EPSF"),
    (ImageFormat("DjVu", None), rb"AT&TFORM.{4}DJV[UMI]"),
    (ImageFormat("FLIF", None), rb"FLIF[\x31-\x46\x51-\x66](?=.{0,60}[\0\x80-\xff])"),
    (ImageFormat("BPG", None), rb"BPG\xfb"),
    (ImageFormat("EMF", None), rb"\x01\0\0\0.{36} EMF"),
    (ImageFormat("WMF", None), rb"\xd7\xcd\xc6\x9a\0\0"),
    (RAW, rb"FUJIFILMCCD-RAW|(?:IIRO|IIRS|IIU\0)\x08\0\0\0|IIU\0\x18\0\0\0|MMOR\0\0\0\x08|FOVb.?.?.?\0"),
]
PATTERNS = [(kind, re.compile(pattern, re.DOTALL)) for kind, pattern in SIGNATURES]


def image_format(data: bytes) -> ImageFormat | None:
    """The format of a file by its first bytes; None where it is not an image.

    Args:
        data: the file, or its first `HEAD_BYTES`.
    """
    if data[4:8] == b"ftyp":
        return _of_brands(data)
    head = data[:HEAD_BYTES]
    return next((kind for kind, pattern in PATTERNS if pattern.match(head)), None)


def _of_brands(data: bytes) -> ImageFormat | None:
    """The format of an ISO base media file, which lists compatible formats (brands); None for a video."""
    end = min(int.from_bytes(data[:4], "big"), HEAD_BYTES)
    brands = {data[8:12], *(data[start : start + 4] for start in range(16, end, 4))}
    if brands & {b"avif", b"avis"}:
        return AVIF
    if b"crx " in brands:
        return RAW
    return HEIC if brands.intersection(HEIF_BRANDS) else None
