"""Boxes at random, and IoU in plain Python."""

import torch


def boxes_at_random(count: int, generator: torch.Generator, smallest: float = 0.02) -> torch.Tensor:
    """(count, 4) corners in [0, 1], no side shorter than `smallest`."""
    size = smallest + (1 - smallest) * torch.rand(count, 2, generator=generator) ** 2
    corner = torch.rand(count, 2, generator=generator) * (1 - size)
    return torch.cat([corner, corner + size], dim=1)


def plain_iou(a: list[float], b: list[float]) -> float:
    common = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)
