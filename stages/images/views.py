"""The views of an image: view 0 is the evaluation transform, the others are drawn.

A drawn view is a function of (seed, image, number of the view) alone: never of the order of work, the batch or the
workers. Its name says all that it depends on beside the image, so a store can keep views of many kinds side by side.
"""

import hashlib
import re
from dataclasses import dataclass
from math import cos, radians, sin

import numpy as np
import numpy.typing as npt
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from stages.images.crops import NUMBERS_PER_VIEW, random_crops
from stages.images.decode import prepare
from stages.images.options import Augment
from stages.images.preprocessing import FILL, Preprocessing

EVALUATION = "evaluation"
Affine = npt.NDArray[np.float32]


def names(count: int, augment: Augment, seed: int) -> list[str]:
    """The names of views 0 to count - 1."""
    parts = [f"crop({augment.crop})", "flip" if augment.flip else "", f"rotate({augment.rotate})"]
    how = "|".join([*filter(None, parts), f"lighting({augment.lighting})", f"seed({seed})"])
    return [EVALUATION, *(f"{how}|view({number})" for number in range(1, count))]


def settings(name: str) -> Augment:
    """What may be drawn in a view, as its name tells."""
    found = dict(re.findall(r"(crop|rotate|lighting)\(([^)]*)\)", name))
    values = {key: float(value) for key, value in found.items()}
    return Augment(flip="flip" in name.split("|"), **({"crop": 1.0, "rotate": 0.0, "lighting": 0.0} | values))


@dataclass(frozen=True)
class CropParams:
    """What was drawn for one view of one image."""

    box: tuple[int, int, int, int]  # left, top, width, height in pixels of the image
    flip: bool
    angle: float  # degrees, counter-clockwise
    brightness: float
    contrast: float


def draw(name: str, sha256: str, width: int, height: int, augment: Augment) -> CropParams:
    """Draws a view of an image from its name and the image's sha256."""
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


def view(
    image: torch.Tensor, name: str, sha256: str, how: Preprocessing, augment: Augment
) -> tuple[torch.Tensor, Affine]:
    """One view of a decoded image.

    Args:
        image: uint8 (3, H, W).
        name: as `names` gives it.
        sha256: of the image's file.
        how: input size and interpolation.
        augment: what may be drawn.

    Returns:
        uint8 (3, S, S), and the affine map (2, 3) from pixels of the image to pixels of the view.
    """
    if name == EVALUATION:
        return prepare(image, how)
    drawn = draw(name, sha256, image.shape[2], image.shape[1], augment)
    left, top, width, height = drawn.box
    size = how.crop
    pixels = F.resized_crop(image, top, left, height, width, [size, size], InterpolationMode(how.interpolation), True)
    pixels = F.horizontal_flip(pixels) if drawn.flip else pixels
    if drawn.angle:
        pixels = F.rotate(pixels, drawn.angle, InterpolationMode.BILINEAR, fill=[FILL])
    if drawn.brightness != 1 or drawn.contrast != 1:
        pixels = F.adjust_contrast(F.adjust_brightness(pixels, drawn.brightness), drawn.contrast)
    return pixels, affine(drawn, size)


def affine(drawn: CropParams, size: int) -> Affine:
    """The map (2, 3) from pixels of the image to pixels of a drawn view of `size` pixels a side."""
    left, top, width, height = drawn.box
    crop = np.array([[size / width, 0, -left * size / width], [0, size / height, -top * size / height], [0, 0, 1]])
    flip = np.array([[-1, 0, size], [0, 1, 0], [0, 0, 1]]) if drawn.flip else np.eye(3)
    c, s, middle = cos(radians(drawn.angle)), sin(radians(drawn.angle)), size / 2
    turn = np.array([[c, s, middle - c * middle - s * middle], [-s, c, middle + s * middle - c * middle], [0, 0, 1]])
    found: Affine = (turn @ flip @ crop)[:2].astype(np.float32)
    return found
