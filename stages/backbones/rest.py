"""The parameters of a rest by their depth: for rates that fall towards the input, and for training the last blocks."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:  # torchvision takes 1.5 s to import
    from torchvision.models.feature_extraction import DualGraphModule


def depth_groups(rest: "DualGraphModule") -> list[list[nn.Parameter]]:
    """The parameters of a rest, one group per block, in the order of their first use.

    A block is named by the first part of a name with a digit in it: `layer4`, `features.5`,
    `encoder.layers.encoder_layer_3`. Any other module is a block of its own.
    """
    groups: dict[str, list[nn.Parameter]] = {}
    for name, parameters in _in_order(rest):
        groups.setdefault(_block(name), []).extend(parameters)
    return [parameters for parameters in groups.values() if parameters]


def parameters_from(rest: "DualGraphModule", module: str) -> list[nn.Parameter]:
    """The parameters of a module and of everything that is used after it, in the order of their first use."""
    parameters_on: list[nn.Parameter] = []
    begun = False
    for name, parameters in _in_order(rest):
        begun = begun or f"{name}.".startswith(f"{module}.")
        parameters_on += parameters if begun else []
    return parameters_on


def _in_order(rest: "DualGraphModule") -> Iterator[tuple[str, list[nn.Parameter]]]:
    """The modules and parameters of a rest by name as they are first used, each parameter once."""
    seen: set[nn.Parameter] = set()
    own = dict(rest.named_parameters())
    for node in rest.train_graph.nodes:
        name = str(node.target)
        if node.op == "call_module":
            parameters = list(rest.get_submodule(name).parameters())
        elif node.op == "get_attr":
            parameters = [own[name]] if name in own else []
        else:
            continue
        yield name, [parameter for parameter in parameters if parameter not in seen]
        seen.update(parameters)


def _block(name: str) -> str:
    parts = name.split(".")
    numbered = (depth for depth, part in enumerate(parts, 1) if any(letter.isdigit() for letter in part))
    return ".".join(parts[: next(numbered, len(parts))])
