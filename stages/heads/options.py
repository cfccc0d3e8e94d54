"""The block `boxes` of params.yaml."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stages.blocks import Block, Fraction


class Boxes(Block):
    """What heads for boxes are made of."""

    predict: Literal["both", "class", "box"]
    pool: Literal["none", "avg"]
    largest_hidden: Annotated[int, Field(ge=0)]
    box_sigmoid: bool
    box_loss: Literal["smooth_l1", "l1", "mse", "giou"]
    box_weight: Annotated[float, Field(ge=0)]
    class_weight: Annotated[float, Field(ge=0)]
    object_weight: Annotated[float, Field(ge=0)]
    tower_depth: Annotated[int, Field(ge=0, le=8)]
    mining: Annotated[float, Field(ge=0)]
    focal_alpha: Annotated[float, Field(le=1)]
    anchor_count: Annotated[int, Field(ge=0, le=32)]
    anchor_sizes: list[Annotated[list[Fraction], Field(min_length=2, max_length=2)]]
    anchor_scales: list[Fraction]
    anchor_ratios: list[Annotated[float, Field(gt=0)]]
    anchor_match: Fraction
    anchor_ignore: Fraction
    fusion: bool
    towers: Literal["shared", "separate"]
    centreness: bool
    centre_radius: Annotated[float, Field(gt=0)]
    level_cells: Annotated[float, Field(gt=0)]

    @model_validator(mode="after")
    def _ignored_below_matched(self) -> "Boxes":
        if self.anchor_ignore > self.anchor_match:
            raise ValueError("anchor_ignore must not be above anchor_match")
        return self

    @model_validator(mode="after")
    def _some_anchor(self) -> "Boxes":
        if not (self.anchor_count or self.anchor_sizes or (self.anchor_scales and self.anchor_ratios)):
            raise ValueError("no anchor is left: set anchor_count, anchor_sizes, or anchor_scales and anchor_ratios")
        return self
