"""The block `decide` of params.yaml."""

from typing import Annotated, Literal

from pydantic import Field

from stages.blocks import Block, Fraction


class Decide(Block):
    """How scores become decisions; only evaluate reads it."""

    confidence: Fraction
    nms_iou: Fraction
    tta: bool
    merge: Literal["nms", "vote", "fusion"]
    unknown: Annotated[float, Field(ge=0, lt=1)]
