"""Which image format a file is of, told by its first bytes; and which of them are read.

A format that is known and not read has no plugin: such a file is an image that cannot be used, and is named as what it
is. Text never counts as an image because it begins with two letters of a signature: a binary format is asked for a NUL
byte, a textual one for its numbers.
"""

import re
from typing import NamedTuple

HEAD_BYTES = 1024  # that tell the format
NEEDS_CONVERTING = "convert such files to PNG or JPEG"


class Format(NamedTuple):
    """An image format.

    Attributes:
        name: as people call it.
        plugin: of Pillow, which reads it; None where nothing does.
        hint: what to do about a file that is not read.
    """

    name: str
    plugin: str | None
    hint: str = NEEDS_CONVERTING


HEIC = Format("HEIC", "HEIF", "pip install '.[heic]' (pillow-heif) reads them, or convert them to JPEG")
AVIF = Format("AVIF", "AVIF", "this Pillow was built without it: pip install --upgrade pillow, or convert them")
RAW = Format("camera raw", None, "develop such files to JPEG or PNG")
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")

SIGNATURES = [
    (Format("JPEG", "JPEG"), rb"\xff\xd8\xff"),
    (Format("PNG", "PNG"), rb"\x89PNG\r\n\x1a\n"),
    (Format("GIF", "GIF"), rb"GIF8[79]a"),
    (Format("BMP", "BMP"), rb"BM(?=.{0,15}\0)"),
    (RAW, rb"II\*\0.{4}CR\x02"),
    (Format("TIFF", "TIFF"), rb"II\*\0|MM\0\*|II\+\0|MM\0\+"),
    (Format("WebP", "WEBP"), rb"RIFF.{4}WEBP"),
    (Format("PPM", "PPM"), rb"P(?:[1-6](?:\s|#[^\r\n]*[\r\n])+\d+\s+\d+\s|[fF]\s+\d+\s+\d+\s+-?[\d.]+\s)"),
    (Format("JPEG 2000", "JPEG2000"), rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
    (Format("QOI", "QOI"), rb"qoif.{8}[\x03\x04][\0\x01]"),
    (Format("PCX", "PCX"), rb"\x0a[\0\x02\x03\x05]\x01[\x01\x02\x04\x08]"),
    (Format("SGI", "SGI"), rb"\x01\xda[\0\x01][\x01\x02]"),
    (Format("DDS", "DDS"), rb"DDS \x7c\0\0\0"),
    (Format("ICO", "ICO"), rb"\0\0\x01\0[\x01-\x40]\0.{3}\0"),
    (Format("JPEG XL", None), rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n"),
    (Format("JPEG XR", None), rb"II\xbc\x01"),
    (Format("Photoshop", None), rb"8BPS\0[\x01\x02]"),
    (Format("GIMP", None), rb"gimp xcf "),
    (Format("OpenEXR", None), rb"\x76\x2f\x31\x01"),
    (Format("Radiance HDR", None), rb"#\?(?:RADIANCE|RGBE)\n"),
    (Format("FITS", None), rb"SIMPLE  = {20}"),
    (Format("DICOM", None), rb".{128}DICM"),
    (Format("SVG", None), rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*|<!--.*?-->\s*|<!DOCTYPE svg[^>]*>\s*)*<svg[\s>/]"),
    (Format("EPS", None), rb"%!PS-Adobe-\d\.\d EPSF"),
    (Format("DjVu", None), rb"AT&TFORM.{4}DJV[UMI]"),
    (Format("FLIF", None), rb"FLIF[\x31-\x46\x51-\x66](?=.{0,60}[\0\x80-\xff])"),
    (Format("BPG", None), rb"BPG\xfb"),
    (Format("EMF", None), rb"\x01\0\0\0.{36} EMF"),
    (Format("WMF", None), rb"\xd7\xcd\xc6\x9a\0\0"),
    (RAW, rb"FUJIFILMCCD-RAW|(?:IIRO|IIRS|IIU\0)\x08\0\0\0|IIU\0\x18\0\0\0|MMOR\0\0\0\x08|FOVb.?.?.?\0"),
]
PATTERNS = [(kind, re.compile(pattern, re.DOTALL)) for kind, pattern in SIGNATURES]
PLUGINS = (*tuple(dict.fromkeys(kind.plugin for kind, _ in SIGNATURES if kind.plugin)), "AVIF")


def image_format(data: bytes) -> Format | None:
    """The format of a file by its first bytes; None where it is not an image.

    Args:
        data: the file, or its first `HEAD_BYTES`.
    """
    if data[4:8] == b"ftyp":
        return _of_brands(data)
    head = data[:HEAD_BYTES]
    return next((kind for kind, pattern in PATTERNS if pattern.match(head)), None)


def _of_brands(data: bytes) -> Format | None:
    """The format of an ISO base media file, which lists the formats that it is compatible with; None for a video."""
    end = min(int.from_bytes(data[:4], "big"), HEAD_BYTES)
    brands = {data[8:12], *(data[start : start + 4] for start in range(16, end, 4))}
    if brands & {b"avif", b"avis"}:
        return AVIF
    if b"crx " in brands:
        return RAW
    return HEIC if brands.intersection(HEIF_BRANDS) else None
