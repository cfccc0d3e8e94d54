"""Networks that cannot be traced: what their own `forward` and `forward_features` give, and nothing in the middle."""

from typing import Any, NamedTuple, NoReturn

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from stages.backbones import tokens
from stages.backbones.names import TOKEN_CUTS
from stages.backbones.tokens import Square, TokenVectors
from stages.errors import UserError


class OwnCut(NamedTuple):
    """What a network's own interface gives.

    Attributes:
        method: of the network: `forward`, or `forward_features`.
        finish: turns what that gives into what is kept.
        shape: of one image, after `finish`.
    """

    method: str
    finish: Any
    shape: tuple[int, ...]


class OwnTrunk(nn.Module):
    """From normalised pixels to the features at a cut, by a method of the network."""

    def __init__(self, network: nn.Module, cut: OwnCut) -> None:
        super().__init__()
        self.network, self.cut = network, cut

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.cut.finish(getattr(self.network, self.cut.method)(pixels))
        return features


class UntracedNetwork:
    """A network of timm without its classifier, cut by its own interface: `pooled`, `cls`, `avg`, `cls+avg`, `map`.

    Args:
        bare: gives its vectors (N, C), in eval mode.
        size: input pixels a side.
        name: for messages.
        reason: why it cannot be traced.

    Raises:
        UserError: it does not take this size, or does not give vectors.
    """

    def __init__(self, bare: nn.Module, size: int, name: str, reason: str) -> None:
        self.name, self.size, self.reason = name, size, reason
        self._bare, self.layout = bare, tokens.layout(bare)
        network: Any = bare
        try:
            with torch.inference_mode():
                self._pooled = network(torch.zeros(1, 3, size, size))
                self._features = network.forward_features(torch.zeros(1, 3, size, size))
        except Exception as error:  # whatever a network's own code raises
            raise UserError(f"`backbone`: {name} cannot be cut at {size} x {size} pixels: {error}") from None
        if not isinstance(self._pooled, torch.Tensor) or self._pooled.ndim != 2:
            raise UserError(f"`backbone`: {name} cannot be cut at {size} x {size} pixels: {reason}")

    def layers(self, cut: str, *, key: str = "cut") -> dict[str, OwnCut]:
        """What a cut keeps, under its name.

        Raises:
            UserError: the network itself does not give this.
        """
        if cut == "pooled":
            return {cut: OwnCut("forward", _same, tuple(self._pooled.shape[1:]))}
        features, layout = self._features, self.layout
        side = layout.side(features.shape[1]) if layout and isinstance(features, torch.Tensor) else None
        if side is None or not layout or layout.norm or cut not in (*TOKEN_CUTS, "map"):
            raise UserError(f"`{key}`: {self.name} cannot be traced ({self.reason}): try {key}=pooled.")
        if cut == "map":
            return {cut: OwnCut("forward_features", Square(side, layout.prefix), (features.shape[2], side, side))}
        if "cls" in cut and not layout.has_class:
            raise UserError(f"`{key}`: {self.name} has no class token; try {key}=avg or {key}=pooled.")
        finish = TokenVectors(layout.prefix, "cls" in cut, "avg" in cut)
        width = features.shape[2] * (finish.class_tokens + finish.mean)
        return {cut: OwnCut("forward_features", finish, (width,))}

    def names(self) -> list[str]:
        """No module is a cut."""
        return []

    def trunk(self, cut: str) -> nn.Module:
        """From normalised pixels (N, 3, size, size) to the features at a cut, in eval mode."""
        return OwnTrunk(self._bare, self.layers(cut)[cut]).eval()

    def describe(self, cut: str) -> str:
        """The cut in the network's own words: a method of it."""
        return self.layers(cut)[cut].method

    def multiply_adds(self) -> float:
        """Of one image."""
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            self._bare(torch.zeros(1, 3, self.size, self.size))
        return float(counter.get_total_flops()) / 2

    def rest(self, cut: str, tap: str) -> NoReturn:
        """Nothing lies between the cuts of a network that is not traced.

        Raises:
            UserError: always.
        """
        raise UserError(
            f"`tap`: {self.name} cannot be traced ({self.reason}), so its layers cannot train: take tap=same."
        )


def _same(value: torch.Tensor) -> torch.Tensor:
    return value
