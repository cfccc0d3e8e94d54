"""The options that losses and layers for boxes read. Needs no torch."""

from stages.blocks import HeadOptions


class LossOptions(HeadOptions):
    """Options of the loss of a box and its class; the comments in params.yaml say what each means."""

    loss: str
    focal_gamma: float
    box_loss: str
    box_weight: float
    class_weight: float


class DenseOptions(LossOptions):
    """Options of heads that predict an object, a box and a class at many locations."""

    hidden: int
    dropout: float
    tower_depth: int
    mining: float
    focal_alpha: float
