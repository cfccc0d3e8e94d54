"""The cuts of token networks against what is computed by hand from `forward_features`."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torchvision import models

from stages.backbones.cuts import Network
from stages.backbones.tokens import layout
from stages.errors import UserError
from tests.backbones.networks import assert_same, randomised

SIZE, PATCH, WIDTH, DEPTH = 32, 8, 24, 5
SIDE = SIZE // PATCH
Hand = Callable[[Any, torch.Tensor], torch.Tensor]  # a network and its pixels to what a cut should give
KINDS: dict[str, dict[str, Any]] = {  # how a network is built
    "class token": {},
    "registers": {"reg_tokens": 4, "num_classes": 0},  # DINOv2 with registers: more of them than a row has patches
    "norm after pooling": {"global_pool": "avg", "fc_norm": True},  # BEiT, MAE after fine-tuning
    "no class token": {"class_token": False, "reg_tokens": 2, "global_pool": "avg", "fc_norm": False},
    "attention pooling": {"class_token": False, "global_pool": "map", "num_classes": 0},  # SigLIP
}


def vit(**options: Any) -> nn.Module:
    sizes: dict[str, Any] = {"img_size": SIZE, "patch_size": PATCH, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": 2}
    return randomised(VisionTransformer(**sizes, **{"num_classes": 7} | options))


def pixels(images: int = 3) -> torch.Tensor:
    return torch.randn(images, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2))


def class_token(model: Any, x: torch.Tensor) -> torch.Tensor:
    vector: torch.Tensor = model.fc_norm(model.forward_features(x)[:, 0])
    return vector


def mean(model: Any, x: torch.Tensor) -> torch.Tensor:
    vector: torch.Tensor = model.fc_norm(model.forward_features(x)[:, model.num_prefix_tokens :].mean(1))
    return vector


def both(model: Any, x: torch.Tensor) -> torch.Tensor:
    return torch.cat([class_token(model, x), mean(model, x)], 1)


def square(model: Any, x: torch.Tensor) -> torch.Tensor:
    patches = model.forward_features(x)[:, model.num_prefix_tokens :]
    return torch.stack([patches[:, row * SIDE : (row + 1) * SIDE] for row in range(SIDE)], 1).permute(0, 3, 1, 2)


def dinov2(model: Any, x: torch.Tensor) -> torch.Tensor:
    """As `create_linear_input` of facebookresearch/dinov2 joins the last four blocks."""
    blocks = model.forward_intermediates(
        x, indices=4, norm=True, output_fmt="NLC", return_prefix_tokens=True, intermediates_only=True
    )
    class_tokens = [model.fc_norm(prefix[:, 0]) for _, prefix in blocks]
    return torch.cat([*class_tokens, model.fc_norm(blocks[-1][0].mean(1))], 1)


def without_classifier(model: Any, x: torch.Tensor) -> torch.Tensor:
    vector: torch.Tensor = model.forward_head(model.forward_features(x), pre_logits=True)
    return vector


HANDS: dict[str, Hand] = {
    "pooled": without_classifier, "cls": class_token, "avg": mean, "cls+avg": both, "cls+avg@4": dinov2, "map": square,
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cut", HANDS)
def test_a_cut_is_what_is_computed_by_hand(kind: str, cut: str) -> None:
    model = vit(**KINDS[kind])
    network = Network(model, SIZE, "vit")
    if "cls" in cut and KINDS[kind].get("class_token") is False:
        with pytest.raises(UserError, match=r"`cut`: vit has no class token; try cut=avg or cut=pooled"):
            network.cut(cut)
        return
    with torch.inference_mode():
        features = network.trunk(cut)(pixels())
        assert_same(features, HANDS[cut](model, pixels()))
    assert network.layers(cut)[cut].shape == features.shape[1:]


@pytest.mark.parametrize("cut", ["cls", "avg", "cls+avg", "cls+avg@2", "map"])
def test_torchvisions_vit_has_the_same_cuts(cut: str) -> None:
    model = randomised(models.VisionTransformer(SIZE, PATCH, 3, 2, WIDTH, 32, num_classes=5))
    tokens: list[torch.Tensor] = []
    model.encoder.register_forward_hook(lambda *hooked: tokens.append(hooked[2]))  # type: ignore[union-attr]
    with torch.inference_mode():
        model(pixels())
        features = Network(model, SIZE, "vit").trunk(cut)(pixels())
    vectors = {"cls": [tokens[0][:, 0]], "avg": [tokens[0][:, 1:].mean(1)]}
    if cut == "map":
        assert_same(features.flatten(2), tokens[0][:, 1:].transpose(1, 2))
    elif cut == "cls+avg@2":
        assert_same(features[:, WIDTH:], torch.cat([*vectors["cls"], *vectors["avg"]], 1))
    else:
        assert_same(features, torch.cat(vectors.get(cut, vectors["cls"] + vectors["avg"]), 1))


@pytest.mark.parametrize("kind", ["class token", "registers", "norm after pooling"])
@pytest.mark.parametrize("tap", ["pooled", "cls", "cls+avg", "cls+avg@2", "map"])
def test_the_rest_between_a_block_and_a_cut_of_tokens_trains(kind: str, tap: str) -> None:
    network = Network(vit(**KINDS[kind], drop_path_rate=0.5), SIZE, "vit")
    with torch.inference_mode():
        kept = network.trunk("blocks.2")(pixels())
        expected = network.trunk(tap)(pixels())
    rest = network.rest("blocks.2", tap)
    assert_same(rest.eval()(kept.clone()).detach(), expected)
    rest.train()(kept.clone()).square().sum().backward()
    used = [name for name, parameter in rest.named_parameters() if parameter.grad is not None]
    assert any(name.startswith("blocks.3") for name in used)
    assert any("norm" in name and "blocks" not in name for name in used) or (tap, kind) == ("map", "norm after pooling")


def test_more_blocks_than_there_are() -> None:
    with pytest.raises(UserError, match=r"`tap`: vit has no 6 last blocks of class tokens; try tap=cls\+avg"):
        Network(vit(), SIZE, "vit").cut("cls+avg@6", key="tap")


def test_a_network_without_tokens() -> None:
    with pytest.raises(UserError, match="`cut`: resnet has no tokens; try cut=pooled or cut=map"):
        Network(models.resnet18(weights=None), 32, "resnet").cut("cls")


def test_a_size_that_patches_do_not_divide_names_the_two_nearest() -> None:
    with pytest.raises(
        UserError, match=r"`image_size`: vit takes multiples of its patches of 8 pixels, found 36: take 32 or 40"
    ):
        Network(vit(), 36, "vit")
    assert layout(models.resnet18(weights=None)) is None
