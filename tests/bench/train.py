"""A head on cached features: ours, a DataLoader over HDF5, and the backbone in the loop; alternating.

On what the last `dvc repro` left, or with --made-up; from the top folder of a checkout:
python -m tests.bench.train [--made-up] [--epochs 12] [--rounds 3] [--batches 8]

All three take the head, its optimizer and batch size from params.yaml and pass as often over the images of train; ours
also judges on validation after every epoch. The backbone in the loop is our own extraction (decoding in threads, the
engine and its precision), timed on some batches and extrapolated to all of them: another loop would be slower.
"""

import argparse
import hashlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import stages  # noqa: F401  # isort: skip  (before torch: it keeps OpenMP's threads from spinning)
import h5py
import torch
from torch.utils.data import DataLoader, Dataset

from stages import paths
from stages.backbones.device import pick_device
from stages.datasets import index_file, source
from stages.extract import spec
from stages.features.decoders import ImageRef
from stages.features.extraction import Spec, compute_part
from stages.params import Params, load
from stages.training import data, loop, tasks
from stages.training.data import HeadData
from tests.bench.experiment import make_up
from tests.bench.store import line, timed
from tests.bench.sweep import made_up

OUT = paths.TIMINGS / "bench-train.json"
WORKERS = 2
HEADER = ("", "seconds", "an epoch", "times ours")


class Rows(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """What many write: a row at a time through h5py, opened in each worker."""

    def __init__(self, path: Path) -> None:
        self.path, self.file = path, None
        with h5py.File(path) as file:
            self.count = len(file["y"])

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        if self.file is None:
            self.file = h5py.File(self.path)
        return torch.from_numpy(self.file["x"][row]).float(), torch.tensor(int(self.file["y"][row]))


def main() -> None:
    """Prints a table and writes the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3, help="medians of them are shown")
    parser.add_argument("--batches", type=int, default=8, help="of images that go through the backbone")
    parser.add_argument("--made-up", action="store_true", help="features and images made up, weights at random")
    given = parser.parse_args()
    chosen = {"epochs": given.epochs, "early_stopping_patience": given.epochs, "refit": "none", "phases": []}
    params = load().model_copy(update=chosen)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        found = made_up() if given.made_up else data.load_data(params)
        how, some = on_made_up(params, home) if given.made_up else on_what_is_there(params, found)
        count = given.batches * how.batch_size
        write(found, home / "features.h5")
        ways: dict[str, Callable[[], float]] = {
            "ours": lambda: timed(
                lambda: loop.fit(params.head, found, params=params, device=pick_device(params.device))
            ),
            "a DataLoader over HDF5": lambda: timed(lambda: plain(found, params, home / "features.h5")),
            "the backbone alone": lambda: timed(lambda: compute_part(how, some[:count], how.views[:1])),
        }
        compute_part(how, some[: how.batch_size], how.views[:1])  # the backbone is loaded
        rounds = [{name: way() for name, way in ways.items()} for _ in range(given.rounds)]
    images_of_train = len(found.splits["train"].y)
    for one in rounds:
        one["the backbone in the loop"] = (
            one["ours"] + given.epochs * one.pop("the backbone alone") * images_of_train / count
        )
    print(f"{images_of_train:,} images, {given.epochs} epochs, {params.head}; the backbone on {count} images")
    print(line(HEADER), line(["---"] * len(HEADER)), sep="\n")
    for name in rounds[0]:
        seconds, ratio = (median(one[name] / one[by] if by else one[name] for one in rounds) for by in ("", "ours"))
        print(line([name, f"{seconds:.1f}", f"{seconds / given.epochs:.2f}", f"{ratio:.1f}"]))
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps({"epochs": given.epochs, "images": images_of_train, "rounds": rounds}, indent=1) + "\n")


def on_made_up(params: Params, home: Path) -> tuple[Spec, list[ImageRef]]:
    """How the images of a made-up folder are extracted, and which."""
    make_up(home / "images")
    files = sorted((home / "images").rglob("*.jpg"))
    some = [(str(path.relative_to(home / "images")), hashlib.sha256(path.read_bytes()).hexdigest()) for path in files]
    return spec(params, home / "images", (params.backbone, "random")), some


def on_what_is_there(params: Params, found: HeadData) -> tuple[Spec, list[ImageRef]]:
    """How the dataset's images of train are extracted, and which."""
    rows = index_file.read(params.dataset)
    some = [(rows[place].path, rows[place].sha256) for place in found.splits["train"].index_positions]
    folder = source.folder(params.dataset, params.options, params.root)
    return spec(params, folder, (params.backbone, params.weights)), some


def write(found: HeadData, path: Path) -> None:
    """The features of train as anyone would keep them."""
    train = found.splits["train"]
    with h5py.File(path, "w") as file:
        file["x"], file["y"] = train.x[:, 0].half().numpy(), train.y.numpy()


def plain(found: HeadData, params: Params, path: Path) -> None:
    """The same head, trained on shuffled rows from a DataLoader."""
    device, train = pick_device(params.device), found.splits["train"]
    module, shaped = loop.start(params.head, found, train=train, params=params, device=device)
    task = tasks.task_of(params.head, module, shaped, data=found, params=params)
    optimizer = loop.make_optimizer([{"params": list(module.head.parameters()), "lr": params.lr}], params)
    loader: Any = DataLoader(Rows(path), params.batch_size, shuffle=True, num_workers=WORKERS, persistent_workers=True)
    module.train()
    for _ in range(params.epochs):
        for x, y in loader:
            loop.step(module, x.to(device), targets=y.to(device), optimizer=optimizer, params=params, task=task)


if __name__ == "__main__":
    main()
