"""The views of an image: view 0 is the evaluation transform, the others are random.

A random view is a function of (seed, image, number of the view) alone: never of the order of work, the batch or the
workers. Its name says everything else that it depends on, so the row store can hold views of many kinds.
"""

import hashlib
import re
from dataclasses import dataclass
from math import ceil, cos, radians, sin, sqrt

import numpy as np
import numpy.typing as npt
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from stages.images.crops import NUMBERS_PER_VIEW, random_crops
from stages.images.decode import prepare
from stages.images.options import Augment
from stages.images.preprocessing import ASPECT_RATIOS, FILL, Preprocessing

EVALUATION = "evaluation"
Affine = npt.NDArray[np.float32]


def names(count: int, augment: Augment, seed: int) -> list[str]:
    """The names of views 0 to count - 1."""
    parts = [f"crop({augment.crop})", "flip" if augment.flip else "", f"rotate({augment.rotate})"]
    prefix = "|".join([*filter(None, parts), f"lighting({augment.lighting})", f"seed({seed})"])
    return [EVALUATION, *(f"{prefix}|view({number})" for number in range(1, count))]


def settings(name: str) -> Augment:
    """The range of the random choices of a view, from its name."""
    ranges = dict(re.findall(r"(crop|rotate|lighting)\(([^)]*)\)", name))
    values = {key: float(value) for key, value in ranges.items()}
    return Augment(flip="flip" in name.split("|"), **({"crop": 1.0, "rotate": 0.0, "lighting": 0.0} | values))


@dataclass(frozen=True)
class CropParams:
    """The random choices for one view of one image."""

    box: tuple[int, int, int, int]  # left, top, width, height in pixels of the image
    flip: bool
    angle: float  # degrees, counter-clockwise
    brightness: float
    contrast: float


def draw(name: str, sha256: str, *, width: int, height: int, augment: Augment) -> CropParams:
    """The random choices for a view, from its name and the image's sha256.

    Args:
        name: of the view.
        sha256: of the image's file.
        width: of the image, in pixels.
        height: the same.
        augment: the range of each choice.
    """
    digest = hashlib.sha256(f"{name} {sha256}".encode()).digest()
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))
    uniform = torch.from_numpy(generator.random((1, NUMBERS_PER_VIEW)))
    crops = random_crops(uniform, torch.tensor([[height, width]]), augment, whole_pixels=True)
    left, top, crop_width, crop_height = (int(side) for side in crops.box[0].tolist())
    return CropParams(
        (left, top, crop_width, crop_height),
        bool(crops.flip),
        crops.angle.item(),
        crops.brightness.item(),
        crops.contrast.item(),
    )


def needed_side(name: str, preprocessing: Preprocessing) -> int:
    """The pixels that a view needs along the short side of an image, so that nothing is enlarged.

    Args:
        name: of the view.
        preprocessing: input size.
    """
    if name == EVALUATION:
        return preprocessing.resize or preprocessing.crop
    smallest = settings(name).crop * ASPECT_RATIOS[0]  # share of the image's area, and of that for the longer side
    return ceil(preprocessing.crop / sqrt(smallest))


def view(
    image: torch.Tensor, name: str, *, sha256: str, preprocessing: Preprocessing, augment: Augment
) -> tuple[torch.Tensor, Affine]:
    """One view of a decoded image.

    Args:
        image: uint8 (3, H, W).
        name: as `names` gives it.
        sha256: of the image's file.
        preprocessing: input size and interpolation.
        augment: the range of each random choice.

    Returns:
        uint8 (3, S, S), and the affine map (2, 3) from pixels of the image to pixels of the view.
    """
    if name == EVALUATION:
        return prepare(image, preprocessing)
    crop = draw(name, sha256, width=image.shape[2], height=image.shape[1], augment=augment)
    left, top, width, height = crop.box
    size, mode = preprocessing.crop, InterpolationMode(preprocessing.interpolation)
    pixels = F.resized_crop(image, top, left, height, width, [size, size], mode, antialias=True)
    pixels = F.horizontal_flip(pixels) if crop.flip else pixels
    if crop.angle:
        pixels = F.rotate(pixels, crop.angle, InterpolationMode.BILINEAR, fill=[FILL])
    if crop.brightness != 1 or crop.contrast != 1:
        pixels = F.adjust_contrast(F.adjust_brightness(pixels, crop.brightness), crop.contrast)
    return pixels, affine(crop, size)


def affine(crop: CropParams, size: int) -> Affine:
    """The map (2, 3) from pixels of the image to pixels of a random view of `size` pixels per side."""
    left, top, width, height = crop.box
    scale = np.array([[size / width, 0, -left * size / width], [0, size / height, -top * size / height], [0, 0, 1]])
    flip = np.array([[-1, 0, size], [0, 1, 0], [0, 0, 1]]) if crop.flip else np.eye(3)
    c, s, middle = cos(radians(crop.angle)), sin(radians(crop.angle)), size / 2
    turn = np.array([[c, s, middle - c * middle - s * middle], [-s, c, middle + s * middle - c * middle], [0, 0, 1]])
    view_map: Affine = (turn @ flip @ scale)[:2].astype(np.float32)
    return view_map
