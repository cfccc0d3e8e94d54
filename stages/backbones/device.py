"""Which device to compute on."""

import torch

from stages.errors import UserError


def pick_device(device: str) -> torch.device:
    """The device that `device` means; `auto` takes CUDA, then Apple's MPS, then the CPU.

    Raises:
        UserError: the device is not there.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    there = {"cpu": True, "mps": torch.backends.mps.is_available(), "cuda": torch.cuda.is_available()}
    kind, _, number = device.partition(":")
    if not there[kind] or (number and int(number) >= torch.cuda.device_count()):
        raise UserError(f"`device`: {device} is not available here; device=auto takes what is.")
    return torch.device(device)
