"""In which precision `auto` computes, by what torch says of the processor."""

import pytest
import torch

from stages.backbones.device import half, pick_device, pick_head_device, training_precision
from stages.backbones.engine import pick_precision

CPU = torch.device("cpu")


def test_heads_stay_off_a_device_without_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("auto", "mps"):
        assert (pick_device(name).type, pick_head_device(name).type) == ("mps", "cpu")
    assert pick_head_device("cpu") == CPU


@pytest.mark.parametrize(
    ("has", "expected"),
    [
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": True}, "bfloat16"),
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": False}, None),
        ({"cpu_name": "AMD EPYC 9654", "avx512_bf16": True, "amx_bf16": False}, "bfloat16"),
        ({"cpu_name": "AMD EPYC 7763", "avx512_bf16": False, "amx_bf16": False}, None),
        ({"architecture": "aarch64"}, None),
    ],
)
def test_a_cpu_takes_bfloat16_only_where_it_is_faster(
    monkeypatch: pytest.MonkeyPatch, has: dict[str, object], expected: str | None
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    assert half(CPU) == expected
    assert pick_precision("auto", CPU) == training_precision("auto", CPU) == (expected or "float32")
    assert pick_precision("bfloat16", CPU) == training_precision("bfloat16", CPU) == "bfloat16"
