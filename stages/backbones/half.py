"""A trunk for a GPU: its weights in half precision once, batch norm folded into the convolutions before it.

Autocast inside of inference mode casts every weight in every batch, since its cache is off there. This was tested on a
CPU; on a GPU it was not measured.
"""

import copy
from collections import Counter
from itertools import pairwise

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from stages.backbones.trunk import Trunk

FOLDED = "weights in {}, batch norm folded"


class HalfTrunk(nn.Module):
    """A trunk that normalises in float32 and computes in half precision, from the same pixels to the same layers.

    Args:
        trunk: in float32; it stays as it is.
        dtype: bfloat16 or float16.
    """

    def __init__(self, trunk: Trunk, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype, self.normalize = dtype, copy.deepcopy(trunk.normalize)
        self.frozen = fold_batch_norm(trunk.frozen).to(dtype)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        features = self.frozen(self.normalize(pixels.permute(0, 3, 1, 2).float()).to(self.dtype))
        return tuple(features.values()) if isinstance(features, dict) else (features,)


def fold_batch_norm(frozen: nn.Module) -> nn.Module:
    """A copy of a traced network in eval mode, where each convolution does what the batch norm after it did.

    What follows a convolution whose output is used elsewhere too, or is not in the graph, stays as it is.
    """
    network = copy.deepcopy(frozen)
    if not isinstance(network, fx.GraphModule):
        return network
    uses = Counter(str(node.target) for node in network.graph.nodes if node.op == "call_module")
    for node in list(network.graph.nodes):
        if node.op != "call_module" or uses[str(node.target)] > 1:
            continue
        _fold_inside(network.get_submodule(str(node.target)))
        norm, source = network.get_submodule(str(node.target)), node.args[0]
        if not isinstance(norm, nn.BatchNorm2d) or norm.running_mean is None or not isinstance(source, fx.Node):
            continue
        if source.op != "call_module" or len(source.users) > 1 or uses[str(source.target)] > 1:
            continue
        convolution = network.get_submodule(str(source.target))
        if isinstance(convolution, nn.Conv2d):
            network.set_submodule(str(source.target), fuse_conv_bn_eval(convolution, norm))
            network.set_submodule(str(node.target), _after(norm))
    network.recompile()
    return network


def _fold_inside(module: nn.Module) -> None:
    """The same within a module that the graph has as a whole, such as torchvision's Conv2dNormActivation."""
    for sequence in [part for part in module.modules() if isinstance(part, nn.Sequential)]:
        for i, (first, second) in enumerate(pairwise(list(sequence))):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d) and second.running_mean is not None:
                sequence[i], sequence[i + 1] = fuse_conv_bn_eval(first, second), _after(second)


def _after(norm: nn.BatchNorm2d) -> nn.Module:
    """What a batch norm does once it has normalised: timm's has dropout and an activation in it."""
    parts = [getattr(norm, name) for name in ("drop", "act") if isinstance(getattr(norm, name, None), nn.Module)]
    return nn.Sequential(*parts)
