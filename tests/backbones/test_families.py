"""`pooled` of every family of timm is what timm gives with `num_classes=0`.

    COLDCUT_FAMILIES=/path/to/report.json pytest -s -m slow tests/backbones/test_families.py

goes through every pretrained network below 100 million parameters (hours on two cores; it goes on where it stopped) and
writes down those without `pooled`, each with its reason. `COLDCUT_FAMILIES_SECONDS` ends it earlier.
"""

import copy
import json
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from stages.backbones.cuts import load_network
from stages.errors import UserError

LIMIT = 100_000_000  # parameters
TOLERANCE = 1e-5  # of the largest value
VIT: dict[str, Any] = {"depth": 2, "embed_dim": 48, "num_heads": 2}
SHALLOW: dict[str, Any] = {"depths": (1, 1, 1, 1)}
SMALL: dict[str, Any] = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}
# name, pixels a side, what makes it smaller
FAMILIES: list[tuple[str, int, dict[str, Any]]] = [
    # the newest, and those that people want frozen
    ("vit_small_patch14_dinov2.lvd142m", 56, VIT),
    ("vit_small_patch14_reg4_dinov2.lvd142m", 56, VIT),
    ("vit_small_patch16_dinov3.lvd1689m", 64, VIT),
    ("convnext_tiny.dinov3_lvd1689m", 64, SMALL),
    ("vit_base_patch16_siglip_224.v2_webli", 64, VIT),
    ("vit_base_patch16_siglip_gap_224.v2_webli", 64, VIT),
    ("vit_pe_core_tiny_patch16_384.fb", 64, VIT),
    ("vit_base_patch16_224.mae", 64, VIT),
    ("vit_small_patch16_224.dino", 64, VIT),
    ("vit_base_patch32_clip_224.openai", 64, VIT),
    ("eva02_tiny_patch14_224.mim_in22k", 56, VIT),
    ("eva02_tiny_patch14_336.mim_in22k_ft_in1k", 56, VIT),
    ("beit_base_patch16_224.in22k_ft_in22k", 64, VIT),
    ("beitv2_base_patch16_224.in1k_ft_in22k", 64, VIT),
    ("deit3_small_patch16_224.fb_in1k", 64, VIT),
    ("deit_tiny_distilled_patch16_224.fb_in1k", 64, VIT),
    ("vit_srelpos_small_patch16_224.sw_in1k", 64, VIT),
    ("aimv2_large_patch14_224.apple_pt", 56, VIT),
    ("hiera_tiny_224.mae", 64, {"embed_dim": 16, "stages": (1, 1, 1, 1)}),
    ("swinv2_tiny_window8_256.ms_in1k", 64, SHALLOW | {"embed_dim": 24}),
    ("swin_tiny_patch4_window7_224.ms_in1k", 224, SHALLOW | {"embed_dim": 24}),
    ("convnextv2_atto.fcmae", 64, SMALL),
    ("fastvit_t8.apple_in1k", 64, {}),
    ("fastvit_mci0.apple_mclip", 64, {"layers": (1, 1, 1, 1)}),
    ("mobilenetv4_conv_small_050.e3000_r224_in1k", 64, {}),
    ("repvit_m0_9.dist_450e_in1k", 64, {}),
    ("tiny_vit_5m_224.dist_in22k", 224, {"depths": (1, 1, 1, 1)}),
    ("starnet_s1.in1k", 64, {}),
    ("shvit_s1.in1k", 64, {}),
    ("iformer_t.in1k", 64, {}),
    ("mambaout_femto.in1k", 64, {}),
    ("efficientvim_m1.e450_in1k", 64, {}),
    ("lowformer_b0.in1k", 64, {}),
    ("cpubone_nano.r224_in1k", 64, {}),
    ("fasternet_t0.in1k", 64, {}),
    ("lcnetv2_small.paddle_in1k", 64, {}),
    ("hgnetv2_b0.ssld_stage2_ft_in1k", 64, {}),
    ("inception_next_atto.sail_in1k", 64, {}),
    ("efficientvit_b0.r224_in1k", 64, {}),
    ("efficientvit_m0.r224_in1k", 224, {}),
    ("efficientformerv2_s0.snap_dist_in1k", 224, {}),
    ("swiftformer_xs.dist_in1k", 64, {}),
    ("caformer_s18.sail_in1k", 64, {}),
    ("poolformerv2_s12.sail_in1k", 64, {}),
    ("edgenext_xx_small.in1k", 64, {}),
    ("mobilevit_xxs.cvnets_in1k", 64, {}),
    ("levit_128s.fb_dist_in1k", 224, {}),
    ("xcit_nano_12_p16_224.fb_in1k", 64, {}),
    ("resmlp_12_224.fb_in1k", 64, {}),
    ("pvt_v2_b0.in1k", 64, {}),
    ("dla46_c.in1k", 64, {}),
    ("regnetx_002.pycls_in1k", 64, {}),
    ("mobilenetv3_small_050.lamb_in1k", 64, {}),
    ("ghostnet_100.in1k", 64, {}),
    ("resnet10t.c3_in1k", 64, {}),
]  # fmt: skip


def unsettled(model: nn.Module) -> nn.Module:
    """A model in eval mode whose norms do something, so that one which is left out shows."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(getattr(module, "running_var", None), torch.Tensor):
                module.running_mean.normal_(0, 0.3, generator=generator)  # type: ignore[union-attr, operator]
                module.running_var.uniform_(0.5, 2, generator=generator)  # type: ignore[union-attr, operator]
            if "norm" in type(module).__name__.lower():
                for parameter in module.parameters(recurse=False):
                    parameter.add_(torch.rand(parameter.shape, generator=generator) / 2)
    return model.eval()


def difference(model: nn.Module, size: int, name: str) -> float:
    """Of `pooled` from timm's own vector, relative to its largest value."""
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(2))
    network = load_network(model, size, name)
    with torch.inference_mode():
        pooled = network.trunk("pooled")(pixels)
        bare: Any = copy.deepcopy(model)
        bare.reset_classifier(0)
        expected = bare(pixels)
    if expected.ndim == 4:  # SAM 2's backbone puts out a map
        expected = expected.mean((2, 3))
    assert pooled.shape == expected.shape and network.layers("pooled")["pooled"].shape == pooled.shape[1:]
    return float((pooled - expected).abs().max() / expected.abs().max())


def build(name: str, size: int, options: dict[str, Any]) -> nn.Module:
    torch.manual_seed(0)
    fixed = timm.get_pretrained_cfg(name).fixed_input_size
    return unsettled(timm.create_model(name, pretrained=False, **options, **({"img_size": size} if fixed else {})))


@pytest.mark.parametrize(("name", "size", "options"), FAMILIES, ids=[case[0] for case in FAMILIES])
def test_pooled_is_what_timm_gives_without_its_classifier(name: str, size: int, options: dict[str, Any]) -> None:
    assert difference(build(name, size, options), size, name) <= TOLERANCE


def test_there_are_forty_families() -> None:
    assert len({name for name, *_ in FAMILIES}) >= 40


@pytest.mark.slow
@pytest.mark.timeout(0)  # hours, unless COLDCUT_FAMILIES_SECONDS ends it
@pytest.mark.skipif("COLDCUT_FAMILIES" not in os.environ, reason="COLDCUT_FAMILIES: a file for the report")
def test_nearly_every_pretrained_network_has_a_vector() -> None:
    path, ends = Path(os.environ["COLDCUT_FAMILIES"]), time.monotonic() + _seconds()
    report: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    names = sorted({name.partition(".")[0] for name in timm.list_pretrained()})
    random.Random(0).shuffle(names)  # a run that ends earlier has a sample
    for name in names:
        if time.monotonic() > ends:
            break
        if name not in report:
            report[name] = _result(name)
            path.write_text(json.dumps(report, indent=1))
    judged = {name: result for name, result in report.items() if result != "too large"}
    failed = {name: result for name, result in judged.items() if result != "ok"}
    print(f"\n{len(judged) - len(failed)} of {len(judged)} have `pooled`; {json.dumps(failed, indent=1)}")
    assert len(failed) <= 0.01 * len(judged)


def _seconds() -> float:
    return float(os.environ.get("COLDCUT_FAMILIES_SECONDS", "inf"))


def _result(name: str) -> str:
    """`ok`, `too large`, or why there is no vector."""
    with torch.device("meta"):
        if sum(parameter.numel() for parameter in timm.create_model(name, pretrained=False).parameters()) >= LIMIT:
            return "too large"
    config: Any = timm.get_pretrained_cfg(name)
    sizes = [size for size in (64, 56, 96, 224) if not config.fixed_input_size and size % 8 == 0]
    for size in dict.fromkeys([*sizes, config.input_size[-1]]):  # small ones are cheap; not every network takes them
        try:
            return (
                "ok" if (found := difference(build(name, size, {}), size, name)) <= TOLERANCE else f"differs: {found}"
            )
        except (UserError, RuntimeError, AssertionError, AttributeError) as error:
            reason = str(error)[:300]
    return reason
