"""Running a trunk on batches of uint8 pixels. One engine so far: torch, on any device."""

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from stages.backbones.device import half
from stages.errors import UserError
from stages.features.pipeline import Preprocessing

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_precision(precision: str, device: torch.device) -> str:
    """`auto` is half precision where the hardware computes in it, else float32.

    Raises:
        UserError: the CPU has no float16 arithmetic worth the name.
    """
    if precision == "float16" and device.type == "cpu":
        raise UserError("`extract.precision`: float16 needs a GPU; on a CPU take bfloat16, float32 or auto.")
    if precision != "auto":
        return precision
    return half(device) or "float32"


class TorchEngine:
    """A trunk on a device: channels_last, autocast, normalisation on the device.

    Args:
        trunk: normalised pixels (N, 3, S, S) to features (N, …), or to layer -> features.
        preprocessing: for its mean and standard deviation.
        device: where to run.
        precision: `float32`, `bfloat16` or `float16`.
    """

    def __init__(self, trunk: nn.Module, preprocessing: Preprocessing, device: torch.device, precision: str) -> None:
        self.device, self.precision = device, precision
        self.trunk = trunk.to(device).to(memory_format=torch.channels_last)
        self.mean = torch.tensor(preprocessing.mean, device=device).view(1, 3, 1, 1) * 255
        self.std = torch.tensor(preprocessing.std, device=device).view(1, 3, 1, 1) * 255
        if device.type == "cuda":  # the same input must give the same bytes
            torch.backends.cudnn.benchmark = False
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False

    @torch.inference_mode()
    def __call__(self, pixels: torch.Tensor) -> list[npt.NDArray[np.float32]]:
        """Features (N, …) float32 of uint8 pixels (N, 3, S, S), an array for each layer that the trunk gives."""
        batch = pixels.pin_memory() if self.device.type == "cuda" else pixels
        moved = batch.to(self.device, non_blocking=True).to(torch.float32, memory_format=torch.channels_last)
        enabled = self.precision != "float32"
        with torch.autocast(self.device.type, dtype=DTYPES[self.precision], enabled=enabled):
            features = self.trunk((moved - self.mean) / self.std)
        layers = features.values() if isinstance(features, dict) else [features]
        return [layer.float().cpu().contiguous().numpy() for layer in layers]
