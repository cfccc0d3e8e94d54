"""The page of labels in a browser, by keyboard alone; and the way from its table to a trained head."""

import csv
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from stages.datasets.index_file import IndexRow
from stages.labelling import page
from stages.labelling.page import AskedImage
from stages.reporting.pictures import Picture, data_uri
from tests import checkout
from tests.dag.toy import BASE, CLASSES, draw_images

FEW, MANY = ["ant", "bee", "cat"], [f"class {number}" for number in range(20)]
HOSTILE = ['a "quoted", one', "</script><script>alert(1)</script>", " blank", "two\nlines"]


class Opened:
    """A page in the browser, and what went wrong in it."""

    def __init__(self, browser: Any, path: Path) -> None:
        self.trouble, self.requests = list[str](), list[str]()
        self.page = browser.new_page(viewport={"width": 1000, "height": 800})
        self.page.on("console", lambda message: self.trouble.append(message.text))
        self.page.on("pageerror", lambda error: self.trouble.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def chosen(self) -> str:
        """The class that Enter would take; empty if none is marked."""
        marked = self.page.locator("#choices button.chosen")
        return str(marked.evaluate("one => one.lastChild.textContent")) if marked.count() else ""

    def saved(self) -> list[dict[str, str]]:
        """The rows of the table that Ctrl+S saves."""
        with self.page.expect_download() as download:
            self.press("Control+s")
        with open(download.value.path(), newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Any:
    """`opened(classes, images)`: a page with images to learn from, the last one to judge by."""

    def main(classes: list[str], paths: list[str]) -> Opened:
        asked = [
            AskedImage(
                Picture(
                    IndexRow(path, f"{number:064}", 8, 8, "", (), None),
                    data_uri(Image.new("RGB", (80, 60), (10 * number, 90, 0))),
                    80,
                    60,
                ),
                "test" if number == len(paths) - 1 else "train",
                [(number + place) % len(classes) for place in range(len(classes))],
            )
            for number, path in enumerate(paths)
        ]
        (tmp_path / "label.html").write_text(page.html(asked, classes, "folder"), encoding="utf-8")
        return Opened(browser, tmp_path / "label.html")

    return main


def test_keys_label_skip_correct_and_leave_out(opened: Any) -> None:
    shown = opened(FEW, [f"{number}.jpg" for number in range(6)])
    assert shown.chosen() == "ant"
    shown.press("Enter")  # the guess
    shown.press("3")  # the key of cat
    assert shown.chosen() == "cat"
    shown.press("ArrowRight")  # skips
    shown.press("Delete")
    shown.press("ArrowLeft", "ArrowLeft", "ArrowLeft", "1")  # back to the second
    shown.press("ArrowRight", "ArrowRight", "ArrowDown", "Enter")  # of the fifth the next after the guess
    assert shown.saved() == [
        {"path": "0.jpg", "label": "ant", "decision": ""},
        {"path": "1.jpg", "label": "ant", "decision": ""},
        {"path": "3.jpg", "label": "", "decision": "drop"},
        {"path": "4.jpg", "label": "cat", "decision": ""},
    ]
    assert not shown.trouble and all(url.startswith(("file:", "data:", "blob:")) for url in shown.requests)


def test_images_to_judge_by_have_no_guess(opened: Any) -> None:
    shown = opened(FEW, ["0.jpg", "1.jpg"])
    shown.press("Enter")
    assert shown.chosen() == "" and "to judge by" in shown.page.locator("#part").text_content()
    shown.press("Enter")
    assert [row["path"] for row in shown.saved()] == ["0.jpg"]


def test_letters_search_and_name_new_classes(opened: Any) -> None:
    shown = opened(MANY, [f"{number}.jpg" for number in range(4)])
    shown.page.keyboard.type("s 17")
    assert shown.chosen() == "class 17"
    shown.press("Enter")
    shown.page.keyboard.type("zebra")
    assert shown.chosen() == "new class: zebra"
    shown.press("Enter")
    shown.page.keyboard.type("zeb")
    shown.press("Enter")
    assert [row["label"] for row in shown.saved()] == ["class 17", "zebra", "zebra"]


def test_classes_named_by_a_digit_have_it_as_key(opened: Any) -> None:
    shown = opened(["0", "3", "7"], ["0.jpg", "1.jpg"])
    shown.press("7")
    assert [row["label"] for row in shown.saved()] == ["7"]


def test_a_reload_loses_nothing(opened: Any) -> None:
    shown = opened(FEW, [f"{number}.jpg" for number in range(4)])
    shown.press("2", "3")
    shown.page.on("dialog", lambda dialog: dialog.accept())
    shown.page.reload()
    assert shown.page.locator("#path").text_content() == "2.jpg"
    assert [row["label"] for row in shown.saved()] == ["bee", "cat"]


def test_hostile_names_come_back_as_they_are(opened: Any) -> None:
    shown = opened(HOSTILE, [f"{name}/0.jpg" for name in HOSTILE])
    shown.press("1", "2", "3", "4")
    rows = shown.saved()
    assert [(row["path"], row["label"]) for row in rows] == [(f"{name}/0.jpg", name) for name in HOSTILE]
    assert not shown.trouble


@pytest.mark.slow
def test_twenty_labels_by_keyboard_train_a_head(browser: Any, tmp_path: Path) -> None:
    """From a folder without a label to a page: asked for, labelled in the browser, saved, applied, `dvc repro`."""
    project = checkout.fresh(tmp_path / "project")
    draw_images(project.images, 16)
    for name in CLASSES:
        shutil.copytree(project.images / name, project.images / "new" / name)
        shutil.rmtree(project.images / name)
    knobs = {**BASE, "head": "ridge", "root": project.images, "extract.engine": "torch", "extract.precision": "float32"}
    _, output = project.experiment({**knobs, "datasets.folder.unlabelled": "new"}, check=False)
    assert "python -m stages.label --random" in output
    project.run("python", "-m", "stages.label", "--random", "--number", "20")
    shown = Opened(browser, project.home / "reports/label.html")
    while not shown.page.locator("#done").is_visible():
        actual = Path(str(shown.page.locator("#path").text_content())).parent.name
        shown.page.keyboard.type(actual)
        shown.press("Enter")
    table = tmp_path / "saved.csv"
    with shown.page.expect_download() as download:
        shown.press("Enter")  # the button has the focus
    download.value.save_as(table)
    assert len(table.read_text().splitlines()) == 21
    project.run("python", "-m", "stages.label", "--apply", str(table))
    project.run("dvc", "repro")
    markdown = (project.home / "reports/report.md").read_text()
    assert "28 of 48 images have no label yet" in markdown and "## Labels" in markdown
    assert "20 label" in markdown
    assert sorted(path.name for path in (project.home / "data/corrections").glob("*.csv")) == ["folder.csv"]
