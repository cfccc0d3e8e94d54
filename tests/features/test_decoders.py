"""Threads and processes decode the same pixels; what ends one process ends the others, and no finished part is lost."""

import json
import multiprocessing.synchronize
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torchvision.io import decode_jpeg

from stages import paths, processes
from stages.errors import UserError
from stages.features import decoders, extraction, h5, watchdog
from stages.features.decoders import THREADS, Processes, Window, pick_decoders
from stages.features.extraction import compute_part, load_extractor
from tests.conftest import encode, picture
from tests.faults import toy
from tests.features.test_extraction import listed, spec_of, truncate, views_of

Folder = Callable[..., Path]
WINDOW = Window(batch=4, parallel=2, views=5, side=64)
IMAGES = 24


@pytest.fixture(autouse=True)
def forget_extractors() -> Iterator[None]:
    yield
    load_extractor.cache_clear()


@pytest.fixture(scope="module")
def two() -> Iterator[Processes]:
    """Two processes."""
    started = Processes(2, parts=2, images=16, window=WINDOW)
    yield started
    started.pool.shutdown()


@pytest.mark.parametrize("count", [1, 5])
def test_rows_are_the_same_whoever_decodes(workplace: Path, class_folder: Folder, two: Processes, count: int) -> None:
    folder = class_folder(11)
    truncate(folder / "bee/004.jpg")
    spec, images = spec_of(folder, views=views_of(count)), listed(folder)
    expected = compute_part(spec, images, spec.views)
    assert expected["ok"].sum() == 32
    for order in (range(33), range(32, -1, -1), [15, 3, 15]):
        computed = compute_part(spec, [images[i] for i in order], spec.views, two)
        for member, rows in expected.items():
            np.testing.assert_array_equal(computed[member], rows[list(order)], err_msg=f"{member} in {order}")


def test_slots_are_used_again(workplace: Path, class_folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few are decoded ahead: views of an image lie in several batches, and a batch has views of several."""
    folder = class_folder(4)
    spec, images = spec_of(folder, views=views_of(3)), listed(folder)
    expected = compute_part(spec, images, spec.views)
    monkeypatch.setattr(decoders, "AHEAD", 1)
    monkeypatch.setattr(decoders, "cores", lambda: 1)
    assert Window(batch=4, parallel=2, views=3, side=64).slots(THREADS) < 36
    for member, rows in compute_part(spec, images, spec.views).items():
        np.testing.assert_array_equal(rows, expected[member])


def test_an_error_of_a_process_comes_with_the_result(workplace: Path, class_folder: Folder, two: Processes) -> None:
    folder = class_folder(1)
    images = listed(folder)
    truncate(folder / "ant/000.jpg")
    with pytest.raises(UserError, match=r"ant/000.jpg has changed since it was indexed"):
        compute_part(spec_of(folder), images, views_of(1), two)


@pytest.mark.parametrize(("images", "cores"), [(100, 64), (1_000_000, 4)])
def test_threads_decode_few_images_or_on_few_cores(images: int, cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders, "cores", lambda: cores)
    with pick_decoders(images, parts=2, images=512, window=WINDOW) as chosen:
        assert chosen is THREADS


@pytest.mark.parametrize(
    ("module", "name"), [(multiprocessing.synchronize.SemLock, "__init__"), (processes.os, "posix_fallocate")]
)
def test_without_shared_memory_threads_decode(
    module: Any, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(decoders, "cores", lambda: 64)
    monkeypatch.setattr(module, name, refuse)
    with pick_decoders(1_000_000, parts=2, images=512, window=WINDOW) as chosen:
        assert chosen is THREADS
    assert "decoded by threads, which takes longer on 64 cores" in capsys.readouterr().err


def test_a_process_that_ends_is_an_error_where_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders, "FEW_IMAGES", 0)
    monkeypatch.setattr(decoders, "FEW_CORES", 0)
    monkeypatch.setattr(watchdog, "_notes", None)
    with (
        pytest.raises(UserError, match=r"A process that decodes images has ended: out of memory\? Finished parts"),
        pick_decoders(1, parts=1, images=512, window=WINDOW),
    ):
        raise BrokenProcessPool


# --- a GPU, of which the CPU plays the part


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> decoders.GpuDecoder:
    """One whose torchcodec refuses a batch with a file that is damaged."""

    def decode_jpegs(files: list[bytes], device: torch.device) -> list[torch.Tensor]:
        return [decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8)) for data in files]

    monkeypatch.setattr(decoders, "_torchcodec", lambda: "0.17")
    monkeypatch.setattr(decoders, "decode_jpegs", decode_jpegs)
    return decoders.GpuDecoder(torch.device("cpu"))


def test_a_gpu_decodes_plain_jpegs_and_the_cpu_the_others(
    workplace: Path, class_folder: Folder, gpu: decoders.GpuDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = class_folder(4)
    (folder / "ant/000.jpg").write_bytes(encode(picture(7), "PNG"))
    truncate(folder / "bee/001.jpg")
    damaged = (folder / "cat/002.jpg").read_bytes()
    (folder / "cat/002.jpg").write_bytes(damaged[: len(damaged) // 2] + b"\xff\xd9")
    spec, images = spec_of(folder, views=views_of(3)), listed(folder)
    expected = compute_part(spec, images, spec.views)
    extractor = load_extractor(spec)
    monkeypatch.setattr(extraction, "load_extractor", lambda _: replace(extractor, decoder=gpu))
    for order in (range(12), range(11, -1, -1)):
        computed = compute_part(spec, [images[i] for i in order], spec.views)
        for member, rows in expected.items():
            np.testing.assert_array_equal(computed[member], rows[list(order)])


def test_a_gpu_that_decodes_something_else_is_refused(
    workplace: Path, class_folder: Folder, gpu: decoders.GpuDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = class_folder(1)
    spec = spec_of(folder)
    extractor, decode = load_extractor(spec), decoders.decode_jpegs
    monkeypatch.setattr(decoders, "decode_jpegs", lambda files, device: [255 - one for one in decode(files, device)])
    monkeypatch.setattr(extraction, "load_extractor", lambda _: replace(extractor, decoder=gpu))
    with pytest.raises(UserError, match=r"the GPU decodes ant/000.jpg differently from the CPU, by \d+.\d of 255"):
        compute_part(spec, listed(folder), spec.views)


def test_a_gpu_that_decodes_nothing_is_refused(
    workplace: Path, class_folder: Folder, gpu: decoders.GpuDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("decode_jpegs\nno nvJPEG")

    folder = class_folder(1)
    spec = spec_of(folder)
    extractor = load_extractor(spec)
    monkeypatch.setattr(decoders, "decode_jpegs", fail)
    monkeypatch.setattr(extraction, "load_extractor", lambda _: replace(extractor, decoder=gpu))
    with pytest.raises(UserError, match=r"the GPU cannot decode JPEGs here \(no nvJPEG\): take cpu"):
        compute_part(spec, listed(folder), spec.views)


def test_which_gpu_decodes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert decoders.pick_gpu_decoder("cpu", cuda) is None and decoders.pick_gpu_decoder("gpu", cpu) is None
    assert "gpu needs CUDA, found device=cpu: the CPU decodes" in capsys.readouterr().out
    monkeypatch.setattr(decoders, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"gpu needs torchcodec: pip install '.\[gpu\]', or take cpu"):
        decoders.pick_gpu_decoder("gpu", cuda)
    monkeypatch.setattr(decoders, "find_spec", lambda _: True)
    monkeypatch.setattr(decoders, "version", lambda _: "0.17.0")
    chosen = decoders.pick_gpu_decoder("gpu", cuda)
    assert chosen is not None and chosen.name == "torchcodec 0.17.0 on cuda"


# --- in processes that can be killed


@pytest.fixture
def photos(workplace: Path) -> Path:
    """Photos that differ in the number of their bytes, by which the tests tell them apart."""
    for i, (name, _) in enumerate(toy.photos(workplace / "photos", IMAGES)):
        path = workplace / "photos" / name
        path.write_bytes(path.read_bytes().ljust(10_000 + i, b"\0"))
    return workplace / "photos"


def begun(repository: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.faults.decoding"],
        env=os.environ | {"PYTHONPATH": str(repository)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result(running: subprocess.Popen[str]) -> Any:
    out, err = running.communicate(timeout=300)
    assert running.returncode == 0, err
    return json.loads(out.splitlines()[-1])


def test_images_that_crash_or_hang_a_process_are_bad(photos: Path, repository: Path) -> None:
    assert result(begun(repository, FEW_CORES="2")) == [IMAGES, []]  # threads
    undisturbed = h5.read(toy.OUT)
    Path("cache").rename("before")
    harm = {"10005": "crash", "10009": "hang"}
    reasons = [
        [sorted(path.name for path in photos.iterdir() if path.stat().st_size == int(size))[0], reason]
        for size, reason in zip(harm, ["decoding ended with SIGSEGV", "decoding took longer than 2 s"], strict=True)
    ]
    assert sorted(result(begun(repository, HARM=json.dumps(harm), LIMIT="2"))[1]) == sorted(reasons)
    disturbed = h5.read(toy.OUT)
    good = disturbed.ok.astype(bool)
    assert good.sum() == IMAGES - 2
    for member in ("features/pooled", "views"):
        np.testing.assert_array_equal(disturbed.members[member][good], undisturbed.members[member][good])
        assert not disturbed.members[member][~good].any()


def all_of(running: subprocess.Popen[str]) -> dict[str, list[psutil.Process]]:
    """The processes of a run by their part in it, once there are two that decode."""
    watches = psutil.Process(running.pid)
    while True:
        with suppress(psutil.NoSuchProcess):  # of some that torch starts while it is imported
            works = watches.children()[:1]
            decode = [child for work in works for child in work.children() if "spawn_main" in " ".join(child.cmdline())]
            if len(decode) == 2 and finished():
                return {"watches": [watches], "works": works, "decodes": decode}
        assert running.poll() is None
        time.sleep(0.02)


def finished() -> set[str]:
    """The images of all parts in the store."""
    return {sha256 for part in (paths.store() / "features").glob("*/*.h5") for sha256 in h5.read(part).sha256}


@pytest.mark.parametrize(
    "killed", ["decodes", *(pytest.param(who, marks=pytest.mark.slow) for who in ("watches", "works"))]
)
def test_a_kill_of_any_process_ends_all_and_loses_no_finished_part(photos: Path, repository: Path, killed: str) -> None:
    last = sorted(photos.iterdir())[-1].stat().st_size
    running = begun(repository, HARM=json.dumps({str(last): "wait"}))
    everyone = all_of(running)
    kept = finished()
    everyone[killed][0].kill()
    others = [*everyone["works"], *everyone["decodes"]]
    assert not psutil.wait_procs(others, 300)[1]
    _, err = running.communicate(timeout=300)
    assert running.returncode == (-signal.SIGKILL if killed == "watches" else 1)
    if killed != "watches":
        assert "extraction was ended by SIGKILL and no image is at fault" in err
    assert kept and kept <= finished() and not toy.OUT.exists()
    computed, bad = result(begun(repository))
    assert bad == [] and computed <= IMAGES - len(kept)
