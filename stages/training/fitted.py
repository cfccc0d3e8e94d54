"""A trained head: a module from raw feature vectors to logits, and how it came about."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from stages.errors import UserError
from stages.features import io

SMALLEST = 1e-6  # a deviation: features that are all the same are left alone


class Standardize(nn.Module):
    """(x - mean) / std with the statistics of the train part, kept with the head.

    A feature that varies less than is typical (the root mean square of all deviations) is divided by the typical
    deviation: blown up to unit variance, features that are nearly silent in train drown the others on new images.
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean) * self.scale

    def fit(self, x: torch.Tensor) -> "Standardize":
        """Takes mean and standard deviation of x (N, D)."""
        std, mean = torch.std_mean(x, dim=0, correction=0)
        typical = float(std.square().mean().sqrt())
        self.mean.copy_(mean)
        self.scale.copy_(1 / std.clamp(min=max(typical, SMALLEST)))
        return self


@dataclass(frozen=True)
class Epoch:
    """One row of the history. A closed-form head has one, without a learning rate."""

    epoch: int
    lr: float | None
    train_loss: float
    val_loss: float
    train_accuracy: float
    val_accuracy: float


@dataclass(frozen=True)
class Fitted:
    """What training hands on.

    Attributes:
        module: raw vectors (N, D) to logits (N, classes).
        history: one row an epoch.
        best_epoch: the epoch that was kept, counted from 1.
        notes: what the head's own method has to tell, e.g. ridge's strength.
    """

    module: nn.Module
    history: list[Epoch]
    best_epoch: int
    notes: dict[str, Any]


Build = Callable[[int, int, Mapping[str, Any]], nn.Module]


def assemble(build: Build, inputs: int, classes: int, knobs: Mapping[str, Any]) -> nn.Sequential:
    """A whole head: standardisation, then the head's own layers."""
    return nn.Sequential(Standardize(inputs), build(inputs, classes, knobs))


def store(folder: Path, module: nn.Module, description: Mapping[str, Any]) -> None:
    """Writes `<folder>/head.safetensors` and `head.json`; equal input gives equal bytes."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    io.write_bytes(folder / "head.safetensors", save(state))
    io.write_bytes(folder / "head.json", (json.dumps(description, indent=1, sort_keys=True) + "\n").encode())


def restore(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """A head from its own description, in eval mode.

    Raises:
        UserError: it is not there or not whole.
    """
    try:
        description: dict[str, Any] = json.loads((folder / "head.json").read_text())
        build = import_module(f"stages.heads.{description['head']}").build
        module = assemble(build, description["inputs"], len(description["classes"]), description["knobs"])
        module.load_state_dict(load_file(folder / "head.safetensors"))
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{folder} holds no whole head ({error}): `dvc repro -f train` makes it anew.") from None
    return module.eval(), description


def as_row(epoch: Epoch) -> dict[str, Any]:
    """A row of the history for a CSV file, floats to six digits, no learning rate as an empty cell."""
    values = asdict(epoch)
    return {
        key: "" if value is None else f"{value:.6g}" if isinstance(value, float) else value
        for key, value in values.items()
    }
