"""The rest: after the trunk it gives what the whole network gives, in eval mode and, drawing the same, in training."""

import copy
import itertools
from collections.abc import Callable

import pytest
import timm
import torch
from torch import nn
from torchvision import models
from torchvision.models.feature_extraction import DualGraphModule

from stages.backbones import zoo
from stages.backbones.cuts import Network
from stages.backbones.rest import depth_groups, parameters_from
from stages.errors import UserError
from tests.backbones.networks import FAST, SLOW, assert_same, built, pooled_by_hook, randomised

NETWORKS = [(name, size) for name, size, _ in FAST]
LARGE = [(name, size) for name, size, _ in SLOW]


def three_cuts(network: Network) -> list[str]:
    """Clean modules near the start, in the middle and near the end."""
    last = network.cut("pooled").node
    before = set(itertools.takewhile(lambda node: node is not last, last.graph.nodes))
    names = [name for name in network.names() if name != "input" and network.cut(name).node in before]
    return [names[len(names) * tenth // 10] for tenth in (1, 5, 9)]


def seeded(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(3)
    with torch.no_grad():
        found: torch.Tensor = module(x)
    return found


def assert_equals_whole(network: Network, model: nn.Module, cut: str, size: int) -> None:
    x = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(2))
    rest = network.rest(cut, "pooled")
    with torch.inference_mode():
        assert_same(rest.eval()(network.trunk(cut)(x)), pooled_by_hook(network.name, model, x))
    whole = copy.deepcopy(model).train()
    torch.manual_seed(3)
    with torch.no_grad():
        expected = pooled_by_hook(network.name, whole, x)
    both = nn.Sequential(network.rest("input", cut), network.rest(cut, "pooled")).train()
    assert torch.equal(seeded(both, x), expected)
    statistics = dict(whole.named_buffers())
    for part in both:
        for name, value in part.named_buffers():
            assert name.startswith("_tensor_constant") or torch.equal(value, statistics[name]), name


def check(name: str, size: int) -> None:
    model = built(name)
    before = copy.deepcopy(model.state_dict())
    network = Network(model, size, name)
    for cut in three_cuts(network):
        assert_equals_whole(network, model, cut, size)
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(("name", "size"), NETWORKS, ids=[name for name, _ in NETWORKS])
def test_trunk_and_rest_are_the_whole(name: str, size: int) -> None:
    check(name, size)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), LARGE, ids=[name for name, _ in LARGE])
def test_trunk_and_rest_of_larger_networks_are_the_whole(name: str, size: int) -> None:
    check(name, size)


def densenet() -> nn.Module:
    return randomised(models.DenseNet(8, (2, 2, 2), 16, drop_rate=0.2, num_classes=5))


def swin() -> nn.Module:
    return randomised(
        models.SwinTransformer([4, 4], 24, [1, 1], [2, 4], [4, 4], dropout=0.2, attention_dropout=0.2, num_classes=5)
    )


def convnext() -> nn.Module:
    return randomised(timm.create_model("convnext_atto", depths=(1, 1, 1, 1), drop_path_rate=0.5))


@pytest.mark.parametrize("build", [densenet, swin, convnext])
def test_what_functions_draw_is_drawn_in_training_and_only_there(build: Callable[[], nn.Module]) -> None:
    """Functional dropout and stochastic depth: a graph traced in eval mode alone has none."""
    model = build()
    network = Network(model, 64, build.__name__)
    for cut in three_cuts(network)[:2]:
        assert_equals_whole(network, model, cut, 64)
    rest, x = network.rest("input", "pooled"), torch.randn(4, 3, 64, 64)
    for norm in rest.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = 0.0  # statistics stay: what differs was drawn
    with torch.no_grad():
        assert not torch.equal(rest.train()(x), rest(x))
        assert torch.equal(rest.eval()(x), rest(x))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_after_a_frozen_trunk_only_the_rest_is_in_training(name: str) -> None:
    """As training in plain torch does it: the modules before the cut in eval mode, the others in train mode."""
    model, cut = built(name), {"resnet18": "layer2", "mobilenet_v3_small": "features.4"}[name]
    network, x = Network(model, 64, name), torch.randn(4, 3, 64, 64)
    trunk, rest = network.trunk(cut), network.rest(cut, "pooled").train()
    whole = copy.deepcopy(model).train()
    frozen = {name for name, _ in trunk.named_modules()}
    for key, module in whole.named_modules():
        if key in frozen and not any(True for _ in module.children()):
            module.eval()
    torch.manual_seed(3)
    with torch.no_grad():
        expected = pooled_by_hook(name, whole, x)
    assert torch.equal(seeded(rest, trunk(x)), expected)


@pytest.fixture(scope="module")
def resnet() -> Network:
    return Network(built("resnet18"), 64, "resnet18")


@pytest.mark.parametrize("tap", ["pooled", "map", "map@16", "layer4.0", "pyramid"])
@pytest.mark.parametrize("cut", ["input", "layer1", "map@8"])
def test_a_rest_ends_at_its_tap(resnet: Network, cut: str, tap: str) -> None:
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected, found = resnet.trunk(tap)(x), resnet.rest(cut, tap).eval()(resnet.trunk(cut)(x))
    if tap != "pyramid":
        expected, found = {tap: expected}, {tap: found}
    assert list(found) == list(expected)
    for layer, value in expected.items():
        assert_same(found[layer], value)


def test_channels_are_put_last_again_where_the_network_has_them_last() -> None:
    network, x = Network(swin(), 64, "swin"), torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert_same(network.rest("map", "pooled").eval()(network.trunk("map")(x)), network.trunk("pooled")(x))


def test_tokens_without_a_class_token_are_laid_out_and_back() -> None:
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=64, depth=2, class_token=False, global_pool="avg", num_classes=5
    )
    network, x = Network(model, 64, "vit"), torch.randn(2, 3, 64, 64)
    assert network.cut("map").shape == (192, 4, 4)
    with torch.inference_mode():
        assert_same(network.rest("map", "pooled").eval()(network.trunk("map")(x)), network.trunk("pooled")(x))


def test_what_a_cut_has_lost_is_told_with_the_module_that_has_it() -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2)
    network = Network(model, 64, "vit")
    message = r"`cut`: the features at map of vit are not complete, .*; for tap=pooled take cut=norm\."
    with pytest.raises(UserError, match=message):
        network.rest("map", "pooled")
    squeezenet = Network(models.squeezenet1_1(), 64, "squeezenet1_1")
    with pytest.raises(
        UserError, match=r"pooled of squeezenet1_1 are not complete, .*tap=classifier.2 take cut=classifier.0"
    ):
        squeezenet.rest("pooled", "classifier.2")


@pytest.mark.parametrize(
    ("cut", "tap"),
    [("pooled", "pooled"), ("pooled", "map"), ("map", "layer4"), ("layer3", "layer2"), ("layer3", "pyramid"),
     ("input", "input"), ("map", "pyramid")],
)  # fmt: skip
def test_a_tap_must_come_after_the_cut(resnet: Network, cut: str, tap: str) -> None:
    with pytest.raises(UserError, match=rf"`tap`: {tap} does not come after cut {cut} in resnet18; tap=same"):
        resnet.rest(cut, tap)


def test_nothing_follows_a_pyramid(resnet: Network) -> None:
    with pytest.raises(UserError, match="no layers can follow the maps of cut=pyramid"):
        resnet.rest("pyramid", "pooled")


def test_a_rest_is_a_copy_that_can_train(resnet: Network) -> None:
    rest = resnet.rest("layer3", "pooled")
    own = dict(rest.named_parameters())
    assert next(iter(own)) == "layer4.0.conv1.weight"
    assert all(name.startswith("layer4.") for name in rest.state_dict())
    assert all(parameter.requires_grad for parameter in own.values())
    trunk = {parameter.data_ptr() for parameter in resnet.trunk("pooled").parameters()}
    assert not trunk & {parameter.data_ptr() for parameter in own.values()}
    features = torch.randn(2, 256, 4, 4)
    before = features.clone()
    rest.train()(features).sum().backward()
    assert all(parameter.grad is not None for parameter in own.values())
    assert torch.equal(features, before)


def test_features_are_not_changed_in_place() -> None:
    network = Network(built("squeezenet1_1"), 64, "squeezenet1_1")
    features = torch.randn(2, 64, 31, 31)
    before = features.clone()
    network.rest("features.0", "map").eval()(features)  # a ReLU in place follows
    assert torch.equal(features, before)


def test_a_rest_is_restored_from_its_own_state(resnet: Network) -> None:
    rest, x = resnet.rest("layer3", "pooled"), torch.randn(2, 256, 4, 4)
    other = Network(models.resnet18(weights=None), 64, "resnet18").rest("layer3", "pooled")
    other.load_state_dict(rest.state_dict())
    with torch.inference_mode():
        assert torch.equal(other.eval()(x), rest.eval()(x))


@pytest.mark.slow
def test_constants_that_tracing_made_have_the_same_names_each_time() -> None:
    name = "maxvit_t"
    rest = Network(built(name), 224, name).rest("blocks.1", "pooled")
    assert any(key.startswith("_tensor_constant") for key in rest.state_dict())
    other = Network(zoo.architecture(name), 224, name).rest("blocks.1", "pooled")
    other.load_state_dict(rest.state_dict())
    assert all(torch.equal(value, rest.state_dict()[key]) for key, value in other.state_dict().items())


def test_a_copy_of_a_rest_switches_its_graph_as_well() -> None:
    network = Network(densenet(), 64, "densenet")
    rest = copy.deepcopy(network.rest("input", "pooled"))
    x = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(rest.eval()(x), network.trunk("pooled")(x))
        assert not torch.equal(rest.train()(x), rest(x))


BLOCKS = {
    "resnet18": ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4"],
    "mobilenet_v2": [f"features.{place}" for place in range(19)],
    "timm:convnext_atto": ["stem.0", "stem.1", "stages.0", "stages.1", "stages.2", "stages.3", "head.norm"],
}


@pytest.mark.parametrize("name", BLOCKS)
def test_the_groups_are_blocks_in_the_order_of_their_use(name: str) -> None:
    rest = Network(built(name), 64, name).rest("input", "pooled")
    key = {parameter: key for key, parameter in rest.named_parameters()}
    groups = depth_groups(rest)
    for block, group in zip(BLOCKS[name], groups, strict=True):
        assert all(f"{key[parameter]}.".startswith(f"{block}.") for parameter in group)
    flat = [parameter for group in groups for parameter in group]
    assert len(flat) == len(set(flat)) == len(key)


def test_loose_parameters_have_their_place_too() -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2)
    rest = Network(model, 64, "vit").rest("input", "pooled")
    key = {parameter: key for key, parameter in rest.named_parameters()}
    first = [key[group[0]].rpartition(".")[0] or key[group[0]] for group in depth_groups(rest)]
    assert first == ["patch_embed.proj", "cls_token", "pos_embed", "blocks.0.norm1", "blocks.1.norm1", "norm"]


def test_the_parameters_from_a_module_on(resnet: Network) -> None:
    rest: DualGraphModule = resnet.rest("layer2", "pooled")
    key = {parameter: key for key, parameter in rest.named_parameters()}
    found = {key[parameter].partition(".")[0] for parameter in parameters_from(rest, "layer4")}
    assert found == {"layer4"}
    assert len(parameters_from(rest, "layer3")) == len(key)
    assert parameters_from(rest, "avgpool") == []
