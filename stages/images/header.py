"""What an image's header tells, without torch: format, size in pixels, orientation."""

import io
import warnings
from typing import Any

from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 50_000_000
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
MAGIC = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF8",
    b"BM",
    b"II*\0",
    b"MM\0*",
    b"RIFF",
    *(b"P%d" % n for n in range(1, 7)),
)
Image.MAX_IMAGE_PIXELS = None  # the limit is checked in `opened`, before any pixel is read
warnings.filterwarnings("ignore", module=r"PIL\.")  # on damaged metadata: what matters is told as BadImage


class BadImage(Exception):
    """An image that cannot be decoded; the message is the reason."""


def looks_like_image(data: bytes) -> bool:
    """Whether the first bytes are those of an accepted format."""
    return data.startswith(MAGIC) and (not data.startswith(b"RIFF") or data[8:12] == b"WEBP")


def size(data: bytes) -> tuple[int, int]:
    """Width and height of an image as a viewer shows it (EXIF orientation honoured), from its header.

    Raises:
        BadImage: the header is no image's of the accepted formats, or the image is too large.
    """
    with opened(data) as image:
        turned = orientation(image) in (5, 6, 7, 8) and image.format != "TIFF"  # Pillow turns a TIFF's size itself
        width, height = image.size
    return (height, width) if turned else (width, height)


def opened(data: bytes) -> Image.Image:
    """The image with only its header read.

    Raises:
        BadImage: it is of no accepted format, or too large.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception as error:
        reason = "not an image of a known format" if isinstance(error, UnidentifiedImageError) else str(error)
        raise BadImage(reason or type(error).__name__) from None
    if image.width * image.height > MAX_PIXELS:
        raise BadImage(f"{image.width} x {image.height} pixels: more than {MAX_PIXELS:,}")
    return image


def orientation(image: Image.Image) -> Any:
    """The EXIF orientation, 1 to 8; 1 is upright."""
    try:
        return image.getexif().get(0x0112, 1)
    except Exception:  # a damaged EXIF block is no reason to lose the image
        return 1
