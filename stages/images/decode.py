"""From the bytes of an image to the uint8 pixels that a backbone sees.

PIPELINE is part of every feature's provenance. Raise it whenever the code here changes what comes out: a
golden-feature test fails when the output changes without it.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from stages.images.header import JPEG_END, BadImage, open_image, orientation
from stages.images.loading import load, upright
from stages.images.preprocessing import Preprocessing

PIPELINE = 2
DIVISORS = (8, 4, 2)  # by which libjpeg shrinks a JPEG while it decodes it
KEPT_SIZE = 1.15  # short side of an image stored for training, in input sizes: room for crops, hardly any antialiasing
KEPT_RATIO = 2  # of its sides: padding stays bounded
MAX_RATIO = 16  # of the sides: of a longer image only the middle is resized, or 1 x 10,000 would become 256 x 2,560,000


def decode(data: bytes) -> torch.Tensor:
    """An image as uint8 RGB (3, H, W).

    Plain JPEG goes through torchvision (0.5 ms instead of 2.5 for the whole pipeline), other files through Pillow.

    Raises:
        BadImage: with the reason.
    """
    with open_image(data) as image:
        plain_jpeg = _is_plain_jpeg(image, data)
    if plain_jpeg:
        try:
            encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            pixels: torch.Tensor = decode_jpeg(encoded, mode=ImageReadMode.RGB, apply_exif_orientation=True)
            return pixels
        except RuntimeError:
            pass  # Pillow decides, and says why
    return torch.from_numpy(np.asarray(load(data)[0]).copy()).permute(2, 0, 1)


def _is_plain_jpeg(image: Image.Image, data: bytes) -> bool:
    return image.format == "JPEG" and image.mode in ("RGB", "L") and data.rstrip(b"\0")[-2:] == JPEG_END


def is_plain_jpeg(data: bytes) -> bool:
    """Whether a file is a whole JPEG in colours or grey that no EXIF turns, as a GPU decodes it."""
    try:
        with open_image(data) as image:
            return _is_plain_jpeg(image, data) and orientation(image) == 1
    except BadImage:
        return False


def divisor(data: bytes, side: int) -> int:
    """By how much a file is shrunk while it is decoded, so that its short side is still twice what is needed, or more.

    Args:
        data: the file.
        side: the pixels that are needed along the short side.

    Returns:
        1 where it is decoded as it is: small files, and all that are not plain JPEG.

    Raises:
        BadImage: with the reason.
    """
    with open_image(data) as image:
        if image.format != "JPEG" or image.mode not in ("RGB", "L"):
            return 1
        return next((by for by in DIVISORS if min(image.size) // by >= 2 * side), 1)


def decode_shrunk(data: bytes, by: int) -> tuple[torch.Tensor, float]:
    """A JPEG decoded at 1/2, 1/4 or 1/8 of its size (libjpeg's DCT scaling): half the time of 12 megapixels or less.

    Args:
        data: the file.
        by: as `divisor` gives it.

    Returns:
        uint8 RGB (3, h, w), and its scale: 1 / by. A damaged file is decoded as it is, at a scale of 1.

    Raises:
        BadImage: with the reason.
    """
    if by > 1:
        try:
            with open_image(data) as image:
                whole = (image.width // by, image.height // by)
                image.draft("RGB", whole)
                # the last column and row may stand for less than `by` pixels, which would stretch the image
                shrunk = upright(image.crop((0, 0, *whole))).convert("RGB")
            return torch.from_numpy(np.asarray(shrunk).copy()).permute(2, 0, 1), 1 / by
        except Exception:  # Pillow raises more than OSError on damaged files
            pass  # the plain way decides what can be read of it
    return decode(data), 1.0


def prepare(image: torch.Tensor, preprocessing: Preprocessing) -> tuple[torch.Tensor, npt.NDArray[np.float32]]:
    """The evaluation view of an image.

    Args:
        image: uint8 (3, H, W).
        preprocessing: size, crop, interpolation.

    Returns:
        uint8 (3, S, S), and the affine map (2, 3) from pixels of the image to pixels of the view.
    """
    image, cut_left, cut_top = _middle(image, MAX_RATIO)
    height, width = image.shape[-2:]
    if preprocessing.resize is None:
        new_height = new_width = preprocessing.crop
    else:  # the long side is cut off, not rounded, as torchvision and timm do
        new_height = preprocessing.resize if height <= width else int(preprocessing.resize * height / width)
        new_width = preprocessing.resize if width <= height else int(preprocessing.resize * width / height)
    view = F.center_crop(_resize(image, new_height, new_width, preprocessing), [preprocessing.crop, preprocessing.crop])
    scale_x, scale_y = new_width / width, new_height / height
    left = round((new_width - preprocessing.crop) / 2.0) + scale_x * cut_left
    top = round((new_height - preprocessing.crop) / 2.0) + scale_y * cut_top
    return view, np.array([[scale_x, 0, -left], [0, scale_y, -top]], dtype=np.float32)


def kept_side(preprocessing: Preprocessing) -> int:
    """The short side, in pixels, of images that are stored for training."""
    return round(KEPT_SIZE * preprocessing.crop)


def shrink(image: torch.Tensor, preprocessing: Preprocessing) -> tuple[torch.Tensor, npt.NDArray[np.float32]]:
    """The image that training takes its crops from: the middle, at most 1:2, shrunk to `kept_side`.

    A smaller image stays as it is: enlarging would add bytes and no detail, and training resizes its crops anyway.

    Args:
        image: uint8 (3, H, W).
        preprocessing: input size, interpolation.

    Returns:
        uint8 (3, h, w), and the affine map (2, 3) from pixels of the image to pixels of the result.
    """
    image, left, top = _middle(image, KEPT_RATIO)
    height, width = image.shape[-2:]
    scale = min(1.0, kept_side(preprocessing) / min(height, width))
    new_height, new_width = round(scale * height), round(scale * width)
    scale_x, scale_y = new_width / width, new_height / height
    small = image if scale == 1 else _resize(image, new_height, new_width, preprocessing)
    return small.contiguous(), np.array([[scale_x, 0, -scale_x * left], [0, scale_y, -scale_y * top]], dtype=np.float32)


def kept_shape(sizes: Iterable[tuple[int, int]], preprocessing: Preprocessing) -> tuple[int, int, int]:
    """The shape (3, H, W) that holds what `keep` makes of images of these sizes (width, height in pixels)."""
    height = width = 1
    for size in sizes:
        short = min(size)
        scale = min(1.0, kept_side(preprocessing) / short)
        kept_width, kept_height = (round(scale * min(side, KEPT_RATIO * short)) for side in size)
        width, height = max(width, kept_width), max(height, kept_height)
    return 3, height, width


def _middle(image: torch.Tensor, ratio: int) -> tuple[torch.Tensor, int, int]:
    """The middle of an image with sides of at most 1:ratio, and what is cut off at the left and at the top."""
    height, width = image.shape[-2:]
    longest = ratio * min(height, width)
    middle = F.center_crop(image, [min(height, longest), min(width, longest)])
    return middle, round((width - middle.shape[-1]) / 2.0), round((height - middle.shape[-2]) / 2.0)


def _resize(image: torch.Tensor, height: int, width: int, preprocessing: Preprocessing) -> torch.Tensor:
    mode = InterpolationMode(preprocessing.interpolation)
    resized: torch.Tensor = F.resize(image, [height, width], mode, antialias=mode != InterpolationMode.NEAREST)
    return resized
