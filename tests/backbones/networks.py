"""One network of every family, with weights that hide nothing, and what hooks see in it."""

from collections.abc import Callable
from typing import Any

import timm
import torch
from torch import nn
from torchvision import models

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
    found: torch.Tensor = model.features(x).relu()
    return found


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
    found: torch.Tensor = model.forward_features(x)
    return found


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
    """A network in which no layer can be left out unnoticed."""
    torch.manual_seed(0)
    extra: dict[str, Any] = (
        {"init_weights": False, "aux_logits": False} if name in ("googlenet", "inception_v3") else {}
    )
    model: nn.Module = (
        timm.create_model(name.removeprefix("timm:"), pretrained=False)
        if name.startswith("timm:")
        else models.get_model(name, weights=None, **extra)
    )
    return randomised(model)


def randomised(model: nn.Module) -> nn.Module:
    """A model in eval mode with other weights and statistics, none of them zero or one."""
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
