"""What an image's header tells, without torch: format, size in pixels, orientation."""

import ctypes
import io
import struct
import warnings
from functools import cache
from typing import Any

from PIL import Image, UnidentifiedImageError, _imaging

from stages.images.formats import HEIC, ImageFormat, image_format

MAX_PIXELS = 50_000_000
PNG_SIGNATURE = 8  # bytes
PNG_METADATA = (b"iCCP", b"tEXt", b"zTXt", b"iTXt")  # chunks that no pixel depends on
DNG_VERSION, NEW_SUBFILE_TYPE, SUB_IFDS = 50706, 254, 330  # tags of a TIFF
PREVIEW = 1  # value of NEW_SUBFILE_TYPE: a smaller version of another image
JPEG_END = b"\xff\xd9"
MAX_PROGRESSIVE = 4_000_000  # pixels of a progressive JPEG that is checked: a hostile one may have thousands of scans
Image.MAX_IMAGE_PIXELS = None  # the limit is checked in `open_image`, before any pixel is read
warnings.filterwarnings("ignore", module=r"PIL\.")  # on damaged metadata: errors that matter are raised as BadImage


def _silence_libtiff() -> None:
    """Turns off the lines that libtiff writes to standard error, which name no file: Pillow raises the error anyway."""
    try:
        set_handler = ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler
    except (AttributeError, OSError):  # a Pillow whose libtiff is out of reach
        return
    set_handler.argtypes, set_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
    set_handler(None)


_silence_libtiff()


class BadImage(Exception):
    """An image that cannot be decoded; the message is the reason."""


def looks_like_image(data: bytes) -> bool:
    """Whether the first bytes are those of an image format, of one that is not read too."""
    return image_format(data) is not None


def size(data: bytes) -> tuple[int, int]:
    """Width and height of an image as a viewer shows it (EXIF orientation honoured), from its header.

    Raises:
        BadImage: the file is not an image of a format that is read, or the image is too large.
    """
    with open_image(data) as image:
        return upright_size(image)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """The same of an opened image."""
    turned = orientation(image) in (5, 6, 7, 8) and image.format != "TIFF"  # Pillow turns a TIFF's size itself
    width, height = image.size
    return (height, width) if turned else (width, height)


def open_image(data: bytes) -> Image.Image:
    """The image with only its header read.

    Raises:
        BadImage: it is not of a format that is read, it is damaged or too large.
    """
    kind = image_format(data)
    if kind is None:
        raise BadImage("not an image of a known format")
    if kind.plugin is None or (kind == HEIC and not _can_read_heic()):
        raise BadImage(f"{kind.name} files are not read: {kind.hint}")
    image = _opened(data, kind)
    if image.width * image.height > MAX_PIXELS:
        raise BadImage(f"{image.width} x {image.height} pixels: more than {MAX_PIXELS:,}")
    if image.format == "TIFF" and _is_raw_preview(image):
        raise BadImage("a camera raw file, of which only the preview can be read: develop it to JPEG or PNG")
    return image


def check_complete(data: bytes) -> None:
    """Refuses a file that was cut short, as by a broken download, where its end says so.

    Only a JPEG or PNG without its end marker is decoded for that; any other file costs nothing.

    Raises:
        BadImage: with the reason.
    """
    if data.startswith(b"\xff\xd8"):
        suspicious = JPEG_END not in data[-64:]
    else:
        suspicious = data.startswith(b"\x89PNG") and b"IEND" not in data[-64:]
    if not suspicious:
        return
    with open_image(data) as image:
        if image.info.get("progressive") and image.width * image.height > MAX_PROGRESSIVE:
            return
        try:
            image.draft(None, (1, 1))  # the smallest of libjpeg's scales: all bytes are still read
            image.load()
        except Exception as error:  # Pillow raises a dozen kinds on damaged files
            raise BadImage(str(error) or type(error).__name__) from None


def orientation(image: Image.Image) -> Any:
    """The EXIF orientation, 1 to 8; 1 is upright."""
    try:
        return image.getexif().get(0x0112, 1)
    except Exception:  # the image itself may be good
        return 1


def without_metadata(data: bytes) -> bytes:
    """A PNG without its texts and colour profile, of which Pillow refuses large ones; any other file as it is."""
    if not data.startswith(b"\x89PNG"):
        return data
    chunks, start = [data[:PNG_SIGNATURE]], PNG_SIGNATURE
    while start + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        end = start + 12 + length  # length, kind and checksum take 12 bytes
        if kind not in PNG_METADATA:
            chunks.append(data[start:end])
        start = end
    return b"".join(chunks)


def _opened(data: bytes, kind: ImageFormat) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=(str(kind.plugin),))
    except UnidentifiedImageError:
        raise BadImage(f"a {kind.name} file that cannot be read: damaged, or of a rare kind") from None
    except Exception as error:
        if isinstance(error, ValueError) and len(smaller := without_metadata(data)) < len(data):
            return _opened(smaller, kind)
        raise BadImage(str(error) or type(error).__name__) from None


@cache
def _can_read_heic() -> bool:
    """Whether pillow-heif is installed; it is registered with Pillow on first use."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def _is_raw_preview(image: Any) -> bool:
    """Whether a TIFF is a camera's raw file: a DNG, or one that begins with a preview of another image in it."""
    tags = image.tag_v2
    return DNG_VERSION in tags or (SUB_IFDS in tags and tags.get(NEW_SUBFILE_TYPE) == PREVIEW)
