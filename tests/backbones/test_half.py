"""Weights in half precision and folded batch norm compute what the trunk computes: tried on a CPU."""

from typing import Any

import pytest
import torch
from torch import fx, nn

from stages.backbones import engine, half
from stages.backbones.cuts import Network
from stages.backbones.engine import Lane, TorchEngine, half_trunk
from stages.backbones.trunk import Trunk
from stages.images.preprocessing import Preprocessing
from tests.backbones.networks import built

HOW = Preprocessing(64, 64, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def trunk(name: str, size: int = 64, cut: str = "pooled") -> Trunk:
    how = Preprocessing(size, size, HOW.interpolation, HOW.mean, HOW.std)
    return Trunk(Network(built(name), size, name).trunk(cut), how).eval()


def pixels(size: int = 64, images: int = 4) -> torch.Tensor:
    return torch.randint(256, (images, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def norms(module: nn.Module) -> int:
    """The batch norms that a graph calls."""
    assert isinstance(module, fx.GraphModule)
    called = [module.get_submodule(str(node.target)) for node in module.graph.nodes if node.op == "call_module"]
    return sum(isinstance(part, nn.BatchNorm2d) for module in called for part in module.modules())


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "timm:tf_efficientnet_lite0", "timm:resnet18"])
def test_folding_batch_norm_changes_nothing_but_rounding(name: str) -> None:
    network = trunk(name).frozen
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected, folded = network(x.clone()), half.fold_batch_norm(network)
        found = folded(x.clone())
        torch.testing.assert_close(network(x.clone()), expected, rtol=0, atol=0)  # the original is as it was
    assert norms(network) > 5 and norms(folded) == 0
    assert float((found - expected).abs().max()) <= 1e-4 * float(expected.abs().max())


@pytest.mark.parametrize("name", ["resnet18", "timm:test_vit", "timm:tf_efficientnet_lite0"])
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_points_in_the_same_direction(name: str, precision: str) -> None:
    size = 160 if "vit" in name else 64
    whole = trunk(name, size)
    made = half_trunk(whole, torch.device("cpu"), precision)
    assert made is not None and {parameter.dtype for parameter in made.frozen.parameters()} == {made.dtype}
    with torch.inference_mode():
        (expected,), (found,) = whole(pixels(size)), made(pixels(size))
    assert found.dtype == engine.DTYPES[precision]
    assert float(nn.functional.cosine_similarity(expected, found.float()).min()) > 0.99


def test_a_network_that_mixes_precisions_is_left_to_autocast() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x.float().mean((2, 3)))  # type: ignore[no-any-return]

    assert half_trunk(Trunk(Mixed(), HOW), torch.device("cpu"), "bfloat16") is None


def test_pinned_memory_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    lane = Lane(torch.device("cpu"))
    first, second = pixels(), pixels(images=2)
    memory = lane.pinned(first)
    assert torch.equal(memory, first) and lane.pinned(255 - first).data_ptr() == memory.data_ptr()
    assert torch.equal(lane.pinned(second), second)


def test_a_cpu_computes_as_before() -> None:
    plain: Any = TorchEngine(trunk("resnet18"), torch.device("cpu"), "bfloat16")
    assert plain.details == {} and plain.autocast and isinstance(plain.trunk, Trunk)
