"""Where a network can be cut, and the trunk up to the cut.

The network is traced with torch.fx once. A node is a *clean* cut when everything passes through it: nothing computed
before it is used after it. Names follow from the network itself, the same rule for every family:

- `pooled`: the input of the last module with weights, walking back from the output. It is a linear layer in nearly all
  networks; where it is a convolution (SqueezeNet), its input averaged over positions.
- `map`: the last clean activation at or before `pooled` with more than one position, neither adaptive pooling nor
  dropout, as (C, H, W). Tokens of a transformer lose their prefix (class token) and are laid out as a square.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torchvision.models.feature_extraction import NodePathTracer

from stages.errors import UserError

# Layers that stay whole, their subclasses too: timm's Conv2dSame or LayerNorm2d are not torch.nn and would be traced.
LEAVES = (nn.Linear, nn.Conv2d, nn.LayerNorm, nn.BatchNorm2d)
Finish = Callable[[torch.Tensor], torch.Tensor]


class Cut(NamedTuple):
    """A place in the graph and what turns the value there into (N, C) or (N, C, H, W)."""

    node: fx.Node
    finish: Finish
    shape: tuple[int, ...]  # of one image, after `finish`


class Network:
    """A traced network.

    Args:
        model: in eval mode, (N, 3, size, size) to (N, classes).
        size: input pixels a side.
        name: for messages.

    Raises:
        UserError: the network cannot be traced or does not take this size.
    """

    def __init__(self, model: nn.Module, size: int, name: str) -> None:
        self.name, self.size = name, size
        self.module, self._qualified = _trace(model.eval(), size, name)
        self._nodes = list(self.module.graph.nodes)
        self._position = {node: place for place, node in enumerate(self._nodes)}
        self._constant = self._constants()
        self._clean = self._clean_nodes()

    def cut(self, cut: str) -> Cut:
        """The place called `pooled` or `map`.

        Raises:
            UserError: this network has no such place.
        """
        return self._pooled() if cut == "pooled" else self._map()

    def trunk(self, cut: str) -> nn.Module:
        """From normalised pixels (N, 3, size, size) to the features at a cut, in eval mode."""
        place = self.cut(cut)
        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        for node in self._nodes[: self._position[place.node] + 1]:
            copies[node] = graph.node_copy(node, copies.__getitem__)
        graph.output(copies[place.node])
        module = fx.GraphModule(self.module, graph)  # dead code can only be removed once the graph has an owner
        module.graph.eliminate_dead_code()
        module.graph.lint()
        module.recompile()
        module.delete_all_unused_submodules()
        return _Trunk(module, place.finish).eval()

    def describe(self, cut: str) -> str:
        """The cut in the network's own words: the module or operation where it lies."""
        node = self.cut(cut).node
        return self._qualified.get(node, node.name)

    def _pooled(self) -> Cut:
        last = self._last_with_weights()
        node = last.all_input_nodes[0]
        shape = _shape(node)
        if isinstance(self._module_of(last), nn.Linear) and len(shape) == 2:
            return Cut(node, _same, shape[1:])
        if len(shape) == 4 and node in self._clean:
            return Cut(node, _mean_over_positions, shape[1:2])
        raise UserError(f"`cut`: {self.name} has no single vector before its classifier (found {shape}); try cut=map.")

    def _map(self) -> Cut:
        last = self._position[self._last_with_weights().all_input_nodes[0]]
        for node in reversed([node for node in self._clean if self._position[node] <= last]):
            shape = _shape(node)
            kind = type(self._module_of(node)).__name__ if node.op == "call_module" else str(node.target)
            if "adaptive" in kind.lower() or "dropout" in kind.lower():
                continue
            if len(shape) == 4 and shape[2] == shape[3] > 1:
                return Cut(node, _same, shape[1:])
            if len(shape) == 4 and shape[1] == shape[2] > 1:  # Swin: (N, H, W, C)
                return Cut(node, _channels_first, (shape[3], shape[1], shape[2]))
            if len(shape) == 3 and (side := math.isqrt(shape[1])) > 1:
                return Cut(node, _Square(side, shape[1] - side * side), (shape[2], side, side))
        raise UserError(f"`cut`: {self.name} has no feature map before its classifier; try cut=pooled.")

    def _last_with_weights(self) -> fx.Node:
        node: fx.Node = self._nodes[-1].all_input_nodes[0]
        if len(self._nodes[-1].all_input_nodes) > 1:
            raise UserError(f"`backbone`: {self.name} has several outputs: coldcut cuts networks with one.")
        while not any(True for _ in self._module_of(node).parameters()):
            inputs = [source for source in node.all_input_nodes if source not in self._constant]
            if len(inputs) != 1:
                found = "several classifiers" if inputs else "no layer with weights"
                raise UserError(f"`backbone`: {self.name} ends in {found}: coldcut cuts before a single one.")
            node = inputs[0]
        return node

    def _module_of(self, node: fx.Node) -> nn.Module:
        return self.module.get_submodule(str(node.target)) if node.op == "call_module" else nn.Identity()

    def _constants(self) -> set[fx.Node]:
        """Nodes that do not depend on the image: parameters, and arithmetic on them."""
        constant: set[fx.Node] = set()
        for node in self._nodes:
            inputs = node.all_input_nodes
            if node.op == "get_attr" or (inputs and node.op != "output" and all(item in constant for item in inputs)):
                constant.add(node)
        return constant

    def _clean_nodes(self) -> list[fx.Node]:
        clean, furthest = [], -1  # furthest: the last use of any earlier node
        for place, node in enumerate(self._nodes):
            if node in self._constant or node.op == "output":
                continue
            if furthest <= place and node.op != "placeholder" and _shape(node):
                clean.append(node)
            users = [user for user in node.users if user.target is not torch._assert]
            furthest = max([furthest, *(self._position[user] for user in users)])
        return clean


class _Trunk(nn.Module):
    def __init__(self, body: nn.Module, finish: Finish) -> None:
        super().__init__()
        self.body, self.finish = body, finish

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.finish(self.body(pixels))


def _trace(model: nn.Module, size: int, name: str) -> tuple[fx.GraphModule, dict[fx.Node, str]]:
    tracer = NodePathTracer(**_tracer_arguments())
    try:
        graph = tracer.trace(model)
        qualified = dict(tracer.node_to_qualname)
        for node in [node for node in graph.nodes if node.op == "placeholder"][1:]:
            _put_default(node, graph)
        module = fx.GraphModule(tracer.root, graph).eval()
        with torch.inference_mode():
            ShapeProp(module).propagate(torch.zeros(2, 3, size, size))
    except Exception as error:  # whatever a network's own code raises
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"`backbone`: {name} cannot be cut at {size} x {size} pixels: {reason}") from None
    names = {
        node: qualified[old] for node, old in zip(module.graph.nodes, graph.nodes, strict=True) if old in qualified
    }
    return module, names


def _tracer_arguments() -> dict[str, Any]:
    from timm.models._features_fx import get_notrace_functions, get_notrace_modules
    from torchvision.models.feature_extraction import _get_leaf_modules_for_ops

    leaves = [*LEAVES, *_get_leaf_modules_for_ops(), *get_notrace_modules()]  # type: ignore[no-untyped-call]
    return {"leaf_modules": leaves, "autowrap_functions": list(get_notrace_functions())}  # type: ignore[no-untyped-call]


def _put_default(argument: fx.Node, graph: fx.Graph) -> None:
    """An optional argument (timm: attn_mask=None) is used all along: its default takes its place."""
    default = argument.args[0] if argument.args else None

    def replaced(value: fx.Node) -> Any:
        return default if value is argument else value

    for user in list(argument.users):
        user.args = fx.map_arg(user.args, replaced)
        user.kwargs = fx.map_arg(user.kwargs, replaced)
    graph.erase_node(argument)


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(getattr(node.meta.get("tensor_meta"), "shape", ()))


def _same(value: torch.Tensor) -> torch.Tensor:
    return value


def _mean_over_positions(value: torch.Tensor) -> torch.Tensor:
    return value.mean((-2, -1))


def _channels_first(value: torch.Tensor) -> torch.Tensor:
    return value.permute(0, 3, 1, 2)


class _Square:
    """Tokens (N, prefix + side², C) to a map (N, C, side, side)."""

    def __init__(self, side: int, prefix: int) -> None:
        self.side, self.prefix = side, prefix

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        images, _, channels = tokens.shape
        return tokens[:, self.prefix :].transpose(1, 2).reshape(images, channels, self.side, self.side)
