"""A backbone up to a cut, and its description: loaded and traced here, or stored beside a converted model."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import nn

from stages.backbones import cuts, zoo
from stages.images.normalization import Normalize
from stages.images.preprocessing import Preprocessing


@dataclass(frozen=True)
class TrunkInfo:
    """What the provenance of features says of their trunk.

    Attributes:
        weights: their name; never `default`, but what it stands for.
        weights_sha256: of the whole network's state dict.
        cut_at: the module or operation where the network is cut.
        parameters: number of parameters before the cut.
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
        """A dictionary for JSON."""
        return asdict(self) | {"preprocessing": str(self.preprocessing)}

    @classmethod
    def parse(cls, plain: dict[str, Any]) -> "TrunkInfo":
        """The inverse of `plain`."""
        layers = {name: tuple(shape) for name, shape in plain["layers"].items()}
        return cls(**plain | {"layers": layers, "preprocessing": Preprocessing.parse(plain["preprocessing"])})


class Trunk(nn.Module):
    """From pixels, uint8 (N, S, S, 3) as they lie in memory, to a tuple of layers (N, …)."""

    def __init__(self, frozen: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.frozen, self.size = frozen, preprocessing.crop
        self.normalize = Normalize(preprocessing)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        features = self.frozen(self.normalize(pixels.permute(0, 3, 1, 2).float()))
        return tuple(features.values()) if isinstance(features, dict) else (features,)


def load(
    name: str, weights: str, *, cut: str, image_size: int | Literal["auto"], resize: Literal["crop", "squash"]
) -> tuple[Trunk, TrunkInfo]:
    """Loads a backbone and cuts it.

    Args:
        name: of the backbone.
        weights: their name, or a file.
        cut: where the features are taken.
        image_size: pixels per side of the input; `auto` is what the weights were trained with.
        resize: whether an image is cropped to a square or squashed into one.

    Raises:
        UserError: the backbone, its weights or the cut is not available.
    """
    backbone = zoo.load(name, weights, image_size)
    preprocessing = backbone.preprocessing.at(image_size, resize)
    network = cuts.load_network(backbone.model, preprocessing.crop, name)
    frozen = network.trunk(cut)
    info = TrunkInfo(
        weights=backbone.weights,
        weights_sha256=backbone.sha256,
        cut_at=network.describe(cut),
        parameters=sum(parameter.numel() for parameter in frozen.parameters()),
        layers={layer: end.shape for layer, end in network.layers(cut).items()},
        preprocessing=preprocessing,
    )
    return Trunk(frozen, preprocessing).eval(), info
