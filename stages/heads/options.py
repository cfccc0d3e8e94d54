"""The options of every head, and the block `boxes` of params.yaml that many of them come from. Needs no torch."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stages.blocks import Block, Fraction, HeadOptions
from stages.boxes.options import DenseOptions, LossOptions


class Boxes(Block):
    """The knobs of heads for boxes; the options below read them."""

    predict: Literal["both", "class", "box"]
    pool: Literal["none", "avg"]
    largest_hidden: Annotated[int, Field(ge=0)]
    box_sigmoid: bool
    box_loss: Literal["smooth_l1", "l1", "mse", "giou", "ciou"]
    box_weight: Annotated[float, Field(ge=0)]
    class_weight: Annotated[float, Field(ge=0)]
    tower_depth: Annotated[int, Field(ge=0, le=8)]
    mining: Annotated[float, Field(ge=0)]
    focal_alpha: Annotated[float, Field(le=1)]
    anchor_count: Annotated[int, Field(ge=1, le=32)]
    anchor_match: Fraction
    anchor_ignore: Fraction

    @model_validator(mode="after")
    def _ignored_below_matched(self) -> "Boxes":
        if self.anchor_ignore > self.anchor_match:
            raise ValueError("anchor_ignore must not be above anchor_match")
        return self


class MlpOptions(HeadOptions):
    """`mlp`: its hidden layer."""

    hidden: int
    dropout: float


class AttentiveOptions(HeadOptions):
    """`attentive`: how many weighted means of the map it takes."""

    queries: int


class SqueezenetOptions(HeadOptions):
    """`squeezenet`: its dropout."""

    dropout: float


class KnnOptions(HeadOptions):
    """`knn`: both are learned in training, and 0 before it.

    Attributes:
        rows: how many training vectors it keeps.
        k: how many of them vote.
        multilabel: images have several labels.
    """

    rows: int = 0
    k: int = 0
    multilabel: bool = False


class LargestOptions(LossOptions):
    """`largest`: what it predicts, and from what."""

    dropout: float
    predict: str
    pool: str
    largest_hidden: int
    box_sigmoid: bool


class MultiscaleOptions(DenseOptions):
    """`multiscale`: how many boxes of an image it looks at a second time; learned before the head is built."""

    proposals: int = 96


class AnchorsOptions(DenseOptions):
    """`anchors`: how many there are, and which boxes an anchor takes.

    Attributes:
        anchor_sizes: (width, height) of each anchor in [0, 1] of the view; learned before the head is built.
    """

    anchor_count: int
    anchor_sizes: list[list[float]] = Field(default_factory=list)
    anchor_match: float
    anchor_ignore: float
