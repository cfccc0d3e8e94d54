"""Images while training: crops, flips, rotation and lighting drawn on whole batches, on any device.

What may be drawn follows `stages.images.views`. One bilinear sampling does crop, flip and rotation at once. It needs
no antialiasing: kept images have a short side of 1.15 input sizes, so that it shrinks a square one 1.15 times and the
long side of a crop of the longest less than twice. Where a rotation reaches beyond a crop the image goes on, and grey
begins where it ends.
"""

import torch
import torch.nn.functional as F

from stages.images.crops import NUMBERS_PER_VIEW, BatchCropParams, random_crops
from stages.images.options import Augment
from stages.images.preprocessing import FILL, Preprocessing

GREY = (0.2989, 0.587, 0.114)  # shares of red, green and blue, as torchvision's lighting takes them


def draw(sizes: torch.Tensor, augment: Augment, generator: torch.Generator) -> BatchCropParams:
    """Draws a view of each image.

    Args:
        sizes: (N, 2) heights and widths.
        augment: what may be drawn.
        generator: on the CPU, whatever the device: the same everywhere.
    """
    uniform = torch.rand((len(sizes), NUMBERS_PER_VIEW), generator=generator)
    return random_crops(uniform, sizes.cpu(), augment, whole_pixels=False)


def view(images: torch.Tensor, sizes: torch.Tensor, drawn: BatchCropParams, size: int) -> torch.Tensor:
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


def centred(sizes: torch.Tensor, how: Preprocessing) -> BatchCropParams:
    """The evaluation views of images of these sizes (N, 2)."""
    room = sizes.cpu().float().flip(1)
    crop = room if how.resize is None else room.amin(1, keepdim=True).expand(-1, 2) * how.crop / how.resize
    same = torch.ones(len(sizes))
    flip = torch.zeros(len(sizes), dtype=torch.bool)
    return BatchCropParams(torch.cat([(room - crop) / 2, crop], 1), flip, 0 * same, same, same)
