"""Files of weights: passed by the user, in a folder that huggingface_hub filled, or in its cache."""

from pathlib import Path

import torch

from stages import paths
from stages.backbones.licences import hub_repository
from stages.backbones.names import TIMM
from stages.errors import UserError

FILES = (
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
)  # the names that timm looks for


def weights_file(backbone: str, weights: str) -> Path | None:
    """The file that `weights` means, if it is a file, or a folder in which huggingface_hub has put one.

    Args:
        backbone: its name in params.yaml, for the cache of the hub, which holds many networks.
        weights: as in params.yaml.

    Raises:
        UserError: the folder holds no file of weights.
    """
    path = paths.resolve(weights)
    if weights in ("default", "random") or not path.is_dir():
        return path if path.is_file() else None
    folders = [path, *path.glob("snapshots/*")]
    if backbone.startswith(TIMM):
        folders += path.glob(f"models--{hub_repository(backbone).replace('/', '--')}/snapshots/*")
    for file in (folder / name for folder in folders for name in FILES):
        if file.is_file():
            return file
    raise UserError(f"`weights`: the folder {path} has no weights of {backbone}: expected {', '.join(FILES)}.")


def cached_file(architecture: str) -> Path | None:
    """The weights of a network of timm in the cache of huggingface_hub; None where timm has to look itself.

    Args:
        architecture: as timm calls the network, with the tag of its weights.
    """
    import timm
    from huggingface_hub import try_to_load_from_cache
    from timm.models._hub import hf_split

    config = timm.get_pretrained_cfg(architecture, allow_unregistered=True)
    if not config or not config.hf_hub_id or config.custom_load or config.file or config.state_dict:
        return None
    repository, revision = hf_split(config.hf_hub_id)
    for name in [config.hf_hub_filename] if config.hf_hub_filename else FILES:
        cached = try_to_load_from_cache(repository, name, revision=revision)
        if isinstance(cached, str):
            return Path(cached)
    return None


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """A state dict from a file; pickles are read with weights_only, and never otherwise.

    Raises:
        UserError: the file cannot be read safely, or holds something else.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"`weights`: {path} cannot be read safely: {first_line(error)}") from None
    state = loaded.get("state_dict", loaded.get("model", loaded)) if isinstance(loaded, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"`weights`: {path} has no state dict (names and tensors).")
    return state


def how_to_fetch(backbone: str) -> str:
    """What to fetch on another machine, and where to put it here, for a network of timm."""
    from huggingface_hub.constants import HF_HUB_CACHE

    repository = hub_repository(backbone)
    return (
        f"On a machine that reaches huggingface.co run `hf download {repository} --local-dir weights`, copy the folder "
        "weights here and pass it, or its file: -S weights=/path/to/weights/model.safetensors. The folder "
        f"models--{repository.replace('/', '--')} of that machine's cache serves as well, passed in the same way or "
        f"put into {HF_HUB_CACHE}."
    )


def first_line(error: Exception) -> str:
    """The first line of a message, or the kind of error where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
