"""The cuts: `pooled` is what the last layer receives and `map` the activation before pooling, in every family."""

import pytest
import timm
import torch
from torch import nn
from torchvision import models

from stages.backbones.cuts import Network
from stages.errors import UserError
from tests.backbones.networks import FAST, SLOW, Maps, assert_same, built, output_of, pooled_by_hook


def check(name: str, size: int, own_map: Maps) -> None:
    model = built(name)
    buffers = {key: value.clone() for key, value in model.named_buffers()}
    parameters = {key: value.clone() for key, value in model.named_parameters()}
    network = Network(model, size, name)
    x = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        pooled, mapped = network.trunk("pooled")(x), network.trunk("map")(x)
        assert_same(pooled, pooled_by_hook(name, model, x))
        assert_same(mapped, own_map(model, x))
    assert network.cut("pooled").shape == pooled.shape[1:] and pooled.ndim == 2
    assert network.cut("map").shape == mapped.shape[1:] and mapped.ndim == 4
    for key, value in model.named_buffers():
        assert torch.equal(value, buffers[key]), key
    for key, value in model.named_parameters():
        assert torch.equal(value, parameters[key]), key


@pytest.mark.parametrize(("name", "size", "own_map"), FAST, ids=[case[0] for case in FAST])
def test_cuts(name: str, size: int, own_map: Maps) -> None:
    check(name, size, own_map)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size", "own_map"), SLOW, ids=[case[0] for case in SLOW])
def test_cuts_of_larger_networks(name: str, size: int, own_map: Maps) -> None:
    check(name, size, own_map)


def test_every_family_is_here() -> None:
    """One model of each of torchvision's modules; a new family has to be added."""
    families = {models.get_model_builder(name).__module__ for name in models.list_models(module=models)}
    covered = {models.get_model_builder(name).__module__ for name, *_ in FAST + SLOW if not name.startswith("timm:")}
    assert covered == families


def test_vgg_gives_the_4096_inputs_of_its_last_layer() -> None:
    model = models.vgg11(weights=None, num_classes=7).eval()
    network = Network(model, 64, "vgg11")
    assert network.cut("pooled").shape == (4096,)
    assert network.cut("map").shape == (512, 2, 2)


@pytest.mark.parametrize(("cut", "where"), [("pooled", "flatten"), ("map", "layer4.1.relu_1")])
def test_a_cut_is_told_in_the_networks_words(cut: str, where: str) -> None:
    assert Network(models.resnet18(weights=None), 64, "resnet18").describe(cut) == where


def test_a_trunk_leaves_out_what_comes_after_it() -> None:
    network = Network(models.resnet18(weights=None), 64, "resnet18")
    head = 512 * 1000 + 1000
    whole = sum(parameter.numel() for parameter in models.resnet18(weights=None).parameters())
    for cut in ("pooled", "map"):
        assert sum(parameter.numel() for parameter in network.trunk(cut).parameters()) == whole - head
    assert not network.trunk("pooled").training


def test_a_trunk_takes_batches_of_any_size() -> None:
    trunk = Network(built("mobilenet_v3_small"), 64, "mobilenet_v3_small").trunk("pooled")
    x = torch.randn(5, 3, 64, 64)
    with torch.inference_mode():
        for images in (1, 5):
            torch.testing.assert_close(trunk(x[:images]), trunk(x)[:images], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["vit_b_16", "timm:vit_tiny_patch16_224"])
def test_a_size_that_the_network_does_not_take(name: str) -> None:
    if name == "vit_b_16":
        model: nn.Module = models.VisionTransformer(224, 16, 1, 2, 32, 64)
    else:
        model = timm.create_model("vit_tiny_patch16_224", pretrained=False)
    with pytest.raises(UserError, match=rf"`backbone`: {name} cannot be cut at 192 x 192 pixels: ."):
        Network(model, 192, name)


def test_a_network_without_weights_is_refused() -> None:
    model = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(UserError, match="toy ends in no layer with weights"):
        Network(model, 16, "toy").trunk("pooled")


def test_a_network_with_two_classifiers_is_refused() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.first, self.second = nn.Flatten(), nn.Linear(768, 2), nn.Linear(768, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            vectors = self.features(x)
            return torch.add(self.first(vectors), self.second(vectors))

    with pytest.raises(UserError, match="toy ends in several classifiers"):
        Network(Two(), 16, "toy").trunk("pooled")


def test_a_network_without_a_map_is_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4), nn.ReLU(), nn.Linear(4, 2))
    network = Network(model, 16, "toy")
    assert network.cut("pooled").shape == (4,)
    with pytest.raises(UserError, match="toy has no feature map before its classifier; try cut=pooled"):
        network.trunk("map")


# --- strides, pyramids, modules, pixels

VGG = {"map@8": "features.14", "map@16": "features.19", "map": "features.20"}
RESNET = {"map@8": "layer2", "map@16": "layer3", "map": "layer4"}
MOBILENET = {"map@8": "features.6", "map@16": "features.13", "map": "features.18"}
CONVNEXT = {"map@8": "stages.1", "map@16": "stages.2", "map": "stages.3"}


@pytest.fixture(scope="module")
def resnet() -> Network:
    return Network(built("resnet18"), 64, "resnet18")


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        ("resnet18", RESNET),
        ("mobilenet_v2", MOBILENET),
        ("timm:convnext_atto", CONVNEXT),
        pytest.param("vgg11", VGG, marks=pytest.mark.slow),
    ],
)
def test_a_map_at_a_stride_is_the_last_output_of_a_block_there(name: str, modules: dict[str, str]) -> None:
    model = built(name)
    network, x = Network(model, 64, name), torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        levels = {cut: network.trunk(cut)(x) for cut in modules}
        for cut, module in modules.items():
            assert_same(levels[cut], output_of(module)(model, x))
            assert network.cut(cut).shape == levels[cut].shape[1:]
        pyramid = network.trunk("pyramid")(x)
    assert list(pyramid) == ["pyramid@8", "pyramid@16", "pyramid@32"] == list(network.layers("pyramid"))
    for level, cut in zip(pyramid.values(), modules, strict=True):
        assert torch.equal(level, levels[cut])
    assert [level.shape[-1] for level in pyramid.values()] == [8, 4, 2]


def test_a_stride_rounds_up_as_padded_convolutions_do() -> None:
    network = Network(built("resnet18"), 75, "resnet18")
    assert network.cut("map@8").shape == (128, 10, 10)
    assert network.cut("map@16").shape == (256, 5, 5)


def test_a_transformers_map_is_at_the_stride_of_its_patches() -> None:
    network = Network(timm.create_model("vit_tiny_patch16_224", pretrained=False), 224, "vit")
    assert network.cut("map@16").node is network.cut("map").node
    assert network.cut("map@16").shape == (192, 14, 14)
    with pytest.raises(UserError, match=r"`cut`: vit has no map at stride 8, 28 x 28 at 224 pixels; try cut=map"):
        network.cut("map@8")
    with pytest.raises(UserError, match=r"`tap`: vit has maps at 1 of the strides .* a pyramid needs two; try tap=map"):
        network.layers("pyramid", key="tap")


def test_a_module_gives_what_it_puts_out() -> None:
    for name, module, shape in (
        ("resnet18", "layer3", (256, 4, 4)),
        ("squeezenet1_1", "features.5", (128, 7, 7)),
        ("timm:convnext_atto", "stages.1.blocks.0", (80, 8, 8)),
    ):
        model, x = built(name), torch.randn(2, 3, 64, 64)
        network = Network(model, 64, name)
        assert network.cut(module).shape == shape
        with torch.inference_mode():
            assert_same(network.trunk(module)(x), output_of(module)(model, x))


def test_tokens_and_channels_last_are_kept_as_they_are() -> None:
    vit = timm.create_model("vit_tiny_patch16_224", pretrained=False)
    assert Network(vit, 224, "vit").cut("blocks.4").shape == (197, 192)
    swin = models.SwinTransformer([4, 4], 24, [1, 1], [2, 4], [4, 4], num_classes=5)
    network = Network(swin, 64, "swin")
    assert network.cut("norm").shape == (8, 8, 48) and network.cut("map").shape == (48, 8, 8)


def test_the_names_of_clean_modules_are_in_order_and_the_outermost_comes_first(resnet: Network) -> None:
    names = resnet.names()
    assert names[:6] == ["conv1", "bn1", "relu", "maxpool", "layer1.0", "layer1.0.relu"]
    assert [name for name in names if name.startswith("layer4")] == [
        "layer4.0", "layer4.0.relu", "layer4", "layer4.1", "layer4.1.relu"
    ]  # fmt: skip
    assert names[-2:] == ["avgpool", "fc"]


def test_a_module_beside_which_something_passes_is_refused(resnet: Network) -> None:
    message = r"`cut`: not everything passes through layer2.0.conv2 of resnet18 .* are layer1 and layer2.0\."
    with pytest.raises(UserError, match=message):
        resnet.cut("layer2.0.conv2")


@pytest.mark.parametrize(("name", "near"), [("layer33", "layer3"), ("poled", "pooled")])
def test_an_unknown_module_is_refused(resnet: Network, name: str, near: str) -> None:
    with pytest.raises(UserError, match=rf"`tap`: resnet18 has no module '{name}'; did you mean .*{near}"):
        resnet.cut(name, key="tap")


def test_the_input_is_the_pixels(resnet: Network) -> None:
    assert resnet.cut("input").shape == (3, 64, 64)
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(resnet.trunk("input")(x), x)


def test_every_clean_module_is_a_cut(resnet: Network) -> None:
    x = torch.zeros(2, 3, 64, 64)
    with torch.inference_mode():
        assert all(resnet.trunk(name)(x).shape[1:] == resnet.cut(name).shape for name in resnet.names())


def test_a_pyramids_levels_are_not_overwritten_by_what_follows() -> None:
    """Networks change values in place: the activation after a level would change the level."""
    model = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 2, 2), nn.Flatten())
    model.append(nn.Linear(64, 2))
    network, x = Network(model, 64, "toy"), torch.randn(2, 3, 64, 64)
    expected = model[1](model[0](x))
    found = network.trunk("pyramid")(x)
    assert list(found) == ["pyramid@8", "pyramid@16"]
    torch.testing.assert_close(found["pyramid@8"], expected)
