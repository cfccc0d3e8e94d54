"""Engines: OpenVINO gives what torch gives, for an image whatever stands beside it; its models are kept and checked."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from stages import paths
from stages.backbones import engine, trunk, vino
from stages.backbones.engine import CORE_BATCH, CORES, TorchEngine, pick_engine
from stages.errors import UserError
from stages.features import decoders, extraction, h5
from stages.features.extraction import compute_part, extract, load_extractor
from stages.features.store import fingerprint
from stages.machine import cores
from tests.features.test_extraction import OUT, listed, spec_of

pytestmark = pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO has no wheel for this machine")
CPU = torch.device("cpu")
Folder = Callable[..., Path]


@pytest.fixture(autouse=True)
def forget_extractors() -> Iterator[None]:
    yield
    load_extractor.cache_clear()


def pixels(count: int, size: int = 64) -> torch.Tensor:
    return torch.randint(256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(count))


def cosine(ours: np.ndarray[Any, Any], theirs: np.ndarray[Any, Any]) -> float:
    """The smallest over the images."""
    a, b = (torch.from_numpy(rows).flatten(1) for rows in (ours, theirs))
    return float(torch.nn.functional.cosine_similarity(a, b).min())


@pytest.mark.parametrize(
    ("name", "cut", "size"),
    [
        ("squeezenet1_1", "pooled", 64),
        ("mobilenet_v3_small", "map", 64),
        ("resnet18", "pyramid", 64),
        ("shufflenet_v2_x0_5", "stage3", 64),
        ("timm:vit_tiny_patch16_224", "pooled", 224),
    ],
)
def test_openvino_gives_what_torch_gives(workplace: Path, name: str, cut: str, size: int) -> None:
    loaded, about = trunk.load(name, "random", cut=cut, image_size=size, resize="crop")
    batch = pixels(5, size)
    theirs = TorchEngine(loaded, CPU, "float32")(batch)
    converted = vino.convert(loaded, about, 4)
    exact, half = (vino.OpenVinoEngine(converted, precision)(batch) for precision in ("float32", "bfloat16"))
    assert len(theirs) == len(exact) == len(half) == len(about.layers)
    for shape, torchs, ours, rough in zip(about.layers.values(), theirs, exact, half, strict=True):
        assert ours.shape == torchs.shape == (5, *shape) and ours.dtype == np.float32
        assert cosine(ours, torchs) > 1 - 1e-5 and np.abs(ours - torchs).max() <= 1e-3 * np.abs(torchs).max()
        assert cosine(rough, torchs) > 0.99
        assert np.ptp(torchs, 0).max() > 1e-3 * np.abs(torchs).max()  # the images differ, so the rows do


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_row_depends_on_its_image_alone(workplace: Path, precision: str) -> None:
    converted = vino.load("squeezenet1_1", "random", cut="pooled", image_size=64, resize="crop", batch_size=32)
    run, batch = vino.OpenVinoEngine(converted, precision), pixels(40)
    (together,) = run(batch)
    assert len(np.unique(together, axis=0)) == 40
    for order in ([7], [39, 0, 3], [*range(39, -1, -1)], [5, 5, 5, 5, 5, 5, 5, 5, 5]):
        np.testing.assert_array_equal(run(batch[order])[0], together[order])
    with ThreadPoolExecutor(4) as pool:  # more threads than the engine has requests
        for (found,) in pool.map(run, [batch] * 8):
            np.testing.assert_array_equal(found, together)


def test_rows_of_a_part_do_not_depend_on_their_neighbours(workplace: Path, class_folder: Folder) -> None:
    folder = class_folder(4)
    (folder / "bee/001.jpg").write_bytes(b"\xff\xd8\xff no image")
    spec, part = spec_of(folder, engine="openvino", cut="pyramid", backbone="resnet18"), listed(folder)
    together = compute_part(spec, part, spec.views)
    assert together["ok"].tolist() == [1] * 5 + [0] + [1] * 6
    for order in ([11, 2, 5, 7], [3]):
        other = compute_part(spec, [part[place] for place in order], spec.views)
        for member, rows in together.items():
            np.testing.assert_array_equal(other[member], rows[order], err_msg=member)


def test_engines_share_no_row(workplace: Path, class_folder: Folder) -> None:
    folder = class_folder(1)
    found = {}
    for name in ("torch", "openvino"):
        assert extract(spec_of(folder, engine=name), listed(folder), OUT)[:2] == (3, [])
        found[name] = h5.read(OUT).provenance
    assert {name: one["engine"] for name, one in found.items()} == {"torch": "torch", "openvino": "openvino"}
    assert "openvino" in found["openvino"]["versions"] and "openvino" not in found["torch"]["versions"]
    assert len({fingerprint(one) for one in found.values()}) == 2
    same = {"weights_sha256", "parameters", "cut_at", "preprocessing", "precision", "batch_size"}
    assert all(found["torch"][name] == found["openvino"][name] for name in same)
    assert load_extractor(spec_of(folder, engine="auto")).provenance["engine"] == "openvino"


def test_a_kept_model_needs_no_network(workplace: Path, class_folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, part = spec_of(class_folder(1), engine="openvino"), listed(class_folder(1))
    before, provenance = compute_part(spec, part, spec.views), load_extractor(spec).provenance
    load_extractor.cache_clear()
    monkeypatch.setattr(trunk, "load", lambda *_, **__: pytest.fail("it is stored"))
    assert load_extractor(spec).provenance == provenance and list(load_extractor(spec).layers) == ["pooled"]
    for member, rows in compute_part(spec, part, spec.views).items():
        np.testing.assert_array_equal(rows, before[member])


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[vino.Converted]:
    """The models that are made from here on; they hold next to nothing."""
    made: list[vino.Converted] = []

    def convert(_: trunk.Trunk, about: trunk.TrunkInfo, batch: int) -> vino.Converted:
        made.append(vino.Converted(b"<net/>", 1000 * bytes([batch]), about))
        return made[-1]

    monkeypatch.setattr(vino, "convert", convert)
    return made


def load(weights: str = "random", batch: int = 4) -> vino.Converted:
    return vino.load("squeezenet1_1", weights, cut="pooled", image_size=64, resize="crop", batch_size=batch)


@pytest.mark.parametrize("damage", ["flipped", "truncated", "empty", "of something else"])
def test_a_damaged_model_is_converted_anew(
    workplace: Path, damage: str, conversions: list[vino.Converted], capsys: pytest.CaptureFixture[str]
) -> None:
    assert load() == load() == conversions[0] and len(conversions) == 1
    (path,) = paths.engine().iterdir()
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes(
        {
            "flipped": whole[:middle] + bytes([whole[middle] ^ 4]) + whole[middle + 1 :],
            "truncated": whole[:middle],
            "empty": b"",
            "of something else": json.dumps(["no", "zip"]).encode(),
        }[damage]
    )
    assert load() == conversions[1] == conversions[0]
    assert f"{path} is damaged" in capsys.readouterr().err
    assert load() == conversions[0] and len(conversions) == 2
    assert [one.name for one in paths.engine().iterdir()] == [path.name]


def test_what_a_model_depends_on_gives_it_another_name(workplace: Path, conversions: list[vino.Converted]) -> None:
    from torchvision import models

    for seed in (1, 2):
        torch.manual_seed(seed)
        torch.save(models.squeezenet1_1().state_dict(), "weights.pth")  # another content under the same name
        load("weights.pth")
        load("weights.pth", batch=2)
    load("weights.pth", batch=CORE_BATCH)
    assert len(conversions) == len(list(paths.engine().iterdir())) == 5
    assert len({made.info.weights_sha256 for made in conversions}) == 2


class Wrong(nn.Module):
    """Traces as what it did for the batch that it was traced with."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)) * np.random.default_rng().random()


class Impossible(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.svd(x.mean(1))[0].mean(2)


def patched(monkeypatch: pytest.MonkeyPatch, module: nn.Module) -> None:
    real = trunk.load

    def load(*args: Any, **kwargs: Any) -> tuple[trunk.Trunk, trunk.TrunkInfo]:
        whole, info = real(*args, **kwargs)
        whole.frozen = module
        return whole, info

    monkeypatch.setattr(trunk, "load", load)


@pytest.mark.parametrize(("module", "reason"), [(Impossible(), "svd"), (Wrong(), "pooled differs from torch's by")])
def test_what_openvino_cannot_take_torch_computes(
    workplace: Path, class_folder: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    module: nn.Module, reason: str,
) -> None:  # fmt: skip
    patched(monkeypatch, module)
    with pytest.raises(UserError, match=rf"`extract.engine`: openvino cannot run squeezenet1_1 \(.*{reason}"):
        load_extractor(spec_of(workplace, engine="openvino"))
    found = load_extractor(spec_of(workplace, engine="auto"))
    said = [line for line in capsys.readouterr().out.splitlines() if "OpenVINO" in line]
    assert len(said) == 1 and reason in said[0] and said[0].endswith("torch computes.")
    assert found.provenance["engine"] == "torch" and not paths.engine().exists()


def test_which_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    assert [pick_engine("auto", device) for device in (CPU, cuda)] == ["openvino", "torch"]
    assert pick_engine("torch", CPU) == "torch" and pick_engine("openvino", CPU) == "openvino"
    with pytest.raises(UserError, match=r"openvino computes on the CPU, found device=cuda"):
        pick_engine("openvino", cuda)
    monkeypatch.setattr(engine, "find_spec", lambda _: None)
    assert pick_engine("auto", CPU) == "torch"
    with pytest.raises(UserError, match=r"`extract.engine`: openvino is not installed: pip install openvino"):
        pick_engine("openvino", CPU)


def test_nothing_is_told_to_the_makers_of_openvino(workplace: Path) -> None:
    vino.load("squeezenet1_1", "random", cut="pooled", image_size=64, resize="crop", batch_size=2)
    from openvino.tools.ovc import convert_impl, telemetry_utils

    assert sys.modules["openvino_telemetry"] is None
    assert {module.tm.__name__ for module in (convert_impl, telemetry_utils)} == {"openvino.tools.ovc.telemetry_stub"}


class Scarce(nn.Module):
    """Has room for two images."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return x.mean((2, 3))


def test_a_batch_without_room_is_halved(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patched(monkeypatch, Scarce())
    loaded, _ = trunk.load("squeezenet1_1", "random", cut="pooled", image_size=64, resize="crop")
    batch = pixels(9)
    (found,) = TorchEngine(loaded, CPU, "float32")(batch)
    single = [TorchEngine(loaded, CPU, "float32")(batch[place : place + 1])[0] for place in range(9)]
    np.testing.assert_allclose(found, np.concatenate(single), rtol=1e-5)
    monkeypatch.setattr(Scarce, "forward", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError))
    with pytest.raises(UserError, match=r"cpu has no memory for one image"):
        TorchEngine(loaded, CPU, "float32")(batch)


def test_decoding_is_a_few_batches_ahead_at_most(
    workplace: Path, class_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, seen, ahead = class_folder(8), list[bytes](), list[int]()
    decode, spec = decoders.decode, spec_of(folder, batch_size=2)

    def slow(batch: torch.Tensor) -> list[np.ndarray[Any, Any]]:
        time.sleep(0.02)
        ahead.append(len(seen) - 2 * len(ahead))
        return [batch.float().mean((2, 3)).numpy()]

    made = extraction.Extractor(slow, load_extractor(spec).preprocessing, {"pooled": ((3,), "f4")}, {}, 2)  # type: ignore[arg-type]
    monkeypatch.setattr(decoders, "AHEAD", 2)
    monkeypatch.setattr(decoders, "cores", lambda: 1)
    monkeypatch.setattr(decoders, "decode", lambda data: seen.append(data) or decode(data))
    monkeypatch.setattr(extraction, "load_extractor", lambda _: made)
    compute_part(spec, listed(folder), spec.views)
    assert len(seen) == 24 and max(ahead) <= 5 * 2


FIRST_CALLS = """
import faulthandler, sys, threading
import torch
from stages.backbones import vino
converted = vino.load("squeezenet1_1", "random", cut="pooled", image_size=64, resize="crop", batch_size=2)
engine = vino.OpenVinoEngine(converted, "float32")
faulthandler.dump_traceback_later(30, exit=True)
sys.setswitchinterval(1e-6)
def spin():
    while True:
        sum(range(50))
for _ in range(3):
    threading.Thread(target=spin, daemon=True).start()
calls = [threading.Thread(target=engine, args=(torch.zeros(2, 3, 64, 64, dtype=torch.uint8),)) for _ in range(4)]
for call in calls:
    call.start()
for call in calls:
    call.join()
print("all came back", flush=True)
"""


def test_the_first_calls_of_several_threads_come_back(workplace: Path, repository: Path) -> None:
    vino.load(
        "squeezenet1_1", "random", cut="pooled", image_size=64, resize="crop", batch_size=2
    )  # stored: converting it would be the first call
    environment = os.environ | {"PYTHONPATH": str(repository), "PYTHON_CPU_COUNT": "4"}
    done = subprocess.run(
        [sys.executable, "-c", FIRST_CALLS], env=environment, capture_output=True, text=True, check=False
    )
    assert "all came back" in done.stdout, done.stderr


@pytest.mark.parametrize("kind", ["torch", "openvino"])
def test_cores_compute_small_batches_a_thread_of_torchs_each(
    workplace: Path, class_folder: Folder, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    folder, seen = class_folder(4), list[tuple[int, int]]()
    small, large = (load_extractor(spec_of(folder, engine=kind, batch_size=size)) for size in (CORE_BATCH, 64))
    assert small.provenance == large.provenance and large.provenance["batch_size"] == CORE_BATCH
    assert large.parallel == min(cores(), CORES)

    def watched(batch: torch.Tensor) -> list[np.ndarray[Any, Any]]:
        seen.append((len(batch), torch.get_num_threads()))
        assert large.engine
        return large.engine(batch)

    monkeypatch.setattr(extraction, "load_extractor", lambda _: replace(large, engine=watched))
    spec = spec_of(folder, engine=kind, batch_size=64)
    compute_part(spec, listed(folder), spec.views)
    assert seen == [(CORE_BATCH, max(1, cores() // large.parallel))] * 2  # 12 images
    assert load_extractor(spec_of(folder, engine=kind, batch_size=3)).provenance["batch_size"] == 3


def test_the_batch_that_suits_a_device() -> None:
    devices = [torch.device(name) for name in ("cuda", "mps", "cpu")]
    assert [engine.images_at_once("auto", device) for device in devices] == [256, 32, CORE_BATCH]
    assert [engine.images_at_once(64, device) for device in devices] == [64, 64, CORE_BATCH]


@pytest.mark.slow  # a minute: a C++ compiler runs
def test_a_compiled_trunk_computes_the_same_but_for_rounding(workplace: Path, class_folder: Folder) -> None:
    plain, compiled = spec_of(class_folder(2), batch_size=2), spec_of(class_folder(2), batch_size=2, compile=True)
    images = listed(plain.folder)
    expected, computed = (compute_part(spec, images, spec.views)["features/pooled"] for spec in (plain, compiled))
    assert cosine(computed[:, 0], expected[:, 0]) > 1 - 1e-5
    for order in ([3, 0], [5]):
        rows = compute_part(compiled, [images[i] for i in order], compiled.views)["features/pooled"]
        np.testing.assert_array_equal(rows, computed[order])
    provenance = load_extractor(compiled).provenance
    assert provenance == load_extractor(plain).provenance | {"compiled": "torch.compile"}


def test_what_cannot_be_compiled_is_an_error(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"`extract.compile`: torch.compile needs extract.engine=torch or auto"):
        pick_engine("openvino", CPU, compiled=True)
    assert pick_engine("auto", CPU, compiled=True) == "torch"

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no C++ compiler\nlong story")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: fail)
    with pytest.raises(UserError, match=r"torch.compile fails here \(no C\+\+ compiler\): take false"):
        load_extractor(spec_of(workplace, compile=True))
