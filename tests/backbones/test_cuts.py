"""The cuts: `pooled` is what the last layer receives and `map` the activation before pooling, in every family."""

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torchvision import models

from stages.backbones.cuts import Network
from stages.errors import UserError

TOLERANCE = 1e-6  # of the largest value
Maps = Callable[[nn.Module, torch.Tensor], torch.Tensor]


def output_of(module: str) -> Maps:
    """The activation that a forward hook sees at a module."""

    def get(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        seen: list[torch.Tensor] = []
        handle = model.get_submodule(module).register_forward_hook(lambda *hooked: seen.append(hooked[2].clone()))
        model(x)
        handle.remove()
        return seen[0]

    return get


def input_of(module: str) -> Maps:
    """The activation that a forward pre-hook sees at a module."""

    def get(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        seen: list[torch.Tensor] = []
        handle = model.get_submodule(module).register_forward_pre_hook(
            lambda *hooked: seen.append(hooked[1][0].clone())
        )
        model(x)
        handle.remove()
        return seen[0]

    return get


def features_relu(model: Any, x: torch.Tensor) -> torch.Tensor:
    return model.features(x).relu()


def channels_first(get: Maps) -> Maps:
    return lambda model, x: get(model, x).permute(0, 3, 1, 2)


def squared(get: Maps, prefix: int = 1) -> Maps:
    """Tokens without their prefix as a square."""

    def lay(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        tokens = get(model, x)[:, prefix:]
        side = round(tokens.shape[1] ** 0.5)
        return tokens.transpose(1, 2).reshape(len(tokens), -1, side, side)

    return lay


def forward_features(model: Any, x: torch.Tensor) -> torch.Tensor:
    return model.forward_features(x)


# name, pixels a side, the map by the network's own means
FAST: list[tuple[str, int, Maps]] = [
    ("alexnet", 128, output_of("features")),
    ("squeezenet1_1", 64, output_of("features")),
    ("resnet18", 64, output_of("layer4")),
    ("mobilenet_v2", 64, output_of("features")),
    ("mobilenet_v3_small", 64, output_of("features")),
    ("mnasnet0_5", 64, output_of("layers")),
    ("shufflenet_v2_x0_5", 64, output_of("conv5")),
    ("timm:resnet18", 64, forward_features),
    ("timm:mobilenetv3_small_050", 64, input_of("global_pool")),
    ("timm:convnext_atto", 64, forward_features),
    ("timm:tf_efficientnet_lite0", 64, forward_features),
    ("timm:vit_tiny_patch16_224", 224, squared(forward_features)),
]
SLOW: list[tuple[str, int, Maps]] = [
    ("vgg11", 64, output_of("features")),
    ("densenet121", 64, features_relu),
    ("googlenet", 64, output_of("inception5b")),
    ("inception_v3", 128, output_of("Mixed_7c")),
    ("efficientnet_b0", 64, output_of("features")),
    ("efficientnet_v2_s", 64, output_of("features")),
    ("regnet_y_400mf", 64, output_of("trunk_output")),
    ("resnext50_32x4d", 64, output_of("layer4")),
    ("convnext_tiny", 64, output_of("features")),
    ("vit_b_16", 224, squared(output_of("encoder"))),
    ("swin_t", 64, channels_first(output_of("norm"))),
    ("swin_v2_t", 64, channels_first(output_of("norm"))),
    ("maxvit_t", 224, output_of("blocks.3")),
]
LAST_CONVOLUTION = {"squeezenet1_1": "classifier.1"}


def built(name: str) -> nn.Module:
    """A network in which no weight, bias or statistic is zero or one, so that no layer can be left out unnoticed."""
    torch.manual_seed(0)
    extra: dict[str, Any] = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model: nn.Module = (
        timm.create_model(name.removeprefix("timm:"), pretrained=False)
        if name.startswith("timm:")
        else models.get_model(name, weights=None, **extra)
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            fan = max(1, parameter[0].numel()) if parameter.ndim > 1 else 4
            noise = torch.randn(parameter.shape, generator=generator) * (1.5 / fan) ** 0.5
            parameter.copy_(noise + (1 if parameter.ndim == 1 and parameter.mean() > 0.5 else 0))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None and module.running_var is not None
                module.running_mean.normal_(0, 0.3, generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
    return model.eval()


def pooled_by_hook(name: str, model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    if name in LAST_CONVOLUTION:
        return input_of(LAST_CONVOLUTION[name])(model, x).mean((2, 3))
    last = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1]
    return input_of(last)(model, x)


def assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.shape == expected.shape
    assert expected.isfinite().all() and expected.std() > 0
    largest = float(expected.abs().max())
    assert float((found - expected).abs().max()) <= TOLERANCE * largest


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
    model = timm.create_model("deit_tiny_distilled_patch16_224", pretrained=False)
    with pytest.raises(UserError, match="deit ends in several classifiers"):
        Network(model, 224, "deit").trunk("pooled")


def test_a_network_without_a_map_is_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4), nn.ReLU(), nn.Linear(4, 2))
    network = Network(model, 16, "toy")
    assert network.cut("pooled").shape == (4,)
    with pytest.raises(UserError, match="toy has no feature map before its classifier; try cut=pooled"):
        network.trunk("map")
