"""Files of weights, wherever huggingface_hub or a user has put them."""

import socket
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from stages.backbones import licences, weights, zoo
from stages.errors import UserError

NAME = "timm:test_vit"
REPOSITORY = "models--timm--test_vit.r160_in1k"


def state() -> dict[str, torch.Tensor]:
    model = timm.create_model("test_vit", pretrained=False)
    return {name: tensor + 0.01 for name, tensor in model.state_dict().items()}


def write(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(tensors, path)
    return path


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize(
    "file", ["model.safetensors", "pytorch_model.bin", "model.pth", f"{REPOSITORY}/snapshots/0123/model.safetensors"]
)
def test_a_folder_that_the_hub_has_filled(tmp_path: Path, file: str) -> None:
    tensors = state()
    path = write(tmp_path / "weights" / file, tensors)
    folder = str(tmp_path / "weights")
    assert weights.weights_file(NAME, folder) == path
    assert zoo.load(NAME, folder).sha256 == zoo.load(NAME, str(path)).sha256 == zoo.digest(tensors)


def test_the_folder_of_one_repository(tmp_path: Path) -> None:
    path = write(tmp_path / REPOSITORY / "snapshots" / "0123" / "pytorch_model.bin", state())
    assert weights.weights_file(NAME, str(tmp_path / REPOSITORY)) == path


def test_a_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"`weights`: the folder .* has no weights of timm:test_vit: expected model.sa"):
        zoo.load(NAME, str(tmp_path))


def test_what_is_in_the_cache_of_the_hub_needs_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: None
) -> None:
    tensors = state()
    write(tmp_path / REPOSITORY / "snapshots" / "0123" / "model.safetensors", tensors)
    (tmp_path / REPOSITORY / "refs").mkdir()
    (tmp_path / REPOSITORY / "refs" / "main").write_text("0123")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path), raising=False)
    loaded = zoo.load(NAME)
    assert loaded.sha256 == zoo.digest(tensors) and loaded.weights == "r160_in1k"


def test_positions_are_resampled_to_another_size(tmp_path: Path) -> None:
    path = write(tmp_path / "model.safetensors", state())
    own, larger = zoo.load(NAME, str(path)), zoo.load(NAME, str(path), 192)
    assert own.model.pos_embed.shape[1] == 101 and larger.model.pos_embed.shape[1] == 145  # type: ignore[union-attr]
    assert torch.equal(own.model.pos_embed[:, 0], larger.model.pos_embed[:, 0])  # type: ignore[index]
    assert own.preprocessing == larger.preprocessing
    architecture = zoo.architecture(NAME, str(path), 192)
    architecture.load_state_dict(larger.model.state_dict())


def test_weights_out_of_reach_say_what_to_fetch_and_where_to_put_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", offline)
    monkeypatch.setattr("stages.backbones.zoo.cached_file", lambda *_: None)
    with pytest.raises(UserError) as refused:
        zoo.load("timm:vit_small_patch16_dinov3")
    expected = (
        "no route to host",
        "`hf download timm/vit_small_patch16_dinov3.lvd1689m --local-dir weights`",
        "-S weights=/path/to/weights",
        "models--timm--vit_small_patch16_dinov3.lvd1689m",
    )
    for words in expected:
        assert words in str(refused.value)


@pytest.mark.parametrize(
    ("backbone", "chosen", "said"),
    [
        ("timm:vit_small_patch14_dinov2", "default", "apache-2.0, according to timm."),
        ("timm:vit_small_patch16_dinov3", "lvd1689m", "dinov3-license, according to timm: not free for all uses"),
        ("timm:fastvit_mci0.apple_mclip", "default", "apple-amlr, according to timm: not free for all uses"),
        ("timm:cpubone_b0_bfrobust", "default", "not stated, according to timm: not free for all uses, or not known"),
    ],
)
def test_a_licence_that_is_not_free_for_all_uses_says_so(backbone: str, chosen: str, said: str) -> None:
    assert said in licences.licence(backbone, chosen)
