"""The stage review: what it finds in a folder of photographs, and what it writes where little can be had."""

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stages import extract, index, paths, review, split
from stages.datasets import index_file
from stages.reviewing import suspicions

CLASSES = {"ant": (200, 60, 60), "bee": (60, 200, 60), "cat": (60, 60, 200)}
EACH = 12


@pytest.fixture
def photographs(workplace: Path) -> Path:
    """Three classes of patterns that differ in colour."""
    generator = np.random.default_rng(0)
    for label, colour in CLASSES.items():
        (workplace / "photos" / label).mkdir(parents=True)
        for number in range(EACH):
            blocks = generator.integers(-50, 50, (6, 6, 3)) + np.array(colour)
            image = Image.fromarray(blocks.clip(0, 255).astype(np.uint8)).resize((96, 96), Image.Resampling.BICUBIC)
            image.save(workplace / "photos" / label / f"{number:02}.png")
    return workplace / "photos"


@pytest.fixture
def reviewed(photographs: Path, params: Callable[..., Any]) -> Callable[..., list[suspicions.Suspicion]]:
    """Runs the stages up to review with some knobs turned; gives what is suspected."""

    def main(**knobs: Any) -> list[suspicions.Suspicion]:
        chosen = {"backbone": "squeezenet1_1", "weights": "random", "image_size": 64} | knobs
        turned = params(dataset="folder", root=str(photographs), **chosen)
        for stage in (index, split, extract, review):
            stage.main(turned)
        return suspicions.read(paths.REPORTS / "review.csv")

    return main


def summary() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((paths.REPORTS / "review.json").read_text())
    return found


@pytest.mark.parametrize(
    "knobs", [{}, {"cut": "map"}, {"cut": "input", "head": "smallnet"}], ids=["pooled", "map", "input"]
)
def test_copies_and_mirror_images_are_found(
    photographs: Path, reviewed: Callable[..., list[suspicions.Suspicion]], knobs: dict[str, Any]
) -> None:
    with Image.open(photographs / "ant/00.png") as image:
        image.resize((90, 90)).save(photographs / "ant/copy.png")
    with Image.open(photographs / "bee/03.png") as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(photographs / "cat/mirrored.png")
    found = {row.what: row for row in reviewed(**knobs) if row.other}
    copy, mirror = found["near-duplicate"], found["mirror image"]
    assert (copy.path, copy.other, copy.proposed) == ("ant/00.png", "ant/copy.png", "")
    assert (mirror.path, mirror.other, mirror.proposed) == ("bee/03.png", "cat/mirrored.png", "cat")
    assert summary()["near_duplicates"] == 2 and summary()["leaks"] == copy.leak + mirror.leak


def test_an_image_in_the_wrong_folder_is_suspected_first(
    photographs: Path, reviewed: Callable[..., list[suspicions.Suspicion]]
) -> None:
    (photographs / "ant/05.png").rename(photographs / "bee/moved.png")
    first = reviewed()[0]
    assert (first.what, first.path, first.proposed) == ("label in doubt", "bee/moved.png", "ant")


def test_labels_that_cannot_be_learnt_are_not_in_doubt(
    photographs: Path, reviewed: Callable[..., list[suspicions.Suspicion]]
) -> None:
    images = sorted(photographs.rglob("*.png"))
    for number, path in enumerate(images):  # each class holds a third of every class
        path.rename(photographs / ("ant", "bee", "cat")[number % 3] / f"shuffled-{number}.png")
    assert not [row for row in reviewed() if row.what == "label in doubt"]
    found = summary()
    assert found["labels_in_doubt"] == 0 and found["leave_one_out_accuracy"] < 0.5
    assert found["most_frequent_class"] == pytest.approx(1 / 3, abs=0.02)


def test_one_content_under_two_labels_is_listed(
    photographs: Path, reviewed: Callable[..., list[suspicions.Suspicion]]
) -> None:
    shutil.copy(photographs / "ant/01.png", photographs / "bee/same.png")
    conflicts = [row for row in reviewed() if row.what == "two labels"]
    assert {(row.path, row.label, row.other) for row in conflicts} == {
        ("ant/01.png", "ant", "bee/same.png"),
        ("bee/same.png", "bee", "ant/01.png"),
    }
    assert summary()["conflicting_files"] == 2


def test_without_the_images_labels_are_still_reviewed(
    photographs: Path, reviewed: Callable[..., list[suspicions.Suspicion]], params: Callable[..., Any]
) -> None:
    (photographs / "ant/05.png").rename(photographs / "bee/moved.png")
    reviewed()
    photographs.rename(photographs.with_name("gone"))
    shutil.rmtree("cache/pixels")
    review.main(
        params(dataset="folder", root=str(photographs), backbone="squeezenet1_1", weights="random", image_size=64)
    )
    assert summary()["pixels_compared"] == 0 and summary()["labels_in_doubt"] > 0


def test_the_same_again_gives_the_same_bytes(reviewed: Callable[..., list[suspicions.Suspicion]]) -> None:
    reviewed()
    first = (paths.REPORTS / "review.csv").read_bytes(), (paths.REPORTS / "review.json").read_bytes()
    reviewed()
    assert ((paths.REPORTS / "review.csv").read_bytes(), (paths.REPORTS / "review.json").read_bytes()) == first


def written(dataset: str = "folder") -> dict[str, bytes]:
    """The bytes that stages wrote."""
    home = [paths.index(dataset), paths.index(dataset).with_suffix(".json"), paths.split(dataset)]
    return {str(path): path.read_bytes() for path in home}


def test_corrections_change_the_rows_that_they_name(
    photographs: Path, reviewed: Callable[..., list[suspicions.Suspicion]], capsys: pytest.CaptureFixture[str]
) -> None:
    (photographs / "ant/05.png").rename(photographs / "bee/moved.png")
    with Image.open(photographs / "ant/00.png") as image:
        image.resize((90, 90)).save(photographs / "ant/copy.png")
    table, before = reviewed(), written()
    decided = {"bee/moved.png": "relabel:ant", "ant/00.png": "together"}
    suspicions.write(Path("decided.csv"), [row._replace(decision=decided.get(row.path, "")) for row in table])
    assert review.apply(argparse.Namespace(apply=Path("decided.csv"))) == 0
    capsys.readouterr()
    after = {row.path for row in reviewed()}
    assert "0 to compute" in capsys.readouterr().out
    assert not after & {"bee/moved.png"}
    rows = {row.path: row for row in index_file.read("folder")}
    assert rows["bee/moved.png"].label == "ant"
    parts = json.loads(paths.split("folder").read_text())
    where = {image: name for name in ("train", "val", "test") for image in parts[name]}
    assert where[rows["ant/00.png"].sha256] == where[rows["ant/copy.png"].sha256]
    lines = before[str(paths.index("folder"))].decode().splitlines()
    unchanged = [line for line in paths.index("folder").read_text().splitlines() if line in lines]
    assert len(unchanged) == len(lines) - 1
    paths.corrections("folder").unlink()
    reviewed()
    assert written() == before
