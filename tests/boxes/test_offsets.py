"""Boxes as offsets to other boxes, and back."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import box_convert

from stages.boxes.offsets import offsets, offsets_to_corners
from tests.boxes.drawing import boxes_at_random


@settings(max_examples=60)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 10))
def test_offsets_are_those_of_faster_rcnn_and_lead_back(seed: int, count: int) -> None:
    boxes = boxes_at_random(count, torch.Generator().manual_seed(seed))
    places = boxes_at_random(count, torch.Generator().manual_seed(seed + 1))
    as_centres = box_convert(places, "xyxy", "cxcywh")
    found = offsets(boxes, as_centres)
    torch.testing.assert_close(found, BoxCoder((1, 1, 1, 1)).encode_single(boxes, places), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(offsets_to_corners(found, as_centres), boxes, atol=1e-5, rtol=0)
