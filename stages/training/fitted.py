"""A trained head: a module from features as they are cached to logits, and how it came about."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from stages.backbones.device import training_precision
from stages.errors import UserError
from stages.features import io
from stages.heads import TAKES, those_for
from stages.params import Params
from stages.training.data import Data, Part
from stages.training.history import Epoch

SMALLEST = 1e-6  # a deviation: features that are all the same are left alone


class Standardize(nn.Module):
    """(x - mean) / std by channel, with the statistics of the train part, kept with the head.

    A feature that varies less than is typical (the root mean square of all deviations) is divided by the typical
    deviation: blown up to unit variance, features that are nearly silent in train drown the others on new images.
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shape = (-1, *[1] * (x.ndim - 2))
        return (x - self.mean.view(shape)) * self.scale.view(shape)

    def fit(self, batches: Iterable[torch.Tensor]) -> "Standardize":
        """Takes mean and standard deviation of batches (N, C) or (N, C, H, W)."""
        count, total, squares = 0, torch.zeros_like(self.mean.double()), torch.zeros_like(self.mean.double())
        for batch in batches:
            rows = batch.movedim(1, -1).reshape(-1, batch.shape[1]).double()
            count, total, squares = count + len(rows), total + rows.sum(0), squares + rows.square().sum(0)
        mean = total / count
        std = (squares / count - mean.square()).clamp(min=0).sqrt()
        typical = float(std.square().mean().sqrt())
        self.mean.copy_(mean)
        self.scale.copy_(1 / std.clamp(min=max(typical, SMALLEST)))
        return self


class Whole(nn.Module):
    """All that lies between the cached features and the logits: standardisation, then the head's own layers.

    Attributes:
        takes: what the head takes; maps are averaged over positions for one that takes a vector.
        precision: `float32`, or `bfloat16` in which products and convolutions are then computed.
    """

    def __init__(self, head: nn.Module, channels: int, *, takes: str, precision: str) -> None:
        super().__init__()
        self.standardize, self.head = Standardize(channels), head
        self.takes, self.precision = takes, precision

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """What the head takes, before standardisation: (N, D) or (N, C, H, W)."""
        return x.mean((-2, -1)) if self.takes == "vector" and x.ndim == 4 else x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes) in float32."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            logits: torch.Tensor = self.head(self.standardize(self.features(x)))
        return logits.float()


@dataclass(frozen=True)
class Fitted:
    """What training hands on.

    Attributes:
        history: one row an epoch.
        best_epoch: the epoch that was kept, counted from 1.
        notes: what the head's own method has to tell, e.g. ridge's strength.
        knobs: what the head's layers are built from.
    """

    module: Whole
    history: list[Epoch]
    best_epoch: int
    notes: dict[str, Any]
    knobs: dict[str, Any] = field(default_factory=dict)


def knobs(params: Params, data: Data, device: torch.device) -> dict[str, Any]:
    """What shapes a head and how it computes; stored with it, so that it can be built again."""
    precision = training_precision(params.precision, device) if len(data.shape) > 1 else "float32"
    return {"hidden": params.hidden, "dropout": params.dropout, "precision": precision}


def assemble(head: str, shape: Sequence[int], classes: int, knobs: Mapping[str, Any]) -> Whole:
    """A whole head, by name, on features of the shape that one image has.

    Raises:
        UserError: the head takes a map and the features are vectors.
    """
    takes = TAKES[head]
    if takes == "map" and len(shape) != 3:
        raise UserError(
            f"`head`: {head} takes a map (C, H, W), and the features are of shape {tuple(shape)}: take cut=map, or a "
            f"head for vectors ({', '.join(those_for('vector'))})."
        )
    taken = tuple(shape) if takes == "map" else (shape[0],)
    layers = import_module(f"stages.heads.{head}").build(taken, classes, knobs)
    return Whole(layers, shape[0], takes=takes, precision=knobs["precision"])


@torch.inference_mode()
def embed(module: Whole, part: Part) -> torch.Tensor:
    """What the head takes of every view of every image: (N, V, …)."""
    views = part.x.shape[1]
    return torch.stack([torch.cat([*map(module.features, part.batches(view))]) for view in range(views)], 1)


@torch.inference_mode()
def logits(module: nn.Module, part: Part, view: int = 0) -> torch.Tensor:
    """Logits (N, C) of one view of every image, in eval mode."""
    module.eval()
    return torch.cat([module(batch) for batch in part.batches(view)])


def store(folder: Path, module: nn.Module, description: Mapping[str, Any]) -> None:
    """Writes `<folder>/head.safetensors` and `head.json`; equal input gives equal bytes."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    io.write_bytes(folder / "head.safetensors", save(state))
    io.write_bytes(folder / "head.json", (json.dumps(description, indent=1, sort_keys=True) + "\n").encode())


def restore(folder: Path) -> tuple[Whole, dict[str, Any]]:
    """A head from its own description, in eval mode.

    Raises:
        UserError: it is not there or not whole.
    """
    try:
        description: dict[str, Any] = json.loads((folder / "head.json").read_text())
        classes = len(description["classes"])
        module = assemble(description["head"], description["shape"], classes, description["knobs"])
        module.load_state_dict(load_file(folder / "head.safetensors"))
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{folder} holds no whole head ({error}): `dvc repro -f train` makes it anew.") from None
    module.eval()
    return module, description
