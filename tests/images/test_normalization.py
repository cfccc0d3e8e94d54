"""Normalisation: torchvision's formula, and nothing in the state dict."""

import torch
from torchvision.transforms.v2 import functional as F

from stages.images.normalization import Normalize
from stages.images.preprocessing import Preprocessing

PREPROCESSING = Preprocessing(64, 56, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_pixels_are_normalised_as_the_weights_expect() -> None:
    pixels = torch.rand(2, 3, 8, 8) * 255
    expected = F.normalize(pixels / 255, list(PREPROCESSING.mean), list(PREPROCESSING.std))
    torch.testing.assert_close(Normalize(PREPROCESSING)(pixels), expected)


def test_the_state_dict_stays_empty_so_that_stored_heads_keep_their_names() -> None:
    assert not Normalize(PREPROCESSING).state_dict()
