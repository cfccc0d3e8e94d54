"""Names of backbones and weights, told without importing torch."""

import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torchvision

from stages.backbones import names
from stages.errors import UserError


def test_torchvision_names_are_those_that_torchvision_lists() -> None:
    assert names.registered("torchvision") == sorted(torchvision.models.list_models(module=torchvision.models))


def test_timm_names_are_those_that_timm_lists() -> None:
    assert names.registered("timm") == sorted(timm.list_models())


def test_the_packaged_ones_come_first() -> None:
    assert names.unprefixed()[:3] == ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"]
    assert len(set(names.unprefixed())) == len(names.unprefixed())


def test_telling_names_needs_no_torch(repository: Path) -> None:
    script = (
        "import sys; from stages.backbones import names; names.check('resnet18', 'default');"
        "names.check('timm:resnet18', 'random'); print('torch' in sys.modules, 'timm' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=repository, capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"


@pytest.mark.parametrize(
    ("backbone", "weights"),
    [
        ("efficientnet_lite0", "default"),
        ("efficientnet_lite2", "random"),
        ("resnet18", "default"),
        ("resnet50", "IMAGENET1K_V2"),
        ("vit_b_16", "IMAGENET1K_SWAG_E2E_V1"),
        ("timm:resnet18", "default"),
        ("timm:resnet18.a1_in1k", "default"),
        ("timm:resnet18", "a1_in1k"),
        ("timm:tf_efficientnet_lite0", "random"),
    ],
)
def test_what_exists_is_accepted(backbone: str, weights: str) -> None:
    names.check(backbone, weights)


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("resnet81", r"`backbone`: 'resnet81' is unknown; did you mean .*resnet18"),
        ("ResNet18", r"'ResNet18' is unknown; did you mean resnet18"),
        ("eficientnet_lite0", r"did you mean efficientnet_lite0"),
        ("tf_efficientnet_lite0", r"did you mean efficientnet_lite0 .*or timm:NAME"),
        ("", r"'' is unknown; known: efficientnet_lite0, .*, …"),
        ("timm:resnet81", r"timm has no model 'resnet81'; did you mean .*resnet18"),
        ("timm:", r"timm has no model ''"),
        ("fasterrcnn_resnet50_fpn", r"is unknown"),
        ("fcn_resnet50", r"is unknown"),
    ],
)
def test_a_slip_in_the_backbone(backbone: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        names.check(backbone, "default")


@pytest.mark.parametrize(
    ("backbone", "weights", "message"),
    [
        ("resnet18", "IMAGENET1K_V3", r"resnet18 has no weights 'IMAGENET1K_V3'; (did you mean|known:) IMAGENET1K_V1"),
        ("resnet18", "defualt", r"resnet18 has no weights 'defualt'.*`default`, `random`, or a file"),
        ("efficientnet_lite0", "IMAGENET1K_V1", r"efficientnet_lite0 has no weights 'IMAGENET1K_V1'; known: default"),
        ("timm:resnet18", "a1_in2k", r"timm:resnet18 has no weights 'a1_in2k'; did you mean a1_in1k"),
        ("resnet18", "/nowhere/w.pth", r"`weights`: there is no file /nowhere/w\.pth"),
        ("resnet18", "w.safetensors", r"`weights`: there is no file /.*/w\.safetensors"),
    ],
)
def test_a_slip_in_the_weights(workplace: Path, backbone: str, weights: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        names.check(backbone, weights)


def test_a_file_of_weights_is_found_from_the_main_checkout(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (workplace / "main").mkdir()
    (workplace / "main/weights.pth").touch()
    with pytest.raises(UserError, match="there is no file"):
        names.check("resnet18", "weights.pth")
    monkeypatch.setenv("DVC_ROOT", str(workplace / "main"))
    names.check("resnet18", "weights.pth")


def test_a_package_that_is_not_installed() -> None:
    with pytest.raises(UserError, match="the package no_such_package is not installed: pip install no_such_package"):
        names.registered("no_such_package")


@pytest.mark.parametrize("place", [*names.CUTS, "cls+avg@4", "layer3", "features.5", "blocks.4.0", "Mixed_7c"])
def test_what_a_cut_may_be(place: str) -> None:
    assert names.valid_cut(place) == place


@pytest.mark.parametrize(
    ("place", "near"), [("map@4", "map"), ("pyramid@8", "pyramid"), ("layer3.", "known"), ("", "known")]
)
def test_what_no_cut_can_be(place: str, near: str) -> None:
    with pytest.raises(ValueError, match=rf"must be pooled, .* or a module's name such as layer3; .*{near}"):
        names.valid_cut(place)
