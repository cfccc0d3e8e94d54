"""What lies between the cached features and the head: the rest of the backbone, which may train too."""

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
    """The rest of a backbone, from features as they are kept to what the head takes.

    A part that is frozen stays in eval mode: neither its weights nor its statistics move.

    Args:
        body: from the cut to the tap; None where the head is at the cut, on pixels.
        how: of images that are kept as pixels; None where features are.
    """

    def __init__(self, body: "DualGraphModule | None", how: Preprocessing | None) -> None:
        super().__init__()
        self.body = body
        self.normalize = Normalize(how) if how else None
        self._asleep: list[nn.Module] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features at the tap of features at the cut, or of pixels from 0 to 255."""
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
        """Lets the parameters from a module on train, and no other.

        Args:
            train_from: `head` (nothing of the rest trains), `all`, or a module's name.
            batchnorm: whether batch-norm keeps its statistics where it trains, too.

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
        """The parameters that train, in groups of one learning rate, for an optimizer.

        A parameter's rate is that of `phase.groups` for the longest module name that it begins with, else
        `lr_backbone`, times `layer_decay` once for each block between it and the head.

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
        """Refuses the name of a module that the rest has not, or that has no parameters."""
        names = [name for name, found in self.named_modules() if any(True for _ in found.parameters())]
        names = [name.removeprefix("body.") for name in names if name.startswith("body.")]
        if module not in names:
            raise UserError(f"`phases`: {key} {module!r} has no parameters in the rest; {nearest(module, names)}")


def _rate(name: str, groups: Mapping[str, float], general: float) -> float:
    fitting = [module for module in groups if f"{name}.".startswith(f"{module}.")]
    return groups[max(fitting, key=len)] if fitting else general


def build(features: Mapping[str, Any], tap: str, weights: str | None = None) -> Rest | None:
    """The rest that belongs to some features; None where the head sits on them.

    Args:
        features: their provenance.
        tap: where the head attaches.
        weights: the pretrained ones to start from; None for an architecture that a state dict will fill.

    Raises:
        UserError: the tap does not follow the cut, or the weights are other ones than the features were made with.
    """
    cut, name = features["cut"], features["backbone"]
    how = Preprocessing.parse(features["preprocessing"]) if cut == INPUT else None
    if tap == "same":
        return Rest(None, how) if how else None
    from stages.backbones import zoo  # imports torchvision, 1.5 s: only where there is a rest
    from stages.backbones.cuts import load_network

    size = features["image_size"]
    if weights is None:
        return Rest(load_network(zoo.architecture(name, features["weights"], size), size, name).rest(cut, tap), how)
    backbone = zoo.load(name, weights, size)
    made_with = features.get("weights_sha256", backbone.sha256)
    if made_with != backbone.sha256:
        raise UserError(
            f"The features were made with other weights of {name} ({made_with[:12]}) than are here "
            f"({backbone.sha256[:12]}): `dvc repro -f -s extract`, then `dvc repro`."
        )
    return Rest(load_network(backbone.model, size, name).rest(cut, tap), how)
