"""The block `augment` of params.yaml."""

from typing import Annotated

from pydantic import Field

from stages.blocks import Block


class Augment(Block):
    """What a drawn view may differ in; view 0 is never drawn."""

    crop: Annotated[float, Field(gt=0, le=1)]
    flip: bool
    rotate: Annotated[float, Field(ge=0, le=180)]
    lighting: Annotated[float, Field(ge=0, lt=1)]
