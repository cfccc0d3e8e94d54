"""Images while training: random crops, flips, rotations and lighting of whole batches, on any device.

Their ranges are those of `stages.images.views`. One bilinear sampling does crop, flip and rotation at once. It needs
no antialiasing: stored images have a short side of 1.15 input sizes, so a square one shrinks 1.15 times, and the long
side of a crop of the longest one less than twice. Where a rotation shows more than the crop, it shows the image around
it, and grey outside of the image.
"""

import torch
import torch.nn.functional as F

from stages.images.crops import NUMBERS_PER_VIEW, BatchCropParams, random_crops
from stages.images.options import Augment
from stages.images.preprocessing import FILL, Preprocessing

GREY = (0.2989, 0.587, 0.114)  # weights of red, green and blue, as in torchvision


def draw(sizes: torch.Tensor, augment: Augment, generator: torch.Generator) -> BatchCropParams:
    """Random choices for a view of each image.

    Args:
        sizes: (N, 2) heights and widths.
        augment: the range of each choice.
        generator: on the CPU whatever the device, which makes the choices the same everywhere.
    """
    uniform = torch.rand((len(sizes), NUMBERS_PER_VIEW), generator=generator)
    return random_crops(uniform, sizes.cpu(), augment, whole_pixels=False)


def view(images: torch.Tensor, sizes: torch.Tensor, *, crops: BatchCropParams, size: int) -> torch.Tensor:
    """One view of each image.

    Args:
        images: uint8 (N, 3, H, W), padded at the right and the bottom; on any device.
        sizes: (N, 2) heights and widths without padding.
        crops: one per image.
        size: of a view, in pixels per side.

    Returns:
        float32 (N, 3, size, size), 0 to 255, on the device of the images.
    """
    device, (height, width) = images.device, images.shape[-2:]
    grid = F.affine_grid(crops.source().to(device), [len(images), 3, size, size], align_corners=False)
    ends = sizes.to(device).float().flip(1)[:, None, None]
    inside = ((grid >= 0) & (grid <= ends)).all(-1)[:, None]
    centres = torch.minimum(grid.clamp(min=0.5), ends - 0.5)  # between these no pixel of the padding has a share
    sampled = F.grid_sample(images.float(), 2 * centres / centres.new_tensor([width, height]) - 1, align_corners=False)
    pixels = torch.where(inside, sampled, FILL)
    brightness, contrast = (factor.to(device)[:, None, None, None] for factor in (crops.brightness, crops.contrast))
    pixels = (pixels * brightness).clamp(0, 255)
    grey = (pixels * pixels.new_tensor(GREY)[:, None, None]).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    return (grey + contrast * (pixels - grey)).clamp(0, 255)


def evaluation(images: torch.Tensor, sizes: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    """The view that the weights expect: the centre of each image, or all of it where `preprocessing` squashes.

    Args:
        images: uint8 (N, 3, H, W), padded at the right and the bottom; on any device.
        sizes: (N, 2) heights and widths without padding.
        preprocessing: size and crop.

    Returns:
        float32 (N, 3, S, S), 0 to 255, on the device of the images.
    """
    return view(images, sizes, crops=centred(sizes, preprocessing), size=preprocessing.crop)


def centred(sizes: torch.Tensor, preprocessing: Preprocessing) -> BatchCropParams:
    """The evaluation views of images of these sizes (N, 2)."""
    room = sizes.cpu().float().flip(1)
    if preprocessing.resize is None:
        crop = room
    else:
        crop = room.amin(1, keepdim=True).expand(-1, 2) * preprocessing.crop / preprocessing.resize
    same = torch.ones(len(sizes))
    flip = torch.zeros(len(sizes), dtype=torch.bool)
    return BatchCropParams(torch.cat([(room - crop) / 2, crop], 1), flip, 0 * same, same, same)
