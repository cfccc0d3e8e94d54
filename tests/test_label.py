"""Partly labelled data from the index to the page, and the command that asks for labels and takes them over."""

import argparse
import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stages import evaluate, extract, index, label, lr_sweep, paths, report, review, split, train
from stages.datasets import corrections, index_file, splits
from stages.errors import UserError
from stages.reporting import rounds
from tests import defaults
from tests.reporting.conftest import leave_out_files

CLASSES = {"ant": (200, 60, 60), "bee": (60, 200, 60), "cat": (60, 60, 200)}
EACH = 24
KNOBS = {"backbone": "squeezenet1_1", "weights": "random", "image_size": 64, "head": "ridge"}


@pytest.fixture
def photographs(workplace: Path) -> Path:
    """Patterns in three colours, none of them labelled yet."""
    generator = np.random.default_rng(0)
    (workplace / "photos/new").mkdir(parents=True)
    for name, colour in CLASSES.items():
        for number in range(EACH):
            blocks = generator.integers(-50, 50, (6, 6, 3)) + np.array(colour)
            image = Image.fromarray(blocks.clip(0, 255).astype(np.uint8)).resize((64, 64), Image.Resampling.BICUBIC)
            image.save(workplace / f"photos/new/{name}{number:02}.png")
    return workplace / "photos"


@pytest.fixture
def turned(photographs: Path, params: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    chosen = params(dataset="folder", root=str(photographs), datasets={"folder": {"unlabelled": "new"}}, **KNOBS)
    monkeypatch.setattr(label, "load", lambda: chosen)
    return chosen


def run(turned: Any, *stages: Any) -> None:
    for stage in stages:
        stage.main(turned)


def asked(**given: Any) -> list[dict[str, Any]]:
    """What the page asks for."""
    values = {"number": 100, "random": False, "open": False, "apply": None} | given
    assert label.main(argparse.Namespace(**values)) == 0
    text = label.PAGE.read_text()
    start = text.index('id="images">') + len('id="images">')
    images: list[dict[str, Any]] = json.loads(text[start : text.index("</script>", start)])["images"]
    return images


def name(path: str) -> str:
    return Path(path).name[:3]


def saved(images: list[dict[str, Any]]) -> Path:
    """The table that the page would save if every image was labelled right."""
    table = Path("labels.csv")
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "decision"])
        writer.writerows([image["path"], name(image["path"]), ""] for image in images)
    return table


def take_over(images: list[dict[str, Any]]) -> None:
    arguments = argparse.Namespace(number=1, random=False, open=False, apply=saved(images))
    assert label.main(arguments) == 0


def test_from_no_label_to_a_page(turned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run(turned, index, split, extract, review)
    with pytest.raises(UserError, match="Too few images have a label"):
        train.main(turned)
    first = asked(random=True, number=40)
    assert {image["part"] for image in first} == {"train", "val", "test"} and not any(i["guesses"] for i in first)
    take_over(first)
    run(turned, index, split, extract, review, lr_sweep, train, evaluate)
    judged = splits.read("folder")
    assert sum(map(len, judged.values())) == 40
    metrics = json.loads(paths.EVALUATION.read_text())
    assert (metrics["n_train"], metrics["n_val"], metrics["n_test"]) == tuple(len(judged[s]) for s in splits.SPLITS)

    second = asked(number=12)
    assert len(second) == 12 and {image["part"] for image in second} == {"train"}
    assert all(image["preselect"] and len(image["guesses"]) == 3 for image in second)
    take_over(second)
    run(turned, index, split, extract, review, lr_sweep, train, evaluate)
    after = splits.read("folder")
    assert all(set(judged[part]) <= set(after[part]) for part in splits.SPLITS)
    assert after["test"] == judged["test"] and len(after["train"]) == len(judged["train"]) + 12
    leave_out_files(monkeypatch)
    report.main(turned)
    text, markdown = (paths.REPORTS / "report.html").read_text(), (paths.REPORTS / "report.md").read_text()
    waiting = len(CLASSES) * EACH - 52
    assert f"{waiting} of 72 images have no label yet" in markdown and f"{waiting} of 72 images" in text
    assert [row.labels for row in rounds.read("folder")] == [len(judged["train"])]
    assert f"| {len(after['train'])} |" in markdown and "Accuracy by the number of labels" in text


def test_labels_that_come_later_move_no_image(turned: Any) -> None:
    run(turned, index, split)
    before = splits.read_unlabelled("folder")
    rows = index_file.read("folder")
    decided = [corrections.Correction(row.path, corrections.NO_LABEL, "", f"relabel:{name(row.path)}") for row in rows]
    for count in (1, 30, len(rows)):
        corrections.write(paths.corrections("folder"), decided[:count])
        run(turned, index, split)
        labelled, waiting = splits.read("folder"), splits.read_unlabelled("folder")
        assert {part: sorted(labelled[part] + waiting[part]) for part in before} == {
            part: sorted(images) for part, images in before.items()
        }
        assert sum(map(len, labelled.values())) == count
    paths.corrections("folder").unlink()
    run(turned, index, split)
    assert splits.read_unlabelled("folder") == before


def test_an_image_can_be_left_out(turned: Any) -> None:
    run(turned, index, split, extract)
    Path("labels.csv").write_text("path,label,decision\nnew/ant00.png,,drop\nnew/ant01.png,,\n")
    assert label.main(argparse.Namespace(number=1, random=False, open=False, apply=Path("labels.csv"))) == 0
    run(turned, index)
    assert "new/ant00.png" not in {row.path for row in index_file.read("folder")}
    assert len(index_file.read("folder")) == len(CLASSES) * EACH - 1


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("path,label\nnew/ant00.png,ant\n", "lacks the column decision"),
        ("path,label,decision\nnew/ant00.png,ant,drop\n", "expected one of them"),
        ("path,label,decision\nnew/ant00.png,,away\n", "`decision` must be drop or empty"),
        ("path,label,decision\nnew/ant0.png,ant,\n", "is not an image of the dataset; did you mean new/"),
        ("path,label,decision\nnew/ant00.png,ant,\nnew/ant00.png,bee,\n", "has two decisions"),
        ("path,label,decision\nnew/ant00.png, ,\n", "has no label"),
    ],
)
def test_a_bad_table_changes_nothing(turned: Any, table: str, said: str) -> None:
    run(turned, index, split)
    Path("labels.csv").write_text(table)
    with pytest.raises(UserError, match=said):
        label.main(argparse.Namespace(number=1, random=False, open=False, apply=Path("labels.csv")))
    assert not paths.corrections("folder").exists()


def test_images_with_a_label_of_their_own_keep_it(turned: Any, photographs: Path) -> None:
    (photographs / "ant").mkdir()
    (photographs / "new/ant00.png").rename(photographs / "ant/0.png")
    run(turned, index, split)
    Path("labels.csv").write_text("path,label,decision\nant/0.png,bee,\n")
    with pytest.raises(UserError, match="has the label 'ant' already"):
        label.main(argparse.Namespace(number=1, random=False, open=False, apply=Path("labels.csv")))
    corrections.write(
        paths.corrections("folder"), [corrections.Correction("ant/0.png", corrections.NO_LABEL, "", "relabel:bee")]
    )
    run(turned, index)
    assert {row.label for row in index_file.read("folder")} == {"ant", ""}
    assert "label of their own" in json.loads(paths.index("folder").with_suffix(".json").read_text())["notes"][0]


@pytest.mark.parametrize("protocol", ["fractions", "kfold"])
def test_protocols_that_draw_anew_are_refused(turned: Any, protocol: str) -> None:
    run(turned, index)
    chosen = turned.model_copy(update={"split": turned.split.model_copy(update={"protocol": protocol})})
    with pytest.raises(UserError, match="use auto or hashed"):
        split.main(chosen)


def test_nothing_to_ask_for(workplace: Path, turned: Any) -> None:
    run(turned, index, split)
    rows = index_file.read("folder")
    decided = [corrections.Correction(row.path, corrections.NO_LABEL, "", f"relabel:{name(row.path)}") for row in rows]
    corrections.write(paths.corrections("folder"), decided)
    run(turned, index, split)
    with pytest.raises(UserError, match="Every image of folder has a label"):
        asked()


def test_the_defaults_have_no_folder_of_unlabelled_images() -> None:
    assert defaults.tree()["datasets"]["folder"]["unlabelled"] == ""
