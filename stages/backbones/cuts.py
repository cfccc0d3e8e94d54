"""Where a network can be cut; the trunk up to a cut, and the rest between a cut and a tap.

The network is traced with torch.fx. A node is a *clean* cut when everything passes through it: nothing that is computed
before it is used after it. One rule names the cuts of every family:

- `pooled`: what the network gives when its classifier is taken away. That is the input of its last module with weights,
  walking back from the output: a linear layer in nearly all networks; where it is a convolution (SqueezeNet), its input
  averaged over positions. Where timm's classifier is more than one layer, the network is traced without it; where there
  is none, `pooled` is the network's output.
- `cls`, `avg`, `cls+avg`: the class token, the mean of the patch tokens, both, after the last norm, which some networks
  apply to vectors only. `cls+avg@4` is what DINOv2's linear evaluation takes: the class tokens of the last four blocks
  and the last mean, each after the norm.
- `map`: the patch tokens as `forward_features` gives them, laid out as a square. Of a network without tokens it is the
  last clean activation at or before `pooled` with more than one position, neither adaptive pooling nor dropout. Both
  are (C, H, W).
- `map@16`, `map@8`: the same at stride 16 or 8: `map` itself where it has that stride, else the last output of a block.
  The next block often has a later one inside, but expanded: six times the channels in MobileNet.
- `pyramid`: the maps at strides 8, 16 and 32, as far as the network has them.
- a module's name: its output as it is, where that is clean.
- `input`: the pixels.
"""

import copy
import math
import re
from collections.abc import Iterable
from functools import cached_property
from typing import NamedTuple

import torch
from torch import fx, nn
from torchvision.models.feature_extraction import DualGraphModule

from stages.backbones import tokens, trace
from stages.backbones.headless import headless, without_classifier
from stages.backbones.names import CUTS, TOKEN_CUTS, joined_blocks
from stages.backbones.tokens import Square, TokenLayout, TokenVectors
from stages.backbones.trace import BATCH, Finish, shape
from stages.backbones.untraced import UntracedNetwork
from stages.errors import UserError, listed, nearest

STRIDES = (8, 16, 32)
BLOCKS = re.compile(r"(blocks|encoder\.layers)\.\w*\d")  # of ViT and its relatives
BLOCK = 2  # parts of the name of a block: `layer3`, `features.5`, `trunk_output.block2`
MODULES_NAMED = 20  # in a message


class Cut(NamedTuple):
    """A point in the graph where features are taken.

    Attributes:
        nodes: whose values are taken, in the graph's order: one of them, or several where a cut joins blocks.
        finish: turns the values into features: (N, C), (N, C, H, W) or a module's own output.
        shape: of one image, after `finish`.
        undo: turns features into the value again; None where `finish` loses something.
        norm: the module that normalises the features, where the graph has it later; None where there is none.
    """

    nodes: tuple[fx.Node, ...]
    finish: Finish
    shape: tuple[int, ...]
    undo: Finish | None
    norm: str | None = None

    @property
    def node(self) -> fx.Node:
        """The last of the nodes."""
        return self.nodes[-1]


class UntraceableError(UserError):
    """A network cannot be traced, or does not take a size."""


class Network:
    """A traced network.

    Args:
        model: in eval mode, (N, 3, size, size) to (N, classes).
        size: of the input, in pixels per side.
        name: for messages.

    Raises:
        UntraceableError: the network cannot be traced or does not take this size.
        UserError: its patches do not divide the size.
    """

    def __init__(self, model: nn.Module, size: int, name: str) -> None:
        self.name, self.size = name, size
        self.layout = tokens.layout(model)
        tokens.check_size(self.layout, size, name)
        bare = headless(model.eval())
        self._model, self._headless = bare or model, bare is not None
        try:
            traced = trace.trace(self._model)
            self.module = trace.put_shapes(self._model, traced.graph, size)
        except Exception as error:  # whatever a network's own code raises
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UntraceableError(f"`backbone`: {name} cannot be cut at {size} x {size} pixels: {reason}") from None
        self._graph, self._qualified, self._features = traced
        self._nodes = list(traced.graph.nodes)
        self._position = {node: i for i, node in enumerate(self._nodes)}
        self._constant = self._constants()
        self._clean = self._clean_nodes()
        self._outputs = self._module_outputs()

    def names(self) -> list[str]:
        """The modules whose output is a clean cut, in order; where several end at one node, the outermost first."""
        clean = [name for name, node in self._outputs.items() if node in self._clean]
        return sorted(clean, key=lambda name: (self._position[self._outputs[name]], name.count(".")))

    def cut(self, cut: str, *, key: str = "cut") -> Cut:
        """A cut of one layer: any but `pyramid`.

        Args:
            cut: its name.
            key: the parameter that it comes from, for messages.

        Raises:
            UserError: this network has no such cut; with the nearest that it has.
        """
        if cut == "input":
            return _as_it_is(self._nodes[0])
        if cut == "pooled":
            return self._pooled(key)
        if cut in TOKEN_CUTS or joined_blocks(cut):
            return self._tokens(cut, key)
        if cut == "map":
            return self._map(key)
        if cut.startswith("map@"):
            return self._strided(int(cut.removeprefix("map@")), key)
        return self._module(cut, key)

    def layers(self, cut: str, *, key: str = "cut") -> dict[str, Cut]:
        """The layers of a cut, by name: `pyramid@8`, … of `pyramid`, otherwise one under the cut's own name.

        Raises:
            UserError: this network has no such cut; with the nearest that it has.
        """
        if cut != "pyramid":
            return {cut: self.cut(cut, key=key)}
        levels = {f"pyramid@{stride}": self._at_stride(stride, key) for stride in STRIDES}
        available = {name: level for name, level in levels.items() if level}
        if len(available) < 2:
            raise UserError(
                f"`{key}`: {self.name} has maps at {len(available)} of the strides {STRIDES} at {self.size} pixels, "
                f"a pyramid needs two; try {key}=map."
            )
        return available

    def trunk(self, cut: str) -> nn.Module:
        """From normalised pixels (N, 3, size, size) to the features at a cut, in eval mode.

        With `pyramid` its output is layer -> (N, C, H, W). It shares its weights with the network.
        """
        part = trace.part(self._graph, start=self._nodes[0], ends=_ends(self.layers(cut)), undo=_same)
        return fx.GraphModule(self._model, part).eval()

    def rest(self, cut: str, tap: str) -> DualGraphModule:
        """From stored features at a cut to those at a tap: a copy of the weights that can train.

        It has two graphs over the same modules, and `.train()` and `.eval()` switch between them: a graph of eval mode
        alone would lack the network's functional dropout and stochastic depth.

        Args:
            cut: where the features (N, …), float, were taken; with `input` they are normalised pixels.
            tap: any cut further on.

        Raises:
            UserError: there is no such cut, `tap` does not follow `cut`, or the features at `cut` are not complete.
        """
        start, ends = self._span(cut, tap)
        undo = start.undo or _same
        evaluation = trace.part(self._graph, start=start.node, ends=_ends(ends), undo=undo)
        node_of = {name: node for node, name in self._training.names.items()}
        try:
            first = node_of[self._qualified[start.node]]
            last = {
                layer: ([node_of[self._qualified[node]] for node in end.nodes], end.finish)
                for layer, end in ends.items()
            }
        except KeyError as error:
            raise UserError(f"`cut`: {self.name} has no {error} while it trains; take another cut or tap.") from None
        training = trace.part(self._training.graph, start=first, ends=last, undo=undo)
        rest = copy.deepcopy(DualGraphModule(self._model, training, evaluation))
        self._model.eval()  # the shared modules were put into train mode
        return rest.requires_grad_(True).train()

    def describe(self, cut: str) -> str:
        """The cut in the network's own words: the modules or operations where it lies."""
        layers = self.layers(cut).values()
        names = [self._qualified.get(node, node.name) for layer in layers for node in layer.nodes]
        return ", ".join([*names, *(layer.norm for layer in layers if layer.norm)])

    @cached_property
    def _training(self) -> trace.Traced:
        """The network as it is while it trains."""
        try:
            return trace.trace(self._model.train())
        finally:
            self._model.eval()

    def _span(self, cut: str, tap: str) -> tuple[Cut, dict[str, Cut]]:
        if cut == "pyramid":
            raise UserError("`tap`: no layers can follow the maps of cut=pyramid: take tap=same, or cut=map@8.")
        start, ends = self.cut(cut), self.layers(tap, key="tap")
        first, positions = self._position[start.node], [self._position[end.node] for end in ends.values()]
        if max(positions) <= first or min(positions) < first:
            raise UserError(f"`tap`: {tap} does not come after cut {cut} in {self.name}; tap=same is at the cut.")
        if start.undo is None:
            names = [name for name in self.names() if self._position[self._outputs[name]] < max(positions)]
            raise UserError(
                f"`cut`: the features at {cut} of {self.name} are not complete, so nothing but a head can follow; "
                f"for tap={tap} take cut={self._nearby(first, names)[0]}."
            )
        return start, ends

    def _pooled(self, key: str) -> Cut:
        if self._headless:
            return self._output(key)
        last = self._last_with_weights()
        node = last.all_input_nodes[0]
        dimensions = shape(node)
        if isinstance(self._module_of(last), nn.Linear) and len(dimensions) == 2:
            return _as_it_is(node)
        if len(dimensions) == 4 and node in self._clean:
            return Cut((node,), _mean_over_positions, dimensions[1:2], None)
        raise UserError(
            f"`{key}`: {self.name} has no single vector before its classifier (found {dimensions}); try map."
        )

    def _output(self, key: str) -> Cut:
        """What a network without classifier puts out."""
        node = self._nodes[-1].all_input_nodes[0]
        dimensions = shape(node)[1:]
        if len(dimensions) == 1:
            return _as_it_is(node)
        if len(dimensions) == 3:
            return Cut((node,), _mean_over_positions, dimensions[:1], None)
        raise UserError(
            f"`{key}`: the output of {self.name} is not a single vector (found {dimensions}); try {key}=map."
        )

    def _tokens(self, cut: str, key: str) -> Cut:
        """`cls`, `avg`, `cls+avg`, and the class tokens of several blocks with the last mean."""
        if not (layout := self.layout) or not (features := self._token_node()):
            raise UserError(f"`{key}`: {self.name} has no tokens; try {key}=pooled or {key}=map.")
        if "cls" in cut and not layout.has_class:
            raise UserError(f"`{key}`: {self.name} has no class token; try {key}=avg or {key}=pooled.")
        blocks = joined_blocks(cut)
        nodes, norm = self._last_blocks(features, blocks, key) if blocks else ((features,), None)
        finish = TokenVectors(layout.prefix, "cls" in cut, "avg" in cut, norm, layout.norm)
        vectors = len(nodes) * finish.class_tokens + finish.mean
        return Cut(nodes, finish, (vectors * shape(features)[2],), None, layout.norm)

    def _token_node(self) -> fx.Node | None:
        """The tokens after the last norm of the network that is applied to tokens; None where there are none."""
        node = self._features or self._outputs.get("encoder")
        dimensions = shape(node) if node else ()
        return node if self.layout and len(dimensions) == 3 and self.layout.side(dimensions[1]) else None

    def _last_blocks(self, features: fx.Node, count: int, key: str) -> tuple[tuple[fx.Node, ...], str | None]:
        """The outputs of the last blocks, and the module that makes the network's features of the very last.

        Raises:
            UserError: there are fewer blocks of as many tokens, or something else lies between them and the features.
        """
        nodes = [node for name, node in self._outputs.items() if BLOCKS.fullmatch(name)]
        nodes = [node for node in nodes if shape(node) == shape(features)][-count:]
        norm = str(features.target) if features.op == "call_module" and features not in nodes else None
        if len(nodes) < count or (features not in nodes and features.all_input_nodes != nodes[-1:]):
            raise UserError(f"`{key}`: {self.name} has no {count} last blocks of class tokens; try {key}=cls+avg.")
        return tuple(nodes), norm

    def _map(self, key: str) -> Cut:
        last = next(iter(self._maps(self._clean)), None)
        if (features := self._token_node()) and (patches := _as_map(features, self.layout)):
            # A later node may hold the same patches without their prefix: then nothing of it is lost
            return last if last and last.shape == patches.shape and not self._headless else patches
        if last:
            return last
        raise UserError(f"`{key}`: {self.name} has no feature map before its classifier; try {key}=pooled.")

    def _strided(self, stride: int, key: str) -> Cut:
        if cut := self._at_stride(stride, key):
            return cut
        raise UserError(
            f"`{key}`: {self.name} has no map at stride {stride}, {self._side(stride)} x {self._side(stride)} at "
            f"{self.size} pixels; try {key}=map, or a module: python -m stages.backbone {self.name}"
        )

    def _at_stride(self, stride: int, key: str) -> Cut | None:
        blocks = {self._outputs[name] for name in self.names() if name.count(".") < BLOCK}
        cuts = [self._map(key), *self._maps(node for node in self._clean if node in blocks)]
        return next((cut for cut in cuts if cut.shape[-1] == self._side(stride)), None)

    def _side(self, stride: int) -> int:
        return math.ceil(self.size / stride)

    def _maps(self, nodes: Iterable[fx.Node]) -> Iterable[Cut]:
        """The feature maps among nodes at or before `pooled`, the last first."""
        last = self._nodes[-1] if self._headless else self._last_with_weights()
        end = self._position[last.all_input_nodes[0]]
        for node in reversed([node for node in nodes if self._position[node] <= end]):
            kind = type(self._module_of(node)).__name__ if node.op == "call_module" else str(node.target)
            cut = _as_map(node, None)
            if cut and not any(word in kind.lower() for word in ("adaptive", "dropout")):
                yield cut

    def _module(self, name: str, key: str) -> Cut:
        names = self.names()
        if name in names:
            return _as_it_is(self._outputs[name])
        if name in self._outputs:
            near = " and ".join(self._nearby(self._position[self._outputs[name]], names))
            raise UserError(
                f"`{key}`: not everything passes through {name} of {self.name} (a skip connection goes around it); "
                f"the nearest modules without one are {near}."
            )
        close = nearest(name, [*CUTS, *names])
        meant = f"; {close}" if close.endswith("?") else "."
        outermost = listed([module for module in names if module.count(".") < BLOCK], MODULES_NAMED)
        raise UserError(
            f"`{key}`: {self.name} has no module {name!r}{meant} Its modules are {outermost}; "
            f"`python -m stages.backbone {self.name}` shows each with its shape."
        )

    def _nearby(self, position: int, names: list[str]) -> list[str]:
        """The module that ends last at or before a position, and the one that ends first after it."""
        ends = {name: self._position[self._outputs[name]] for name in names}
        before = max((end for end in ends.values() if end <= position), default=None)
        after = min((end for end in ends.values() if end > position), default=None)
        outermost = {end: name for name, end in reversed(ends.items())}
        return [outermost[end] for end in (before, after) if end is not None]

    def _last_with_weights(self) -> fx.Node:
        node: fx.Node = self._nodes[-1].all_input_nodes[0]
        if len(self._nodes[-1].all_input_nodes) > 1:
            raise UserError(f"`backbone`: {self.name} has several outputs: coldcut cuts networks with one.")
        while not any(True for _ in self._module_of(node).parameters()):
            inputs = [source for source in node.all_input_nodes if source not in self._constant]
            if len(inputs) != 1:
                ending = "several classifiers" if inputs else "no layer with weights"
                raise UserError(f"`backbone`: {self.name} ends in {ending}: coldcut cuts before a single classifier.")
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

    def _clean_nodes(self) -> dict[fx.Node, None]:
        """The clean nodes, in order."""
        clean: dict[fx.Node, None] = {}
        furthest = -1  # the last use of any earlier node
        for position, node in enumerate(self._nodes):
            if node in self._constant or node.op == "output":
                continue
            if furthest <= position and node.op != "placeholder" and shape(node)[:1] == (BATCH,):
                clean[node] = None
            users = [user for user in node.users if user.target is not torch._assert]
            furthest = max([furthest, *(self._position[user] for user in users)])
        return clean

    def _module_outputs(self) -> dict[str, fx.Node]:
        """The last node within each module."""
        outputs = {}
        for node in self._nodes:
            if node in self._constant or node.op in ("placeholder", "output") or node.target is torch._assert:
                continue
            inside = str(node.target) if node.op == "call_module" else self._qualified[node].rpartition(".")[0]
            parts = inside.split(".")
            outputs.update({".".join(parts[:depth]): node for depth in range(1, len(parts) + 1) if inside})
        return outputs


def load_network(model: nn.Module, size: int, name: str) -> Network | UntracedNetwork:
    """A network that can be cut, by its graph or else by its own interface; it takes what `Network` takes.

    Raises:
        UserError: neither is possible, or the network does not take this size.
    """
    try:
        return Network(model, size, name)
    except UntraceableError as error:
        if not hasattr(model, "get_classifier"):
            raise
        return UntracedNetwork(without_classifier(model), size, name, str(error).partition("pixels: ")[2])


def _ends(layers: dict[str, Cut]) -> dict[str, tuple[tuple[fx.Node, ...], Finish]]:
    return {layer: (cut.nodes, cut.finish) for layer, cut in layers.items()}


def _as_it_is(node: fx.Node) -> Cut:
    return Cut((node,), _same, shape(node)[1:], _same)


def _as_map(node: fx.Node, layout: TokenLayout | None) -> Cut | None:
    """A node as (C, H, W), if it has more than one position; without a layout, what precedes a square is the prefix."""
    dimensions = shape(node)
    if len(dimensions) == 4 and dimensions[2] == dimensions[3] > 1:
        return _as_it_is(node)
    if len(dimensions) == 4 and dimensions[1] == dimensions[2] > 1:  # Swin: (N, H, W, C)
        return Cut((node,), _channels_first, (dimensions[3], dimensions[1], dimensions[2]), _channels_last)
    if len(dimensions) == 3:
        layout = layout or TokenLayout(
            dimensions[1] - math.isqrt(dimensions[1]) ** 2, has_class=False, norm=None, patch=None
        )
        if side := layout.side(dimensions[1]):
            finish = Square(side, layout.prefix)
            return Cut((node,), finish, (dimensions[2], side, side), None if layout.prefix else _tokens)
    return None


# These work on a tensor and, while a graph is built, on an fx.Proxy.


def _same(value: torch.Tensor) -> torch.Tensor:
    return value


def _mean_over_positions(value: torch.Tensor) -> torch.Tensor:
    return value.mean((-2, -1))


def _channels_first(value: torch.Tensor) -> torch.Tensor:
    return value.permute(0, 3, 1, 2)


def _channels_last(value: torch.Tensor) -> torch.Tensor:
    return value.permute(0, 2, 3, 1)


def _tokens(value: torch.Tensor) -> torch.Tensor:
    return value.flatten(2).transpose(1, 2)
