"""Features that stay on the disk: the same rows, an order that reads in pieces, a head that scores alike."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages import paths
from stages.datasets import index_file, splits
from stages.datasets.index_file import IndexRow
from stages.features import h5
from stages.training import candidates, closed_form, data, loop, mapped
from stages.training.data import HeadData
from stages.training.mapped import BLOCK, MappedFeatures
from stages.training.model import logits

Make = Callable[..., Any]
CLASSES, IMAGES, CHANNELS = 4, 400, 8
HEAD_OF = {"map": "squeezenet", "pyramid": "multiscale", "pooled": "linear"}
PROVENANCE = {"backbone": "squeezenet1_1", "weights": "random", "image_size": 64, "resize": "crop"}


def sha(number: int) -> str:
    return f"{number:064x}"


@pytest.fixture
def files(workplace: Path, params: Make) -> Make:
    """Writes an index, a split and features whose classes differ in a channel; returns the params."""

    def make(cut: str = "map", columns: int = 1, **turned: Any) -> Any:
        generator = np.random.default_rng(0)
        names = ["evaluation", "a", "b"][:columns]
        rows = [IndexRow(f"{n}.jpg", sha(n), 8, 8, f"class {n % CLASSES}", (), None) for n in range(IMAGES)]
        index_file.write(paths.index("folder"), rows)
        chosen = params(
            dataset="voc" if cut == "pyramid" else "folder", root=str(workplace), backbone="squeezenet1_1",
            weights="random", cut=cut, views=columns, **({"head": HEAD_OF[cut]} | turned),
        )  # fmt: skip
        drawn = [sha(n) for n in generator.permutation(IMAGES)]
        split = {"train": drawn[:200], "val": drawn[200:300], "test": drawn[300:]}
        splits.write(paths.split("folder"), split, source="by hand", choices=chosen.split)
        shapes: dict[str, tuple[int, ...]] = {"map": (CHANNELS, 3, 3)} if cut == "map" else {"pooled": (CHANNELS,)}
        if cut == "pyramid":
            shapes = {"p8": (4, 4, 4), "p16": (4, 2, 2), "p32": (4, 1, 1)}
        arrays: dict[str, Any] = {
            f"features/{name}": generator.standard_normal((IMAGES, columns, *shape)).astype("f2")
            for name, shape in shapes.items()
        }
        for number in range(IMAGES):
            for values in arrays.values():
                values[number, :, number % CLASSES] += 1
        arrays |= {
            "sha256": np.array([sha(n) for n in range(IMAGES)], "S64"),
            "ok": np.ones(IMAGES, "u1"),
            "views": np.zeros((IMAGES, columns, 2, 3), "f4"),
        }
        h5.write(
            paths.features("folder", "squeezenet1_1", cut),
            members=h5.layout(IMAGES, columns, {name: (shape, "f2") for name, shape in shapes.items()}),
            provenance=PROVENANCE | {"cut": cut, "views": names},
            pieces=iter([(0, arrays)]),
        )
        return chosen

    return make


def on_disk(params: Any, monkeypatch: pytest.MonkeyPatch, room: int = 0) -> HeadData:
    with monkeypatch.context() as patch:
        patch.setattr(mapped, "room", lambda: room)
        head_data = data.load_data(params)
    assert all(isinstance(split.x, MappedFeatures) for split in head_data.splits.values())
    return head_data


def test_batches_are_those_of_memory(files: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = files(columns=3)
    memory, disk = data.load_data(chosen), on_disk(chosen, monkeypatch)
    assert disk.shape == memory.shape and disk.identity == memory.identity
    images, views = torch.randint(200, (50,)), torch.randint(3, (50,))
    for name, split in memory.splits.items():
        other = disk.splits[name]
        assert isinstance(split.x, torch.Tensor) and tuple(other.x.shape) == tuple(split.x.shape)
        for view in range(3):
            assert torch.equal(torch.cat([*other.batches(view)]), torch.cat([*split.batches(view)]))
    both = [found.splits["train"].join(found.splits["val"]) for found in (memory, disk)]
    assert torch.equal(both[0].batch(images + 80, views), both[1].batch(images + 80, views))


def test_a_pyramid_s_maps_stand_one_after_the_other(files: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = files(cut="pyramid")
    features = h5.read(paths.features("folder", "squeezenet1_1", "pyramid"))
    layers, levels = data._layers(features, chosen)
    assert levels == ((4, 4, 4), (4, 2, 2), (4, 1, 1))
    places = [7, 3, 399]
    disk, memory = MappedFeatures(layers, places), data._rows(layers, places)
    assert isinstance(memory, torch.Tensor) and memory.shape == disk.shape == (3, 1, 84)
    assert torch.equal(disk[torch.tensor([2, 0]), 0], memory[[2, 0], 0])
    assert torch.equal(memory[0, 0, 64:80], torch.from_numpy(np.array(features.layers["p16"][7, 0])).flatten())


def test_the_order_is_random_and_reads_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = np.zeros((6400, 1, 4), "f2")
    places = np.random.default_rng(0).permutation(6400)[:3200]  # every other row, in any order
    monkeypatch.setattr(mapped, "room", lambda: layer.nbytes // 10)
    features = MappedFeatures([layer], places.tolist())
    first, second = features.shuffled(), features.shuffled()
    assert sorted(first.tolist()) == list(range(3200)) and not torch.equal(first, second)
    piece = places[first[: 10 * BLOCK].numpy()]  # a tenth of the rows: ten blocks
    blocks = {position // (2 * BLOCK) for position in piece}
    assert len(blocks) <= 2 * 10 + 5  # of 50; blocks of the order do not begin where these do
    assert np.abs(np.diff(piece)).mean() > 1000  # mixed
    monkeypatch.setattr(mapped, "room", lambda: 0)
    assert sorted(features.shuffled().tolist()) == list(range(3200))


@pytest.mark.parametrize("columns", [1, 3])
def test_a_head_scores_as_from_memory(files: Make, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    chosen = files(columns=columns, epochs=12, lr=0.03, batch_size=16, dropout=0.0, precision="float32")
    scores = []
    for head_data in (data.load_data(chosen), on_disk(chosen, monkeypatch)):
        fitted = loop.fit("squeezenet", head_data, params=chosen, device=torch.device("cpu"))
        test = head_data.splits["test"]
        scores.append(float((logits(fitted.module, test).argmax(1) == test.y).float().mean()))
    assert min(scores) > 0.8 and abs(scores[0] - scores[1]) < 0.06


def vectors_on_disk(params: Any, monkeypatch: pytest.MonkeyPatch) -> HeadData:
    with monkeypatch.context() as patch:
        patch.setattr(mapped, "VECTORS", 0)
        head_data = data.load_data(params)
    assert all(isinstance(split.x, MappedFeatures) for split in head_data.splits.values())
    return head_data


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("normalize", ["standardize", "l2", "sqrt", "none"])
@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_vectors_on_the_disk_train_the_same_head_bit_by_bit(
    files: Make, monkeypatch: pytest.MonkeyPatch, head: str, normalize: str, columns: int
) -> None:
    chosen = files("pooled", columns, head=head, normalize=normalize, epochs=4, lr=0.03, batch_size=16, hidden=8)
    results = [loop.fit(head, head_data, params=chosen, device=torch.device("cpu"))
               for head_data in (data.load_data(chosen), vectors_on_disk(chosen, monkeypatch))]  # fmt: skip
    assert results[0].history == results[1].history
    for name, tensor in results[0].module.state_dict().items():
        assert torch.equal(tensor, results[1].module.state_dict()[name]), name


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("normalize", ["standardize", "l2", "sqrt", "none"])
@pytest.mark.parametrize("head", ["ridge", "lda", "logistic", "knn"])
def test_heads_in_closed_form_solve_the_same_from_the_disk(
    files: Make, monkeypatch: pytest.MonkeyPatch, head: str, normalize: str, columns: int
) -> None:
    chosen = files("pooled", columns, head=head, normalize=normalize)
    cpu, outputs = torch.device("cpu"), list[list[torch.Tensor]]()
    memory = data.load_data(chosen)
    for head_data in (memory, vectors_on_disk(chosen, monkeypatch)):
        solved = closed_form.fit(head, head_data, params=chosen, device=cpu)
        again = closed_form.refit(head, head_data, params=chosen, device=cpu, chosen=solved)
        outputs.append([logits(result.module, memory.splits["test"]).softmax(1) for result in (solved, again)])
    for first, second in zip(*outputs, strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=1e-6)


def test_auto_takes_the_same_head_from_the_disk(files: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = files("pooled", head="auto", epochs=6, hidden=8)
    cpu = torch.device("cpu")
    memory, disk = (candidates.compete(head_data, chosen, cpu) for head_data in
                    (data.load_data(chosen), vectors_on_disk(chosen, monkeypatch)))  # fmt: skip
    assert (memory.winner.head, memory.winner.normalize) == (disk.winner.head, disk.winner.normalize)
    assert [row.name for row in memory.candidates] == [row.name for row in disk.candidates]
    for first, second in zip(memory.candidates, disk.candidates, strict=True):
        assert first.val_accuracy == second.val_accuracy and first.val_loss == pytest.approx(second.val_loss, abs=1e-6)


def test_vectors_on_the_disk_go_to_another_device_whole(files: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = files("pooled", 3)
    memory, disk = data.load_data(chosen), vectors_on_disk(chosen, monkeypatch)
    moved = disk.splits["train"].to(torch.device("meta"))
    assert isinstance(moved.x, torch.Tensor) and moved.x.dtype == torch.float32
    assert isinstance(disk.splits["train"].x, MappedFeatures)
    assert torch.equal(disk.splits["train"].x.load().float(), memory.splits["train"].x)  # type: ignore[arg-type]
    assert torch.equal(disk.splits["val"].evaluation_vectors, memory.splits["val"].evaluation_vectors)


WORK = """
    import resource, sys
    from pathlib import Path
    import stages, torch
    from stages.features import h5
    from stages.params import load
    from stages.training import data, loop, mapped
    from stages.training.data import HeadData, SplitData

    torch.set_num_threads(1)
    file, params = h5.read(Path("features.h5")), load()
    maps = file.layers["map"]
    warm = SplitData(torch.randn(64, 1, *maps.shape[2:]), torch.arange(64) % 2, list(range(64)))
    cpu = torch.device("cpu")
    small = HeadData(["a", "b"], {"train": warm, "val": warm}, file.provenance)
    loop.fit("squeezenet", small, params=params, device=cpu)
    used = next(line for line in open("/proc/self/status") if line.startswith("VmData"))
    limit = 1024 * int(used.split()[1]) + maps.nbytes // 2
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    if sys.argv[1] == "disk":
        mapped.room = lambda: maps.nbytes // 8
    def part(places):
        return SplitData(data._rows([maps], places), torch.tensor(places) % 2, places)
    parts = {"train": part(list(range(256, len(maps)))), "val": part(list(range(256)))}
    found = HeadData(["a", "b"], parts, file.provenance)
    print(loop.fit("squeezenet", found, params=params, device=cpu).history[-1].val_accuracy)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_file_twice_the_memory_that_a_run_may_use(workplace: Path, params: Make, repository: Path) -> None:
    rows, shape = 16384, (64, 8, 8)
    values = np.random.default_rng(0).standard_normal((rows, 1, *shape), np.float32).astype("f2")
    values[::2, :, 0] += 1
    arrays = {
        "features/map": values,
        "sha256": np.array([sha(n) for n in range(rows)], "S64"),
        "ok": np.ones(rows, "u1"),
        "views": np.zeros((rows, 1, 2, 3), "f4"),
    }
    members = h5.layout(rows, 1, {"map": (shape, "f2")})
    provenance = PROVENANCE | {"cut": "map", "views": ["evaluation"]}
    h5.write(Path("features.h5"), members=members, provenance=provenance, pieces=iter([(0, arrays)]))
    params(dataset="folder", root=str(workplace), cut="map", head="squeezenet", epochs=2, precision="float32", lr=0.01)

    def run(where: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", textwrap.dedent(WORK), where]
        return subprocess.run(command, env=os.environ | {"PYTHONPATH": str(repository)}, capture_output=True, text=True)

    assert "emory" in run("memory").stderr  # MemoryError, or torch cannot allocate
    disk = run("disk")
    assert disk.returncode == 0, disk.stderr
    assert float(disk.stdout.splitlines()[-1]) > 0.9
