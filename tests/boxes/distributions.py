"""The distribution over bins that means a distance."""

import torch

from stages.boxes.distributions import BINS

NOTHING = -40.0  # the logarithm of a probability that adds nothing


def logits_of(distances: torch.Tensor) -> torch.Tensor:
    """Logits (…, BINS) of the distribution over two neighbouring bins with these means (…), from 0 to BINS - 1."""
    shares = (1 - (distances[..., None] - torch.arange(BINS)).abs()).clamp(min=0)
    return shares.log().clamp(min=NOTHING)
