"""Random views: the maths that turns uniform random numbers into a crop, a flip, a rotation and a lighting.

Cached views (`stages.images.views`) and views of whole batches while training (`stages.images.batch_views`) share it.
"""

from dataclasses import dataclass
from math import log

import torch

from stages.images.options import Augment
from stages.images.preprocessing import ASPECT_RATIOS

NUMBERS_PER_VIEW = 8


@dataclass(frozen=True)
class BatchCropParams:
    """The random choices for N views.

    Attributes:
        box: (N, 4) left, top, width and height of the crop in pixels of the image.
        flip: (N,) bool.
        angle: (N,) degrees, counter-clockwise.
        brightness: (N,) factor.
        contrast: (N,) factor.
    """

    box: torch.Tensor
    flip: torch.Tensor
    angle: torch.Tensor
    brightness: torch.Tensor
    contrast: torch.Tensor

    def source(self) -> torch.Tensor:
        """(N, 2, 3): from a position in the view, -1 to 1, to pixels of the image."""
        left, top, width, height = self.box.unbind(1)
        turn, half_width, half_height = torch.deg2rad(self.angle), width / 2, height / 2
        mirror = torch.where(self.flip, -half_width, half_width)
        x = torch.stack([mirror * turn.cos(), -mirror * turn.sin(), left + half_width], 1)
        y = torch.stack([half_height * turn.sin(), half_height * turn.cos(), top + half_height], 1)
        return torch.stack([x, y], 1)

    def affine(self, size: int) -> torch.Tensor:
        """(N, 2, 3): from pixels of the image to pixels of the view, for boxes that follow."""
        source = self.source()
        turn = torch.linalg.inv(source[:, :, :2]) * (size / 2)
        return torch.cat([turn, size / 2 - turn @ source[:, :, 2:]], 2)


def random_crops(
    uniform: torch.Tensor, sizes: torch.Tensor, augment: Augment, *, whole_pixels: bool
) -> BatchCropParams:
    """The random choices that follow from uniform random numbers.

    Args:
        uniform: (N, 8) from 0 to 1; its dtype is the precision of the result.
        sizes: (N, 2) heights and widths of the images in pixels.
        augment: the range of each choice.
        whole_pixels: whether crops begin and end between pixels.
    """
    share, ratio, left, top, flip, angle, brightness, contrast = uniform.T
    height, width = sizes.to(uniform.dtype).unbind(1)
    if augment.crop < 1:
        low, high = map(log, ASPECT_RATIOS)
        side = ((augment.crop + (1 - augment.crop) * share) * height * width).sqrt()
        stretch = (low + (high - low) * ratio).exp().sqrt()
        crop_width, crop_height = torch.minimum(side * stretch, width), torch.minimum(side / stretch, height)
    else:
        crop_width = crop_height = torch.minimum(height, width)
    if whole_pixels:
        crop_width, crop_height = crop_width.round().clamp(min=1), crop_height.round().clamp(min=1)
    corner = [left * (width - crop_width), top * (height - crop_height)]
    if whole_pixels:
        corner = [distance.round() for distance in corner]
    swing = augment.lighting
    return BatchCropParams(
        box=torch.stack([*corner, crop_width, crop_height], 1),
        flip=augment.flip & (flip < 0.5),
        angle=augment.rotate * (2 * angle - 1),
        brightness=1 + swing * (2 * brightness - 1),
        contrast=1 + swing * (2 * contrast - 1),
    )
