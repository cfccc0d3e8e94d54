"""The sides of a box as distributions over bins, from generalised focal loss (Li et al. 2020, §3.2).

Where a side is hard to see, its distribution is wide and the loss says so; a bare number cannot tell.
"""

import torch

BINS = 17  # the numbers of bins to which 0, 1, …, 16 belong


def expectation(logits: torch.Tensor) -> torch.Tensor:
    """The mean (…) in bins of distributions with logits (…, BINS): eq. 5 of the paper.

    As a sum, because OpenVINO cannot compile a product of a matrix and a vector that a number multiplies.
    """
    bins = torch.arange(BINS, dtype=logits.dtype, device=logits.device)
    return (logits.softmax(-1) * bins).sum(-1)


def distribution_loss(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """The cross-entropy (…) with the two bins next to the truth, each weighted by how near it is: eq. 6 of the paper.

    Args:
        logits: (…, BINS).
        truth: (…) in bins, from 0 to BINS - 1.
    """
    lower = truth.floor().clamp(0, BINS - 2)
    share = (truth - lower)[..., None]
    pair = torch.stack([lower, lower + 1], -1).long()
    log_probability = logits.log_softmax(-1).gather(-1, pair)
    losses: torch.Tensor = -(log_probability * torch.cat([1 - share, share], -1)).sum(-1)
    return losses
