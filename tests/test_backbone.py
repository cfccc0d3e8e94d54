"""The table of cuts: one pass tells what each cut costs."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from stages.backbone import describe
from stages.backbones import cuts, zoo
from stages.errors import UserError


def rows(name: str, image_size: int) -> dict[str, str]:
    """Cut -> the rest of its row."""
    lines = describe(name, image_size).splitlines()[5:]
    return {line.split()[0]: line.partition(" ")[2].strip() for line in lines}


def test_named_cuts_come_first_and_every_place_is_listed_once() -> None:
    actual = rows("resnet18", 64)
    assert list(actual)[:7] == ["pooled", "map", "map@16", "map@8", "pyramid", "input", "conv1"]
    assert "layer4" in actual and "layer4.1" not in actual and "layer4.0" in actual
    assert actual["map@8"].split()[:5] == ["128", "x", "8", "x", "8"] and "16,384 B" in actual["map@8"]
    assert actual["map@8"].endswith("layer2.1.relu_1")
    assert actual["pyramid"].startswith("3 maps") and f"{2 * (128 * 64 + 256 * 16 + 512 * 4):,} B" in actual["pyramid"]
    assert "74 x 74" in actual["input"] and "0.0%" in actual["input"] and "100.0%" in actual["fc"]


def test_a_network_of_tokens_has_their_cuts_too() -> None:
    actual = rows("timm:test_vit", 160)
    assert list(actual)[:6] == ["pooled", "cls", "avg", "cls+avg", "map", "map@16"]
    assert actual["cls+avg"].startswith("128 ") and actual["cls"].endswith("norm")
    assert actual["map"].split()[:5] == ["64", "x", "10", "x", "10"]


def test_the_share_saved_is_that_of_the_trunk() -> None:
    model = zoo.load("resnet18", "random").model
    network = cuts.Network(model, 64, "resnet18")
    spent = []
    for module in (network.trunk("layer2"), model):
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            module(torch.zeros(1, 3, 64, 64))
        spent.append(counter.get_total_flops())
    assert f"{spent[0] / spent[1]:.1%}" in rows("resnet18", 64)["layer2"]


def test_a_cut_that_there_is_not_says_why() -> None:
    actual = rows("squeezenet1_1", 64)
    assert "has no map at stride 16" in actual["map@16"]
    assert "a pyramid needs two" in actual["pyramid"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("timm:test_vit", "Weights: apache-2.0, according to timm."),
        ("timm:vit_small_patch16_dinov3.lvd1689m", "Weights: dinov3-license, according to timm: not free for all uses"),
    ],
)
def test_the_licence_of_the_weights_is_named(name: str, said: str) -> None:
    assert said in describe(name, 64)


def test_an_unknown_backbone() -> None:
    with pytest.raises(UserError, match="did you mean resnet18"):
        describe("resnet81")
