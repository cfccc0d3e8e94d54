"""Which backbones exist. Torch is not imported, which takes 2-3 s: a check of params.yaml should be quick."""

import os
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from stages import paths
from stages.errors import UserError, nearest

PACKAGED = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
TIMM = "timm:"
TOKEN_CUTS = ("cls", "avg", "cls+avg")  # of networks of tokens; `cls+avg@4` joins the last four blocks
CUTS = ("pooled", *TOKEN_CUTS, "map", "map@16", "map@8", "pyramid", "input")  # every other cut is a module's name
_BLOCKS = re.compile(r"cls\+avg@([1-9]\d*)")


@cache
def registered(package: str) -> list[str]:
    """Names under `@register_model` in the sources of torchvision or timm; a test compares them."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise UserError(f"the package {package} is not installed: pip install {package}")
    sources = sorted((Path(spec.origin).parent / "models").glob("*.py"))
    pattern = re.compile(r"^@register_model(?:\(\))?\n(?:@.*\n)*def (\w+)", re.MULTILINE)
    return sorted(name for source in sources for name in pattern.findall(source.read_text(encoding="utf-8")))


def unprefixed() -> list[str]:
    """All names that `backbone` takes without a prefix."""
    return [*PACKAGED, *registered("torchvision")]


def joined(backbone: str, weights: str) -> list[tuple[str, str]]:
    """Name and weights of every network in `a+b`; the weights are one name for all of them, or `x+y`.

    Raises:
        UserError: the numbers of weights and networks differ.
    """
    backbones, weights_of = backbone.split("+"), weights.split("+")
    weights_of = weights_of * len(backbones) if len(weights_of) == 1 else weights_of
    if len(weights_of) != len(backbones):
        raise UserError(
            f"`weights`: {weights!r} names {len(weights_of)} weights for the {len(backbones)} networks of {backbone}; "
            "give one for all or one for each."
        )
    return list(zip(backbones, weights_of, strict=True))


def valid_cut(name: str) -> str:
    """A cut or tap whose name is possible: one of CUTS, or the name of a module.

    Raises:
        ValueError: with the nearest valid name.
    """
    if name not in CUTS and not _BLOCKS.fullmatch(name) and not re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", name):
        raise ValueError(f"must be {', '.join(CUTS)} or a module's name such as layer3; {nearest(name, [*CUTS])}")
    return name


def joined_blocks(cut: str) -> int | None:
    """How many of the last blocks a cut such as `cls+avg@4` joins; None for every other cut."""
    match = _BLOCKS.fullmatch(cut)
    return int(match[1]) if match else None


def is_module(cut: str) -> bool:
    """Whether a cut or tap is the name of a module, which only the network itself can confirm."""
    return cut not in (*CUTS, "same") and joined_blocks(cut) is None


def is_vector(cut: str) -> bool:
    """Whether a cut gives one vector per image, whatever the network."""
    return cut == "pooled" or cut in TOKEN_CUTS or joined_blocks(cut) is not None


def check(backbone: str, weights: str) -> None:
    """Refuses a backbone or weights that do not exist.

    Raises:
        UserError: with the nearest valid name.
    """
    if backbone.startswith(TIMM):
        name, _, tag = backbone.removeprefix(TIMM).partition(".")
        if name not in registered("timm"):
            raise UserError(f"`backbone`: timm has no model {name!r}; {nearest(name, registered('timm'))}")
        if tag and tag not in weight_names(backbone):
            raise UserError(f"`backbone`: {name} has no weights {tag!r}; {nearest(tag, weight_names(backbone))}")
    elif backbone not in unprefixed():
        raise UserError(
            f"`backbone`: {backbone!r} is unknown; {nearest(backbone, unprefixed())} "
            "(any torchvision classification model, or timm:NAME)"
        )
    if weights in ("default", "random") or paths.resolve(weights).exists():
        return
    if "/" in weights or Path(weights).suffix:
        raise UserError(f"`weights`: there is no file {paths.resolve(weights)}.")
    enums = weight_names(backbone)
    if weights not in enums:
        raise UserError(
            f"`weights`: {backbone} has no weights {weights!r}; {nearest(weights, enums)} "
            "(or `default`, `random`, or a file)"
        )


def to_be_fetched(backbone: str, weights: str) -> tuple[str, Path] | None:
    """The host that a backbone's weights come from, and the folder that lacks them; None where they are at hand.

    A guess by the names of files, since only torch knows which one it is: enough to say beforehand what is to come.
    """
    if backbone in PACKAGED or weights == "random" or paths.resolve(weights).exists():
        return None
    if backbone.startswith(TIMM):
        hub = Path(os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME", "~/.cache/huggingface")) / "hub")
        host, folder, pattern = "huggingface.co", hub, f"models--*--{backbone.removeprefix(TIMM).split('.')[0]}*"
    else:
        folder = Path(os.environ.get("TORCH_HOME", "~/.cache/torch")) / "hub/checkpoints"
        host, pattern = "download.pytorch.org", f"{backbone}[-_]*.pth"
    return None if any(folder.expanduser().glob(pattern)) else (host, folder)


def weight_names(backbone: str) -> list[str]:
    """The named weights of a backbone; for torchvision the members of its enum (this imports torchvision)."""
    if backbone in PACKAGED:
        return ["default"]
    if backbone.startswith(TIMM):
        from timm.models import get_arch_pretrained_cfgs  # slow: only where a name has to be looked up

        name = backbone.removeprefix(TIMM).split(".")[0]
        return sorted({key.partition(".")[2] for key in get_arch_pretrained_cfgs(name)} - {""}) or ["default"]
    from torchvision.models import get_model_weights

    return [member.name for member in get_model_weights(backbone)]
