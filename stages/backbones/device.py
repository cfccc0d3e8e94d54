"""Which device to compute on, and on how many cores."""

import os

import torch

from stages.errors import UserError


def pick_device(device: str) -> torch.device:
    """The device that `device` means; `auto` takes CUDA, then Apple's MPS, then the CPU.

    Raises:
        UserError: the device is not available.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    available = {"cpu": True, "mps": torch.backends.mps.is_available(), "cuda": torch.cuda.is_available()}
    kind, _, number = device.partition(":")
    if not available[kind] or (number and int(number) >= torch.cuda.device_count()):
        raise UserError(f"`device`: {device} is not available here; device=auto takes what is.")
    return torch.device(device)


def cores() -> int:
    """How many cores this process may use: PYTHON_CPU_COUNT, which Python itself obeys from 3.13 on, else all."""
    return int(os.environ.get("PYTHON_CPU_COUNT") or os.cpu_count() or 1)


def half(device: torch.device) -> str | None:
    """The half precision that a device computes in; None where it only emulates one."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    if device.type == "cpu" and torch.cpu.get_capabilities().get("avx512_bf16", False):
        return "bfloat16"
    return None


def training_precision(precision: str, device: torch.device) -> str:
    """`auto` is bfloat16 where the hardware computes in it, else float32; float16 would need its loss scaled."""
    if precision != "auto":
        return precision
    return "bfloat16" if half(device) == "bfloat16" else "float32"
