"""The block `decide` of params.yaml."""

from typing import Literal

from stages.blocks import Block, Fraction


class Decide(Block):
    """How scores become decisions; only evaluate reads it."""

    confidence: Fraction
    nms_iou: Fraction
    tta: bool
    merge: Literal["nms", "fusion"]
