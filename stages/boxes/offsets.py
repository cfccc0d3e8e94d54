"""Boxes as offsets to other boxes (Girshick et al. 2014, appendix C)."""

import torch

from stages.boxes import ops

MOST_GROWTH = 4.0  # a box is at most e to this power times as large as the other one, so that it stays finite


def offsets(boxes: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
    """Offsets (…, 4) of boxes (…, 4; corners) to anchors (…, 4; centre and size).

    The first two are the shift of the centre, divided by the anchor's size; the others the logarithm of the growth.
    """
    centre_size = ops.box_convert(boxes, "xyxy", "cxcywh")
    shift = (centre_size[..., :2] - anchors[..., :2]) / anchors[..., 2:]
    return torch.cat([shift, (centre_size[..., 2:] / anchors[..., 2:]).log()], dim=-1)


def offsets_to_corners(offsets: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
    """The corners (…, 4) of boxes from their offsets (…, 4): the reverse of `offsets`."""
    centre = anchors[..., :2] + offsets[..., :2] * anchors[..., 2:]
    half = offsets[..., 2:].clamp(max=MOST_GROWTH).exp() * anchors[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)
