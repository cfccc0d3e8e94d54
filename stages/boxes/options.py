"""What losses and layers for boxes read of a head's options. Needs no torch."""

from stages.blocks import HeadOptions


class LossOptions(HeadOptions):
    """Of the loss of a box and of its class; the comments of params.yaml say what each means."""

    loss: str
    focal_gamma: float
    box_loss: str
    box_weight: float
    class_weight: float


class DenseOptions(LossOptions):
    """Of heads that predict an object, a box and a class at many locations."""

    hidden: int
    dropout: float
    tower_depth: int
    object_weight: float
    mining: float
    focal_alpha: float
