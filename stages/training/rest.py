"""The rest of the backbone: the layers between the cached features and the head, which may train too."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from stages.backbones.rest import depth_groups, parameters_from
from stages.errors import UserError, nearest
from stages.features.h5 import INPUT
from stages.images.normalization import Normalize
from stages.images.preprocessing import Preprocessing
from stages.params import Params
from stages.training.options import Phase

if TYPE_CHECKING:
    from torchvision.models.feature_extraction import DualGraphModule

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)  # their statistics move while they are in train mode


class Rest(nn.Module):
    """The rest of a backbone, from cached features to what the head takes.

    Frozen modules stay in eval mode: neither their weights nor their statistics move.

    Args:
        body: from the cut to the tap; None if the head sits on pixels.
        preprocessing: of the images, if the cache holds pixels; None if it holds features.
    """

    def __init__(self, body: "DualGraphModule | None", preprocessing: Preprocessing | None) -> None:
        super().__init__()
        self.body = body
        self.normalize = Normalize(preprocessing) if preprocessing else None
        self._asleep: list[nn.Module] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features at the tap, from features at the cut or from pixels (0 to 255)."""
        if self.normalize:
            if self.body is None:
                return x / 255
            x = self.normalize(x)
        if x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        return x if self.body is None else self.body(x)

    def train(self, mode: bool = True) -> "Rest":
        """Train mode for what trains, eval mode for what is frozen."""
        super().train(mode)
        for module in self._asleep:
            module.eval()
        return self

    def freeze(self, train_from: str, *, batchnorm: bool) -> None:
        """Lets the parameters from a module onwards train, and freezes all others.

        Args:
            train_from: `head` (nothing of the rest trains), `all`, or a module's name.
            batchnorm: keep the statistics of batch-norm fixed, even where its weights train.

        Raises:
            UserError: the rest has no such module.
        """
        if self.body is None:
            return
        every = list(self.body.parameters())
        chosen = {"head": list[nn.Parameter](), "all": every}.get(train_from)
        if chosen is None:
            self._check("train_from", train_from)
            chosen = parameters_from(self.body, train_from)
        trains = set(chosen)
        for parameter in every:
            parameter.requires_grad_(parameter in trains)
        self._asleep = [] if trains else [self.body]
        for module in self.body.modules():
            own = list(module.parameters())
            if (own and trains.isdisjoint(own)) or (batchnorm and isinstance(module, NORMS)):
                self._asleep.append(module)

    def groups(self, phase: Phase, params: Params) -> list[dict[str, Any]]:
        """The parameters that train, grouped by learning rate, for an optimizer.

        The rate of a parameter is the one in `phase.groups` for the longest module name that its own name begins with;
        otherwise `lr_backbone`, times `layer_decay` once for each block between the parameter and the head.

        Raises:
            UserError: the rest has no such module.
        """
        if self.body is None:
            return []
        for module in phase.groups:
            self._check("groups", module)
        named = {parameter: name for name, parameter in self.body.named_parameters()}
        rate_of: dict[float, list[nn.Parameter]] = {}
        for depth, block in enumerate(reversed(depth_groups(self.body))):
            general = (phase.lr_backbone or params.lr_backbone) * params.layer_decay**depth
            for parameter in block:
                if parameter.requires_grad:
                    rate = _rate(named[parameter], phase.groups, general)
                    rate_of.setdefault(rate, []).append(parameter)
        return [{"params": parameters, "lr": rate} for rate, parameters in rate_of.items()]

    def _check(self, key: str, module: str) -> None:
        """Raises a UserError if the rest has no module of this name, or if it has no parameters."""
        names = [name for name, candidate in self.named_modules() if any(True for _ in candidate.parameters())]
        names = [name.removeprefix("body.") for name in names if name.startswith("body.")]
        if module not in names:
            raise UserError(f"`phases`: {key} {module!r} has no parameters in the rest; {nearest(module, names)}")


def _rate(name: str, groups: Mapping[str, float], general: float) -> float:
    fitting = [module for module in groups if f"{name}.".startswith(f"{module}.")]
    return groups[max(fitting, key=len)] if fitting else general


def build(features: Mapping[str, Any], tap: str, weights: str | None = None) -> Rest | None:
    """The rest of the backbone between some features and the tap; None if the head sits on the features.

    Args:
        features: their provenance.
        tap: where the head attaches.
        weights: the pretrained weights to start from; None if a state dict will be loaded.

    Raises:
        UserError: the tap does not follow the cut, or the features were made with other weights.
    """
    cut, name = features["cut"], features["backbone"]
    preprocessing = Preprocessing.parse(features["preprocessing"]) if cut == INPUT else None
    if tap == "same":
        return Rest(None, preprocessing) if preprocessing else None
    from stages.backbones import zoo  # imports torchvision, 1.5 s: only where there is a rest
    from stages.backbones.cuts import load_network

    size = features["image_size"]
    if weights is None:
        architecture = zoo.architecture(name, features["weights"], size)
        return Rest(load_network(architecture, size, name).rest(cut, tap), preprocessing)
    backbone = zoo.load(name, weights, size)
    made_with = features.get("weights_sha256", backbone.sha256)
    if made_with != backbone.sha256:
        raise UserError(
            f"The features were made with other weights of {name} ({made_with[:12]}) than the current ones "
            f"({backbone.sha256[:12]}): `dvc repro -f -s extract`, then `dvc repro`."
        )
    return Rest(load_network(backbone.model, size, name).rest(cut, tap), preprocessing)
