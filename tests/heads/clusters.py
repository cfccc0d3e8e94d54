"""Vectors of four classes of unequal size that overlap, for heads in closed form."""

import torch

from stages.heads.contract import LabelledVectors


def clusters(rows: int, columns: int, seed: int = 0) -> LabelledVectors:
    """So many vectors; the centres of the classes are the same for every seed."""
    centres = torch.randn(4, columns, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.multinomial(torch.tensor([0.4, 0.3, 0.2, 0.1]), rows, replacement=True, generator=generator)
    labels[:4] = torch.arange(4)
    noise = torch.randn(rows, columns, generator=generator) * torch.linspace(0.5, 2.0, columns)
    return LabelledVectors(centres[labels] + 1.5 * noise, labels)
