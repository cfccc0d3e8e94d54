"""The licences of pretrained weights. Without torch, unless one of timm or torchvision is asked for."""

from typing import Any

from stages import paths
from stages.backbones.names import PACKAGED, TIMM

FREE = ("apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0")  # for any use
NOT_FREE = "not free for all uses"


def licence(backbone: str, weights: str) -> str:
    """What is known about the licence of the weights of a backbone.

    Args:
        backbone: its name in params.yaml.
        weights: `default`, `random`, a name of torchvision's or timm's, or the path of a file or folder.
    """
    if weights == "random":
        return "random weights, which belong to nobody."
    if paths.resolve(weights).exists() and weights != "default":
        return f"weights from {paths.resolve(weights).name}; their licence is not known here."
    if backbone in PACKAGED:
        return "Apache 2.0, the licence of the Python package that contains them; trained on ImageNet-1k."
    if backbone.startswith(TIMM):
        return _timm_licence(backbone, weights)
    from torchvision.models import get_model_weights

    enum: Any = get_model_weights(backbone)
    chosen = enum["DEFAULT" if weights == "default" else weights]
    return (
        f"{chosen.meta.get('license', 'not stated')}. torchvision itself is BSD 3-clause; its weights may have terms "
        "of their own that derive from the data they were trained on."
    )


def restriction(backbone: str, weights: str) -> str | None:
    """The licence of the weights of a backbone where it is not free for all uses, as far as is known; else None."""
    if not backbone.startswith(TIMM):  # the others' are free, and torchvision takes seconds to import
        return None
    text = licence(backbone, weights)
    return text if NOT_FREE in text else None


def _timm_licence(backbone: str, weights: str) -> str:
    import timm

    architecture = backbone.removeprefix(TIMM)
    if weights != "default":
        architecture = f"{architecture.partition('.')[0]}.{weights}"
    config = timm.get_pretrained_cfg(architecture, allow_unregistered=True)
    name = str(getattr(config, "license", None) or "not stated")
    if name in FREE:
        return f"{name}, according to timm."
    address = f"https://huggingface.co/{hub_repository(TIMM + architecture)}"
    return f"{name}, according to timm: {NOT_FREE}, or not known to be; read the terms at {address}."


def hub_repository(backbone: str) -> str:
    """Where timm fetches the weights of a backbone on huggingface.co; without a tag, those that timm takes itself."""
    import timm

    architecture = backbone.removeprefix(TIMM)
    config = timm.get_pretrained_cfg(architecture, allow_unregistered=True)
    repository = getattr(config, "hf_hub_id", None) or f"timm/{architecture}"
    return str(repository).partition("@")[0]
