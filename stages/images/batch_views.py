"""Images while training: crops, flips, rotation and lighting drawn on whole batches, on any device.

What may be drawn follows `stages.images.views`. One bilinear sampling does crop, flip and rotation at once. It needs
no antialiasing: kept images have a short side of 1.15 input sizes, so that it shrinks a square one 1.15 times and the
long side of a crop of the longest less than twice. Where a rotation reaches beyond a crop the image goes on, and grey
begins where it ends.
"""

from dataclasses import dataclass
from math import log

import torch
import torch.nn.functional as F

from stages.images.options import Augment
from stages.images.preprocessing import ASPECT_RATIOS, FILL, Preprocessing

GREY = (0.2989, 0.587, 0.114)  # shares of red, green and blue, as torchvision's lighting takes them


@dataclass(frozen=True)
class Drawn:
    """What was drawn for a batch of images.

    Attributes:
        box: (N, 4) left, top, width and height in pixels of the kept image.
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
        """(N, 2, 3): from a place in the view, -1 to 1, to pixels of the kept image."""
        left, top, width, height = self.box.unbind(1)
        turn, half_width, half_height = torch.deg2rad(self.angle), width / 2, height / 2
        mirror = torch.where(self.flip, -half_width, half_width)
        x = torch.stack([mirror * turn.cos(), -mirror * turn.sin(), left + half_width], 1)
        y = torch.stack([half_height * turn.sin(), half_height * turn.cos(), top + half_height], 1)
        return torch.stack([x, y], 1)

    def affine(self, size: int) -> torch.Tensor:
        """(N, 2, 3): from pixels of the kept image to pixels of the view, for what is to follow, such as boxes."""
        source = self.source()
        turn = torch.linalg.inv(source[:, :, :2]) * (size / 2)
        return torch.cat([turn, size / 2 - turn @ source[:, :, 2:]], 2)


def draw(sizes: torch.Tensor, augment: Augment, generator: torch.Generator) -> Drawn:
    """Draws a view of each image.

    Args:
        sizes: (N, 2) heights and widths.
        augment: what may be drawn.
        generator: on the CPU, whatever the device: the same everywhere.
    """
    share, ratio, left, top, flip, angle, brightness, contrast = torch.rand((len(sizes), 8), generator=generator).T
    height, width = sizes.cpu().float().unbind(1)
    short = torch.minimum(height, width)
    if augment.crop < 1:
        low, high = map(log, ASPECT_RATIOS)
        side = ((augment.crop + (1 - augment.crop) * share) * height * width).sqrt()
        stretch = (low + (high - low) * ratio).exp().sqrt()
        crop_width, crop_height = torch.minimum(side * stretch, width), torch.minimum(side / stretch, height)
    else:
        crop_width = crop_height = short
    box = torch.stack([left * (width - crop_width), top * (height - crop_height), crop_width, crop_height], 1)
    swing = augment.lighting
    return Drawn(
        box,
        augment.flip & (flip < 0.5),
        augment.rotate * (2 * angle - 1),
        1 + swing * (2 * brightness - 1),
        1 + swing * (2 * contrast - 1),
    )


def view(images: torch.Tensor, sizes: torch.Tensor, drawn: Drawn, size: int) -> torch.Tensor:
    """The views that were drawn.

    Args:
        images: uint8 (N, 3, H, W), padded at the right and the bottom; on any device.
        sizes: (N, 2) heights and widths without padding.
        drawn: for each image.
        size: pixels a side of a view.

    Returns:
        float32 (N, 3, size, size), 0 to 255, on the device of the images.
    """
    device, (height, width) = images.device, images.shape[-2:]
    grid = F.affine_grid(drawn.source().to(device), [len(images), 3, size, size], align_corners=False)
    ends = sizes.to(device).float().flip(1)[:, None, None]
    inside = ((grid >= 0) & (grid <= ends)).all(-1)[:, None]
    centres = torch.minimum(grid.clamp(min=0.5), ends - 0.5)  # between these no pixel of the padding has a share
    sampled = F.grid_sample(images.float(), 2 * centres / centres.new_tensor([width, height]) - 1, align_corners=False)
    pixels = torch.where(inside, sampled, FILL)
    brightness, contrast = (factor.to(device)[:, None, None, None] for factor in (drawn.brightness, drawn.contrast))
    pixels = (pixels * brightness).clamp(0, 255)
    grey = (pixels * pixels.new_tensor(GREY)[:, None, None]).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    return (grey + contrast * (pixels - grey)).clamp(0, 255)


def augmented(
    images: torch.Tensor, sizes: torch.Tensor, augment: Augment, size: int, generator: torch.Generator
) -> torch.Tensor:
    """A new view of each image: (N, 3, size, size) float32, 0 to 255; arguments as `draw` and `view` take them."""
    return view(images, sizes, draw(sizes, augment, generator), size)


def evaluation(images: torch.Tensor, sizes: torch.Tensor, how: Preprocessing) -> torch.Tensor:
    """The view that the weights expect: as much of the centre as `how` crops, all of the image where it squashes.

    Args:
        images: uint8 (N, 3, H, W), padded at the right and the bottom; on any device.
        sizes: (N, 2) heights and widths without padding.
        how: size and crop.

    Returns:
        float32 (N, 3, S, S), 0 to 255, on the device of the images.
    """
    return view(images, sizes, centred(sizes, how), how.crop)


def centred(sizes: torch.Tensor, how: Preprocessing) -> Drawn:
    """The evaluation views of images of these sizes (N, 2)."""
    room = sizes.cpu().float().flip(1)
    crop = room if how.resize is None else room.amin(1, keepdim=True).expand(-1, 2) * how.crop / how.resize
    same = torch.ones(len(sizes))
    flip = torch.zeros(len(sizes), dtype=torch.bool)
    return Drawn(torch.cat([(room - crop) / 2, crop], 1), flip, 0 * same, same, same)


def normalized(pixels: torch.Tensor, how: Preprocessing) -> torch.Tensor:
    """(x / 255 - mean) / std of pixels (N, 3, S, S) from 0 to 255, as the weights expect them."""
    mean, std = (pixels.new_tensor(values)[:, None, None] * 255 for values in (how.mean, how.std))
    return (pixels - mean) / std
