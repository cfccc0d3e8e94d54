"""Where a backbone can be cut: shapes, bytes per image, and the share of the computation that the cache saves."""

import argparse
from math import prod
from typing import Any, Literal

import torch
from torch import fx
from torch.utils.flop_counter import FlopCounterMode

from stages import command
from stages.backbones import cuts, encoders, names, zoo
from stages.backbones.licences import licence
from stages.backbones.untraced import UntracedNetwork
from stages.errors import UserError
from stages.images.decode import KEPT_RATIO, kept_side
from stages.images.preprocessing import Preprocessing

EXAMPLES = """\
  python -m stages.backbone vgg16
  python -m stages.backbone --list"""
HEADER = f"{'shape':18}{'float16 per image':>18}{'10,000 images':>16}{'compute saved':>15}"


def describe(name: str, image_size: int | Literal["auto"] = "auto") -> str:
    """A table of the cuts of a backbone. Weights are not downloaded: the table does not depend on them.

    Args:
        name: as in the knob `backbone`.
        image_size: input pixels a side; auto takes what the weights expect.

    Raises:
        UserError: there is no such backbone, or it cannot be cut.
    """
    names.check(name, "random")
    backbone = zoo.load(name, "random", image_size)
    preprocessing = backbone.preprocessing.at(image_size, "crop")
    network = cuts.load_network(backbone.model, preprocessing.crop, name)
    if isinstance(network, cuts.Network):
        spent = _Meter(network.module).measure(preprocessing.crop)
        whole = max(spent.values()) / 2
        modules = list({network.cut(module).node: module for module in reversed(network.names())}.values())[::-1]
    else:
        spent, whole, modules = {}, network.multiply_adds(), []
    named = [cut for cut in names.CUTS if network.layout or cut not in names.TOKEN_CUTS]
    width = max(map(len, [*named, *modules])) + 2
    lines = [
        f"{name}: {sum(weight.numel() for weight in backbone.model.parameters()):,} parameters, "
        f"{whole / 1e9:.2f} billion multiply-adds per image",
        f"{preprocessing}",
        f"Weights: {licence(name, 'default')}",
        "",
        f"{'cut':{width}}{HEADER}  at",
    ]
    for cut in [*named, *modules]:
        try:
            lines.append(f"{cut:{width}}{_row(network, cut, spent, preprocessing)}".rstrip())
        except UserError as error:
            lines.append(f"{cut:{width}}{error}")
    return "\n".join(lines)


def _row(
    network: cuts.Network | UntracedNetwork, cut: str, spent: dict[fx.Node, float], preprocessing: Preprocessing
) -> str:
    """The row of a cut; the cut `input` is described for a square image, at one byte per value."""
    if cut == "input":
        side = kept_side(preprocessing)
        return _columns(
            _times((3, side, side)), 3 * side * side, 0.0, f"uint8; up to 1:{KEPT_RATIO}, {KEPT_RATIO} x as much"
        )
    layers = network.layers(cut).values()
    shapes = [_times(layer.shape) for layer in layers]
    size = 2 * sum(prod(layer.shape) for layer in layers)
    nodes = [layer.node for layer in layers if isinstance(layer, cuts.Cut)]
    saved = max(spent[node] for node in nodes) / max(spent.values()) if nodes else 1.0
    at = network.describe(cut)
    if len(shapes) > 1:
        return _columns(f"{len(shapes)} maps", size, saved, f"{at}: {', '.join(shapes)}")
    return _columns(shapes[0], size, saved, "" if at == cut else at)


def _columns(shape: str, size: int, saved: float, at: str) -> str:
    return f"{shape:18}{size:>16,} B{size / 100:>13,.1f} MB{saved:>14.1%}   {at}"


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(str(side) for side in shape)


class _Meter(fx.Interpreter):
    """Counts the floating-point operations up to each node."""

    def measure(self, size: int) -> dict[fx.Node, float]:
        self.spent: dict[fx.Node, float] = {}
        with FlopCounterMode(display=False) as self.counter, torch.inference_mode():
            self.run(torch.zeros(1, 3, size, size))
        return self.spent

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        self.spent[n] = self.counter.get_total_flops()
        return value


def main(arguments: argparse.Namespace) -> int:
    """Prints where a backbone can be cut, or a list of backbones."""
    if arguments.list:
        print(encoders.table())
        return 0
    if arguments.name is None:
        raise UserError("NAME is missing: `python -m stages.backbone --list` lists backbones worth trying.")
    print(describe(arguments.name, arguments.image_size or "auto"))
    return 0


def run() -> None:
    """Reads the arguments and prints."""
    parser = command.parser("backbone", description=__doc__, examples=EXAMPLES)
    parser.add_argument("--list", action="store_true", help="list encoders worth trying, from small to large")
    parser.add_argument(
        "name", nargs="?", help="efficientnet_lite0|1|2, a torchvision classification model, or timm:NAME"
    )
    parser.add_argument("--image-size", type=int, help="input pixels a side (default: what the weights expect)")
    command.run(main, parser.parse_args())


if __name__ == "__main__":
    run()
