"""What `resize`, `views` and `decide.tta` bring on validation, over several sets: the table of docs/defaults.md.

python -m tests.bench.defaults logos trashnet=/data/trashnet digits=/data/sign-digits cells=/tmp/cells --images 1000

Each set is a folder of classes with a name, or the built-in logos. Ridge regression on square-rooted features of
EfficientNet-Lite0, augmentation as in the default params; half of the images train, a quarter is judged, and the last
quarter, the test split, is not looked at. Random views do not depend on `resize`, so they are computed once for both.
"""

import argparse
import contextlib
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from stages import download, extract, index, paths, split
from stages.datasets import index_file
from stages.params import Params, from_tree, with_overrides
from stages.training import closed_form, data
from stages.training.data import HeadData
from stages.training.model import averaged_logits
from tests import defaults
from tests.conftest import merged

HEAD = {"head": "ridge", "normalize": "sqrt"}
RESIZES = ("crop", "squash")
FEWEST = 8  # images of a class; others are left out of a part of a set


def main() -> None:
    """Prints a row per set and the mean."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.defaults", description=main.__doc__)
    parser.add_argument("sets", nargs="+", metavar="NAME=FOLDER", help="class/image below the folder; or logos")
    parser.add_argument("--images", type=int, default=1000, help="of a set, at most; the same share of each class")
    parser.add_argument("--views", type=int, nargs="+", default=[2, 4], help="how many, beside one")
    arguments = parser.parse_args()
    columns = [(resize, 1, False) for resize in RESIZES]
    columns += [
        (resize, views, averaged) for resize in RESIZES for views in arguments.views for averaged in (False, True)
    ]
    print("| set | images | classes | " + " | ".join(map(_title, columns)) + " | views/s |")
    print("|---" * (len(columns) + 4) + "|")
    means = []
    for name, _, folder in (text.partition("=") for text in arguments.sets):
        with quiet():
            images, classes, speed, accuracies = measure(name, folder, columns, most=arguments.images)
        means.append(accuracies)
        print(f"| {name} | {images:,} | {classes} | " + " | ".join(f"{100 * value:.1f}" for value in accuracies)
              + f" | {speed:.0f} |", flush=True)  # fmt: skip
    print("| mean | | | " + " | ".join(f"{100 * value:.1f}" for value in np.mean(means, 0)) + " | |")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """An empty folder to work in; what the stages print goes to the standard error."""
    with (
        tempfile.TemporaryDirectory() as home,
        contextlib.chdir(home),
        contextlib.redirect_stdout(sys.stderr),
    ):
        Path("data/none").mkdir(parents=True)
        yield


def _title(column: tuple[str, int, bool]) -> str:
    resize, views, averaged = column
    return resize if views == 1 else f"{resize}, {views} views{', averaged' if averaged else ''}"


def measure(
    name: str, folder: str, columns: list[tuple[str, int, bool]], *, most: int
) -> tuple[int, int, float, list[float]]:
    """How many images and classes a set has, views extracted per second, and the accuracy of each column.

    Args:
        name: of the set; `logos` is the built-in one.
        folder: of the images.
        columns: resize, views, and whether these are averaged.
        most: images that are used.
    """
    knobs = {"dataset": "logos"} if name == "logos" else {"dataset": "folder", "root": str(Path(folder).resolve())}
    views = max(column[1] for column in columns)
    params = from_tree(merged(defaults.tree(), {**HEAD, **knobs, "views": views}))
    if name == "logos":
        download.main(params)
    index.main(params)
    rows = index_file.read(params.dataset)
    if len(rows) > most:
        kept = np.random.default_rng(0).permutation(len(rows))[:most]
        counts = Counter(rows[i].label for i in kept)
        index_file.write(
            paths.index(params.dataset), [rows[i] for i in sorted(kept) if counts[rows[i].label] >= FEWEST]
        )
    split.main(params)
    started = time.perf_counter()
    cropped = _features(params)
    speed = cropped.splits["train"].x.shape[1] * len(index_file.read(params.dataset)) / (time.perf_counter() - started)
    squashed = _with_first_view(cropped, _features(with_overrides(params, {"resize": "squash", "views": 1})))
    accuracies = [
        accuracy({"crop": cropped, "squash": squashed}[resize], params, views=views, averaged=averaged)
        for resize, views, averaged in columns
    ]
    return len(index_file.read(params.dataset)), len(cropped.classes), speed, accuracies


def _features(params: Params) -> HeadData:
    extract.main(params)
    return data.load_data(params)


def _with_first_view(data: HeadData, other: HeadData) -> HeadData:
    """The data with another evaluation view, the first one."""
    splits = {
        name: replace(split, x=torch.cat([other.splits[name].x, split.x[:, 1:]], 1))
        for name, split in data.splits.items()
    }
    return replace(data, splits=splits)


def accuracy(data: HeadData, params: Params, *, views: int, averaged: bool) -> float:
    """Of ridge regression on the first views of each image, on the evaluation views of val or on all, averaged."""
    splits = {name: replace(split, x=split.x[:, :views]) for name, split in data.splits.items()}
    data, params = replace(data, splits=splits), with_overrides(params, {"views": views})
    head = closed_form.fit(params.head, data, params=params, device=torch.device("cpu")).module
    val = data.splits["val"]
    logits = averaged_logits(head, val, views if averaged else 1)
    return float((logits.argmax(1) == val.y).double().mean())


if __name__ == "__main__":
    main()
