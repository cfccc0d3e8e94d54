"""A backbone up to a cut, and what is told of it: loaded and traced here, or kept beside a converted model."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import nn

from stages.backbones import cuts, zoo
from stages.images.normalization import Normalize
from stages.images.preprocessing import Preprocessing


@dataclass(frozen=True)
class About:
    """What the provenance of features says of the trunk that made them.

    Attributes:
        weights: their name, `default` resolved.
        weights_sha256: of the whole network's state dict.
        cut_at: the cut in the network's own words.
        parameters: how many lie before the cut.
        layers: layer -> shape of one image's features, in the order in which they come out.
        preprocessing: what the trunk expects.
    """

    weights: str
    weights_sha256: str
    cut_at: str
    parameters: int
    layers: dict[str, tuple[int, ...]]
    preprocessing: Preprocessing

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self) | {"preprocessing": str(self.preprocessing)}

    @classmethod
    def parse(cls, plain: dict[str, Any]) -> "About":
        """What `plain` gave."""
        layers = {name: tuple(shape) for name, shape in plain["layers"].items()}
        return cls(**plain | {"layers": layers, "preprocessing": Preprocessing.parse(plain["preprocessing"])})


class Trunk(nn.Module):
    """From pixels, uint8 (N, S, S, 3) as they lie in memory, to a tuple of layers (N, …)."""

    def __init__(self, frozen: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.frozen = frozen
        self.normalize = Normalize(preprocessing)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        features = self.frozen(self.normalize(pixels.permute(0, 3, 1, 2).float()))
        return tuple(features.values()) if isinstance(features, dict) else (features,)


def load(
    name: str, weights: str, cut: str, image_size: int | Literal["auto"], resize: Literal["crop", "squash"]
) -> tuple[Trunk, About]:
    """Loads a backbone and cuts it.

    Raises:
        UserError: the backbone, its weights or the cut cannot be had.
    """
    backbone = zoo.load(name, weights, image_size)
    preprocessing = backbone.preprocessing.at(image_size, resize)
    network = cuts.Network(backbone.model, preprocessing.crop, name)
    frozen = network.trunk(cut)
    about = About(
        weights=backbone.weights,
        weights_sha256=backbone.sha256,
        cut_at=network.describe(cut),
        parameters=sum(parameter.numel() for parameter in frozen.parameters()),
        layers={layer: place.shape for layer, place in network.layers(cut).items()},
        preprocessing=preprocessing,
    )
    return Trunk(frozen, preprocessing).eval(), about
