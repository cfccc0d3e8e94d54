"""Normalisation: from pixels of 0 to 255 to what the weights of a network expect."""

import torch
from torch import nn

from stages.images.preprocessing import Preprocessing


class Normalize(nn.Module):
    """(x / 255 - mean) / std of pixels (N, 3, H, W) from 0 to 255, on the device that the module is on.

    The state dict stays empty: mean and std follow from the preprocessing, which is kept with whatever is stored.

    Args:
        preprocessing: has mean and std of each channel.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.mean = nn.Buffer(torch.tensor(preprocessing.mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.std = nn.Buffer(torch.tensor(preprocessing.std).view(1, 3, 1, 1) * 255, persistent=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return (pixels - self.mean) / self.std
