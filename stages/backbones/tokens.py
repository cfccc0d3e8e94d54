"""Networks of tokens (ViT and its relatives): where their tokens are, and what is made of them.

`forward_features` gives tokens (N, prefix + side², C): first those without a patch (the class token, registers),
then those of the patches, row by row.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from stages.errors import UserError


@dataclass(frozen=True)
class TokenLayout:
    """How the tokens of a network lie.

    Attributes:
        prefix: tokens before those of the patches.
        has_class: whether the first of them is the class token.
        norm: the module that normalises vectors, of a network that does not normalise its tokens; else None.
        patch: side of a patch in pixels; None where the network takes any size.
    """

    prefix: int
    has_class: bool
    norm: str | None
    patch: int | None

    def side(self, tokens: int) -> int | None:
        """Patches along a side, of so many tokens; None where these are not a square of two or more."""
        side = math.isqrt(max(0, tokens - self.prefix))
        return side if side > 1 and side * side + self.prefix == tokens else None


def layout(model: nn.Module) -> TokenLayout | None:
    """The layout of a network's tokens, as the network tells it; None where it has none."""
    network: Any = model
    if hasattr(model, "num_prefix_tokens"):
        fc_norm = getattr(model, "fc_norm", None)
        pools_first = isinstance(getattr(model, "norm", None), nn.Identity) and isinstance(fc_norm, nn.Module)
        norm = "fc_norm" if pools_first and not isinstance(fc_norm, nn.Identity) else None
        side = getattr(getattr(model, "patch_embed", None), "patch_size", None)
        patch = side[0] if isinstance(side, tuple) else side
        return TokenLayout(network.num_prefix_tokens, getattr(model, "cls_token", None) is not None, norm, patch)
    if hasattr(model, "class_token") and hasattr(model, "encoder"):  # torchvision's ViT
        return TokenLayout(1, has_class=True, norm=None, patch=network.patch_size)
    return None


def check_size(layout: TokenLayout | None, size: int, name: str) -> None:
    """Refuses a size that patches do not divide.

    Raises:
        UserError: with the two nearest sizes that they do.
    """
    if layout and layout.patch and size % layout.patch:
        below = size // layout.patch * layout.patch
        near = " or ".join(str(side) for side in (below, below + layout.patch) if side)
        raise UserError(
            f"`image_size`: {name} takes multiples of its patches of {layout.patch} pixels, found {size}: take {near}."
        )


@dataclass(frozen=True)
class TokenVectors:
    """Tokens (N, prefix + side², C) of one block or several to vectors (N, D), side by side. Works on an fx.Proxy only.

    Attributes:
        prefix: tokens before those of the patches.
        class_tokens: whether the class token of each block is among the vectors.
        mean: whether the mean of the last block's patches is.
        token_norm: the module that normalises tokens; None where they come normalised, or are normalised later.
        vector_norm: the module that normalises vectors; None where tokens are normalised.
    """

    prefix: int
    class_tokens: bool
    mean: bool
    token_norm: str | None = None
    vector_norm: str | None = None

    def __call__(self, *blocks: Any) -> Any:
        blocks = tuple(apply_module(self.token_norm, block) for block in blocks)
        vectors = [block[:, 0] for block in blocks] if self.class_tokens else []
        if self.mean:
            vectors.append(blocks[-1][:, self.prefix :].mean(1))
        vectors = [apply_module(self.vector_norm, vector) for vector in vectors]
        return torch.cat(vectors, 1) if len(vectors) > 1 else vectors[0]


@dataclass(frozen=True)
class Square:
    """Tokens (N, prefix + side², C) to a map (N, C, side, side)."""

    side: int
    prefix: int

    def __call__(self, tokens: Any) -> Any:
        return torch.unflatten(tokens[:, self.prefix :].transpose(1, 2), 2, (self.side, self.side))


def apply_module(name: str | None, value: Any) -> Any:
    """The output of a module of the network for an fx.Proxy; without a name the value itself."""
    return value if name is None else value.tracer.create_proxy("call_module", name, (value,), {})
