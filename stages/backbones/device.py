"""Which device to compute on, and in which precision."""

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


def pick_head_device(device: str) -> torch.device:
    """The device that heads train and predict on: the same, but not MPS, which cannot compute in float64.

    Statistics, solutions in closed form and scores are computed in float64.

    Raises:
        UserError: the device is not available.
    """
    picked = pick_device(device)
    return torch.device("cpu") if picked.type == "mps" else picked


def half(device: torch.device) -> str | None:
    """The half precision in which a device is faster than in float32; None where there is none.

    Intel's processors have bfloat16 in AMX, which is up to four times as fast, and in AVX-512, which is no faster than
    float32. AMD's have it in AVX-512, where it is 1.8 times as fast with OpenVINO (Zen 5; all in docs/benchmarks.md).
    """
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    has = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    intel = "intel" in str(has.get("cpu_name", "")).lower()
    return "bfloat16" if has.get("amx_bf16") or (has.get("avx512_bf16") and not intel) else None


def training_precision(precision: str, device: torch.device) -> str:
    """`auto` is bfloat16 where that is faster, else float32; float16 would need its loss scaled."""
    if precision != "auto":
        return precision
    return "bfloat16" if half(device) == "bfloat16" else "float32"
