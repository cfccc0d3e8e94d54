"""A network as a graph of operations (torch.fx), and parts of that graph."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torchvision.models.feature_extraction import NodePathTracer

from stages.errors import UserError

# Layers that stay whole, like their subclasses: timm's Conv2dSame and LayerNorm2d would be traced otherwise
LEAVES = (nn.Linear, nn.Conv2d, nn.LayerNorm, nn.BatchNorm2d)
BATCH = 2  # images in the run that finds the shapes: a value with another first dimension does not count images
Finish = Callable[..., Any]  # of tensors, or of fx.Proxies that stand for them


class Traced(NamedTuple):
    """The operations of a network in one of its modes.

    Attributes:
        names: of each operation, in the network's own words: `layer4.1.add`.
        features: what the network's own `forward_features` gives; None where it has none, or gives no single tensor.
    """

    graph: fx.Graph
    names: dict[fx.Node, str]
    features: fx.Node | None


def trace(model: nn.Module) -> Traced:
    """The graph of a network in its present mode: what its code decides by `self.training` is decided here."""
    tracer = NodePathTracer(**_tracer_arguments())
    with _recorded_features(model) as features:
        graph = tracer.trace(model)
    for node in [node for node in graph.nodes if node.op == "placeholder"][1:]:
        _put_default(node, graph)
    _follow_writes(graph)
    names = {node: name for node in graph.nodes if (name := tracer.node_to_qualname.get(node))}
    return Traced(graph, names, features[0].node if features and isinstance(features[0], fx.Proxy) else None)


def put_shapes(model: nn.Module, graph: fx.Graph, size: int) -> fx.GraphModule:
    """Runs a graph once on images of `size` pixels per side, so that `shape` knows each node."""
    module = fx.GraphModule(model, graph)
    silence = redirect_stderr(io.StringIO())  # torch.fx prints a traceback beside the error that it raises
    with torch.inference_mode(), silence:
        ShapeProp(module).propagate(torch.zeros(BATCH, 3, size, size))
    return module


def shape(node: fx.Node) -> tuple[int, ...]:
    """The shape of a node's value, () where that is not a tensor."""
    return tuple(getattr(node.meta.get("tensor_meta"), "shape", ()))


def part(
    graph: fx.Graph, *, start: fx.Node, ends: Mapping[str, tuple[Sequence[fx.Node], Finish]], undo: Finish
) -> fx.Graph:
    """The part of a graph that leads from one node to others.

    The input is copied, and so are the ends where there are several: networks change values in place.

    Args:
        graph: of a whole network.
        start: its value is the part's input, after `undo`.
        ends: layer -> the nodes whose values come out, in the graph's order, and what makes one value of them.
        undo: from stored features to the value at `start`.

    Returns:
        A graph from one tensor to a tensor, or to layer -> tensor where there are several ends.

    Raises:
        UserError: an end depends on more than `start`.
    """
    needed = _ancestors([node for nodes, _ in ends.values() for node in nodes], start)
    if any(node.op == "placeholder" for node in needed):
        raise UserError(f"`cut`: something passes beside {start.name} while this network trains; take another cut.")
    part_graph = fx.Graph()
    tracer = fx.proxy.GraphAppendingTracer(part_graph)
    copies = {start: undo(fx.Proxy(part_graph.placeholder("features"), tracer)).clone().node}
    values: dict[str, list[fx.Proxy]] = {layer: [] for layer in ends}
    outputs: dict[str, fx.Node] = {}
    for node in graph.nodes:
        if node in needed:
            copies[node] = part_graph.node_copy(node, copies.__getitem__)
        for layer, (nodes, finish) in ends.items():
            if node not in nodes:
                continue
            if node is not nodes[-1]:
                values[layer].append(fx.Proxy(copies[node], tracer).clone())
                continue
            value = finish(*values[layer], fx.Proxy(copies[node], tracer))
            outputs[layer] = (value.clone() if len(ends) > 1 else value).node
    part_graph.output({layer: outputs[layer] for layer in ends} if len(ends) > 1 else outputs.popitem()[1])
    part_graph.lint()
    return part_graph


@contextmanager
def _recorded_features(model: nn.Module) -> Iterator[list[Any]]:
    """The values that a network's `forward_features` returns while the block runs."""
    values: list[Any] = []
    own = getattr(model, "forward_features", None)
    if own is None:
        yield values
        return

    def recorded(*arguments: Any, **keywords: Any) -> Any:
        values.append(own(*arguments, **keywords))
        return values[-1]

    model.forward_features = recorded  # type: ignore[assignment]
    try:
        yield values
    finally:
        del model.forward_features


def _ancestors(nodes: list[fx.Node], start: fx.Node) -> set[fx.Node]:
    """The nodes and everything that they are computed from, back to `start`."""
    needed: set[fx.Node] = set()
    while nodes:
        node = nodes.pop()
        if node is not start and node not in needed:
            needed.add(node)
            nodes.extend(node.all_input_nodes)
    return needed


def _tracer_arguments() -> dict[str, Any]:
    from timm.models._features_fx import get_notrace_functions, get_notrace_modules
    from torchvision.models.feature_extraction import _get_leaf_modules_for_ops

    leaves = [*LEAVES, *_get_leaf_modules_for_ops(), *get_notrace_modules()]  # type: ignore[no-untyped-call]
    return {"leaf_modules": leaves, "autowrap_functions": list(get_notrace_functions())}  # type: ignore[no-untyped-call]


def _follow_writes(graph: fx.Graph) -> None:
    """After `x.div_(y)`, users of x use its result: otherwise nothing in the graph says that it must be computed."""
    position = {node: i for i, node in enumerate(graph.nodes)}
    for node in position:
        if node.op == "call_method" and str(node.target).endswith("_") and not str(node.target).endswith("__"):
            written = node.all_input_nodes[0]
            for user in [user for user in written.users if position[user] > position[node]]:
                user.replace_input_with(written, node)


def _put_default(argument: fx.Node, graph: fx.Graph) -> None:
    """Replaces an optional argument (timm: attn_mask=None) by its default, wherever it is used."""
    default = argument.args[0] if argument.args else None

    def replaced(value: fx.Node) -> Any:
        return default if value is argument else value

    for user in list(argument.users):
        user.args = fx.map_arg(user.args, replaced)
        user.kwargs = fx.map_arg(user.kwargs, replaced)
    graph.erase_node(argument)
