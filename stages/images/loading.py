"""An image as Pillow loads it: its first frame, upright, RGB, 8 bits per value. Without torch."""

from typing import NamedTuple

from PIL import Image

from stages.images.header import (
    BadImage,
    check_complete,
    open_image,
    orientation,
    upright_size,
    without_metadata,
)
from stages.images.scaling import Scaling, is_wide, stated_range, swap_bytes, to_8_bits

TURNS = {  # what makes an image of each EXIF orientation upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Inspected(NamedTuple):
    """What the index says of an image.

    Attributes:
        width: in pixels, as a viewer shows it.
        height: the same.
        scaling: how values of more than 8 bits are scaled; None for a plain conversion.
    """

    width: int
    height: int
    scaling: str | None


def inspect(data: bytes) -> Inspected:
    """Reads the header of an image; only of one with more than 8 bits per value, or cut short, the pixels too.

    Raises:
        BadImage: with the reason.
    """
    check_complete(data)
    with open_image(data) as image:
        width, height = upright_size(image)
        wide = is_wide(image)
    scaling = load(data)[1] if wide else None
    return Inspected(width, height, scaling.description if scaling else None)


def load(data: bytes) -> tuple[Image.Image, Scaling | None]:
    """An image as RGB, and how its values were scaled; None where that is a plain conversion.

    Raises:
        BadImage: with the reason.
    """
    try:
        return _load(data)
    except BadImage:
        raise
    except Exception as error:  # Pillow raises SyntaxError, struct.error, ValueError and more on damaged files
        if isinstance(error, ValueError) and len(smaller := without_metadata(data)) < len(data):
            return load(smaller)
        raise BadImage(str(error) or type(error).__name__) from None


def _load(data: bytes) -> tuple[Image.Image, Scaling | None]:
    with open_image(data) as opened:
        wide = is_wide(opened)
        stated = stated_range(opened)
        opened.load()
        image, scaling = upright(opened), None
    if wide:
        image, scaling = to_8_bits(image, stated, lambda: _low_bytes(data))
    return image.convert("RGBA").convert("RGB") if "transparency" in image.info else image.convert("RGB"), scaling


def _low_bytes(data: bytes) -> Image.Image | None:
    """The low byte of every 16-bit value, upright."""
    with open_image(data) as image:
        if not swap_bytes(image):
            return None
        try:
            image.load()
        except ValueError:  # Pillow has no way to unpack these
            return None
        return upright(image)


def upright(image: Image.Image) -> Image.Image:
    """An image as its EXIF orientation turns it: the same object where it does not.

    `ImageOps.exif_transpose` would also write the whole EXIF block again, and fails where any entry of it is broken.
    Here the block stays as it is, and still says how the image was turned.
    """
    image.load()  # Pillow turns a TIFF itself while it loads
    turn = TURNS.get(orientation(image))
    return image if turn is None else image.transpose(turn)
