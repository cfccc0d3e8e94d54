"""Where a backbone can be cut: shapes, bytes an image, share of the compute that the cache saves."""

import argparse
import sys
from typing import Literal, get_args

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from stages.backbones import cuts, names, zoo
from stages.errors import UserError
from stages.params import Cut


def describe(name: str, image_size: int | Literal["auto"] = "auto") -> str:
    """A table of the cuts of a backbone. No weights are fetched: shapes do not depend on them.

    Raises:
        UserError: there is no such backbone, or it cannot be cut.
    """
    names.check(name, "random")
    backbone = zoo.load(name, "random")
    preprocessing = backbone.preprocessing.at(image_size, "crop")
    network = cuts.Network(backbone.model, preprocessing.crop, name)
    whole = _flops(backbone.model, preprocessing.crop)
    lines = [
        f"{name}: {sum(weight.numel() for weight in backbone.model.parameters()):,} parameters, "
        f"{whole / 2e9:.2f} billion multiply-adds an image",
        f"{preprocessing}",
        "",
        f"{'cut':8}{'shape':18}{'float16 an image':>18}{'10,000 images':>16}{'compute saved':>15}  at",
    ]
    for cut in get_args(Cut):
        try:
            shape = network.cut(cut).shape
        except UserError as error:
            lines.append(f"{cut:8}{error}")
            continue
        size = 2 * int(np.prod(shape))
        saved = _flops(network.trunk(cut), preprocessing.crop) / whole
        shown = " x ".join(str(side) for side in shape)
        at = network.describe(cut)
        lines.append(f"{cut:8}{shown:18}{size:>16,} B{size / 100:>13,.1f} MB{saved:>14.1%}   {at}")
    return "\n".join(lines)


def _flops(module: nn.Module, size: int) -> int:
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        module(torch.zeros(1, 3, size, size))
    return int(counter.get_total_flops())


def main() -> None:
    """Prints where a backbone can be cut."""
    parser = argparse.ArgumentParser(
        prog="python -m stages.backbone", description=main.__doc__, epilog="example: python -m stages.backbone vgg16"
    )
    parser.add_argument("name", help="efficientnet_lite0|1|2, a torchvision classification model, or timm:NAME")
    parser.add_argument("--image-size", type=int, help="input pixels a side (default: what the weights expect)")
    given = parser.parse_args()
    try:
        print(describe(given.name, given.image_size or "auto"))
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
