"""The page and the markdown of a small run."""

import base64
import hashlib
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stages import files, paths, report
from stages.datasets import source
from stages.errors import UserError
from stages.reporting import classification, figures, gather, page
from stages.reporting.pictures import SIDE, TILE, centre, thumbnail
from tests.reporting.synthetic import HOSTILE, Made

Reported = Callable[[], tuple[str, str]]


class Elements(HTMLParser):
    """Tags with their attributes, and the text outside of them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_page_loads_nothing_and_has_alternatives(pages: tuple[str, str]) -> None:
    found = Elements(pages[0])
    for _, attributes in found.tags:
        for name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/jpeg;base64,"))
    assert "@import" not in found.text and "url(http" not in found.text
    assert not {"link", "iframe", "object", "embed", "base"} & {tag for tag, _ in found.tags}
    pictures = found.named("img")
    assert all(picture["alt"] for picture in pictures)
    figures = [svg for svg in found.named("svg") if svg.get("role") == "img"]
    assert len(figures) >= 8 and all(svg["aria-label"] for svg in figures)


def test_hostile_names_stay_text(pages: tuple[str, str]) -> None:
    html, markdown = pages
    found = Elements(html)
    scripts = [script for script in found.named("script") if script.get("type") != "application/json"]
    assert len(scripts) == 1 and html.count("<script") == len(found.named("script"))
    assert not any(name.startswith("on") for _, attributes in found.tags for name in attributes)
    assert not found.named("b") or all("name" not in attributes for attributes in found.named("b"))
    titles = {attributes.get("title") for attributes in found.named("th")}
    assert set(HOSTILE) <= titles
    assert "<script" not in markdown and "<img" not in markdown and "<b>" not in markdown
    table = markdown.split("## Classes")[1].split("\n\n")[1].splitlines()
    rows, bars = table[2:], len(re.findall(r"\|", table[0]))
    assert len(rows) == len(HOSTILE)
    assert all(len(re.findall(r"(?<!\\)\|", row)) == bars for row in rows)
    assert any(row.startswith("| a\\|b |") for row in rows)
    assert any(row.startswith("| \\$x_1\\$ \\`code\\` line |") for row in rows)


def test_script_is_the_one_that_the_policy_allows(pages: tuple[str, str]) -> None:
    html, _ = pages
    script = html.split("<script>")[1].split("</script>")[0]
    assert f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}" in html


def test_markdown_is_the_same_twice_and_knows_no_time(made: Made, reported: Reported) -> None:
    first = reported()
    paths.TIMINGS.mkdir(parents=True)
    of = {"dataset": "folder", "root": str(made.root), "backbone": "net", "cut": "pooled"}
    (paths.TIMINGS / "index.json").write_text(json.dumps({"of": of, "seconds": 3.21, "images": 54}))
    (paths.TIMINGS / "train.json").write_text("{damaged")
    other = json.dumps({"of": of | {"dataset": "other"}, "seconds": 7.89})
    (paths.TIMINGS / "split.json").write_text(other)  # of another run: not shown
    html, markdown = reported()
    assert markdown == first[1]
    assert html != first[0] and "54 images" in html


def test_missing_images_leave_a_notice(made: Made, reported: Reported) -> None:
    params = made.write()
    shutil.rmtree(made.root)
    report.main(params)
    found = Elements((paths.REPORTS / "report.html").read_text())
    assert "pictures cannot be shown" in found.text and f"There is no folder {made.root}" in found.text
    assert not found.named("img")


def test_a_changed_image_is_named(made: Made) -> None:
    params = made.write()
    changed = sorted(made.root.glob("class0/test*"))[0]
    changed.write_bytes(changed.read_bytes() + b"x")
    report.main(params)
    found = Elements((paths.REPORTS / "report.html").read_text())
    assert "has changed since it was indexed" in found.text and found.named("img")


def test_views_are_shown_and_their_number_is_drawn(made: Made, reported: Reported) -> None:
    made.views = ((1, 0.7), (2, 0.8), (3, 0.75))
    html, _ = reported()
    assert "One training image in all its views" in html
    assert all(f'alt="view {number}"' in html for number in range(3))
    assert "Accuracy by the number of views averaged: 1: 70.0%, 2: 80.0%, 3: 75.0%." in html


def test_one_view_has_no_section(standard: tuple[str, str]) -> None:
    assert 'id="views"' not in standard[0]


def test_without_test_validation_is_judged(made: Made, reported: Reported) -> None:
    made.sizes["test"] = 0
    html, markdown = reported()
    assert "8 of 12 validation images get the right class" in markdown
    assert "There is no test split, so" in html and "There is no test split, so" in markdown


def test_the_range_test_is_drawn_with_the_chosen_rate(standard: tuple[str, str]) -> None:
    page, _ = standard
    assert "Learning rate range test" in page and "chosen: 1e-05" in page and "suggests 0.001" in page
    assert "mathdefault" not in page  # matplotlib's own labels of powers, unparsed


def test_closed_form_head_has_a_sentence_instead_of_curves(made: Made, reported: Reported) -> None:
    made.head, made.epochs = "ridge", 1
    html, markdown = reported()
    sentence = "no epochs, no learning rate (strength 0.1, scale 12.5, chosen on validation)"
    assert sentence in html and sentence in markdown
    assert "Loss by epoch" not in html and "ridge regression on the same features" not in html


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (0.8, "more than any other. The best candidate with another head is mlp"),
        (
            0.9,
            "as good as the best one. The best candidate with another head is mlp with normalize=l2, level with it.",
        ),
    ],
)
def test_the_candidates_of_auto_are_listed_with_the_reason(
    made: Made, reported: Reported, second: float, reason: str
) -> None:
    made.head, made.epochs = "ridge", 1
    rows = [
        {"head": "ridge", "normalize": "sqrt", "val_accuracy": 0.9, "val_loss": 0.4, "left_out": ""},
        {"head": "mlp", "normalize": "l2", "val_accuracy": second, "val_loss": 0.5, "left_out": ""},
        {"head": "lda", "normalize": "l2", "val_accuracy": None, "val_loss": None, "left_out": "it needs 9 GB"},
    ]
    files.write_json(paths.CANDIDATES, rows)
    for content in reported():
        assert "head: auto tried 3 candidates and took ridge with normalize=sqrt: it gets 90.0% of the" in content
        assert reason in content and "left out: it needs 9 GB" in content
        assert "Only mlp has a learning rate" in content


@pytest.mark.parametrize(("ridge", "said"), [(0.9, "outside its interval"), (0.7, "inside its interval"), (0.6, "")])
def test_a_better_baseline_is_admitted(made: Made, ridge: float, said: str) -> None:
    made.ridge_top1 = ridge
    made.write()
    assert said in (text := page.markdown(gather.load("folder"), {})) and ("better than this head" in text) == bool(
        said
    )


def test_bad_images_of_both_stages(made: Made) -> None:
    made.index = {"bad": [{"path": "a.png", "reason": "cut <off>"}], "duplicates": [{"path": "c", "of": "d"}]}
    made.undecodable = ({"path": "ä.png", "reason": "no pixels"},)
    report.main(made.write())
    lines = [json.loads(line) for line in (paths.REPORTS / "bad_images.jsonl").read_text().splitlines()]
    assert lines == [{"path": "a.png", "reason": "cut <off>"}, {"path": "ä.png", "reason": "no pixels"}]
    html = (paths.REPORTS / "report.html").read_text()
    assert "a.png: cut &lt;off&gt;" in html and "c is d" in html


def test_what_is_not_used_is_listed_and_the_heading_names_the_set(made: Made) -> None:
    copies = [{"path": "a/1.jpg", "labels": ["<a>"]}, {"path": "b/1.jpg", "labels": ["b"]}]
    made.index = {
        "conflicts": [copies],
        "excluded": [{"path": "loose.jpg", "reason": "it lies in no class folder"}],
        "repeated_objects": [{"path": "a/2.jpg", "label": "ant", "box": [1.0, 2.0, 3.0, 4.0]}],
        "dropped_objects": {"the box is empty": 3},
        "scaled": [{"path": "x.tif", "scaling": "12-bit integers, 0 to 4,095"}],
        "lost_classes": ["owl"],
        "bad": [{"path": "bad.jpg", "reason": "cut off"}],
        "not_images": [f"note-{number}.txt" for number in range(12)],
        "notes": ["the folders on top are read as lists"],
    }
    report.main(made.write())
    html = Elements((paths.REPORTS / "report.html").read_text())
    for line in (
        "a/1.jpg (<a>) = b/1.jpg (b)", "loose.jpg: it lies in no class folder", "a/2.jpg: ant at [1.0, 2.0, 3.0, 4.0]",
        "x.tif: 12-bit integers, 0 to 4,095", "3 objects are not used: the box is empty.",
        "no image is left of class owl.",
        "Reading the data: the folders on top are read as lists.", f"{made.root.name} (folder)",
    ):  # fmt: skip
        assert line in html.text
    text = (paths.REPORTS / "report.md").read_text()
    for line in (
        "- bad.jpg: cut off", "Not images (12):", "- note-9.txt", "- and 2 more", "no image is left of class owl.",
        "- loose.jpg: it lies in no class folder",
    ):  # fmt: skip
        assert line in text.replace("\\", "")
    assert "note-11.txt" not in text


def test_odd_classes_and_a_diverged_head_are_drawn(made: Made) -> None:
    made.write()
    run = gather.load("folder")
    untrained, unjudged = replace(run.classes[0], n_train=0), replace(run.classes[1], accuracy=None, n_train=9)
    lost = [replace(epoch, val_loss=math.nan, train_loss=math.inf) for epoch in run.history]
    for classes in ([untrained, unjudged, *run.classes[2:]], [untrained, unjudged]):
        odd = replace(run, classes=classes, history=lost)
        found = page.of(odd).figures()
        assert "nan" not in found["by_accuracy"].svg()
        assert "Loss by epoch" in figures.curves(odd.history, 1)["loss"].svg()


@pytest.mark.parametrize("classes", [2, 102])
def test_few_and_many_classes(made: Made, reported: Reported, classes: int) -> None:
    made.classes = tuple(f"class {number}" for number in range(classes))
    made.sizes = {"train": 1, "val": 1, "test": 2}
    html, _ = reported()
    assert f"Confusion matrix of {classes} classes" in html and len(html) < 3_000_000


def test_files_of_another_run_are_refused(made: Made) -> None:
    made.write()
    described = json.loads((paths.HEAD / "head.json").read_text())
    (paths.HEAD / "head.json").write_text(json.dumps(described | {"classes": ["x"]}))
    with pytest.raises(UserError, match="other classes"):
        gather.load("folder")
    with pytest.raises(UserError, match="params ask for logos"):
        gather.load("logos")
    (paths.HEAD / "head.json").unlink()
    with pytest.raises(UserError, match=r"head\.json cannot be read"):
        gather.load("folder")


def test_report_needs_no_torch() -> None:
    code = "import sys, stages.report; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(report.__file__).parents[1])


def test_of_many_classes_the_weakest_are_listed_and_the_page_says_so(
    made: Made, reported: Reported, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.classes = ("ant", "bee", "cat", "dog", "eel")
    monkeypatch.setattr(classification, "LISTED", 2)
    monkeypatch.setattr(figures, "MATRIX", 2)
    page, text = reported()
    rows = gather.load("folder").classes
    weakest = {row.name for row in sorted(rows, key=lambda row: (row.accuracy is None, row.accuracy))[:2]}
    table = text.split("## Classes")[1].split("## Most confused")[0]
    assert {row.name for row in rows if f"| {row.name} |" in table} == weakest
    count = f"of {len(rows)}; reports/plots/per_class.csv has all of them."
    assert f"the 2 classes with the lowest accuracy, {count}" in text
    assert f"The 2 classes with the lowest accuracy, {count}" in page
    assert f"Drawn are the 2 classes with the most mistakes, of {len(rows)}." in page


def test_thumbnails_are_small_upright_and_bare(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "camera"
    Image.new("RGB", (900, 300), "red").save(tmp_path / "a.jpg", exif=exif)
    small = thumbnail((tmp_path / "a.jpg").read_bytes())
    assert small.height == SIDE and small.width == pytest.approx(SIDE / 3, abs=1) and not small.getexif()
    Image.new("RGB", (900, 300), "red").save(tmp_path / "a.tif", exif=exif)
    assert thumbnail((tmp_path / "a.tif").read_bytes()).size == small.size
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(tmp_path / "deep.png")
    assert thumbnail((tmp_path / "deep.png").read_bytes()).getpixel((0, 0)) == (155, 155, 155)
    Image.new("L", (5000, 3)).save(tmp_path / "strip.png")
    assert thumbnail((tmp_path / "strip.png").read_bytes()).width <= SIDE


def test_a_tile_is_the_upright_centre_and_bare(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "camera"
    striped = Image.new("RGB", (900, 300), "red")
    striped.paste("lime", (300, 0, 600, 150))
    striped.paste("blue", (300, 150, 600, 300))
    striped.save(tmp_path / "a.jpg", exif=exif, comment="of a person", quality=95)
    tile = centre((tmp_path / "a.jpg").read_bytes())  # turned by 90 degrees: what is below comes to the left
    assert tile.size == (TILE, TILE) and not tile.info and not tile.getexif()
    for place, colour in (((10, 10), (0, 0, 255)), ((70, 70), (0, 255, 0))):
        assert tile.getpixel(place) == pytest.approx(colour, abs=8)
    Image.new("L", (5000, 3), 200).save(tmp_path / "strip.png")
    assert centre((tmp_path / "strip.png").read_bytes()).getpixel((40, 40)) == (200, 200, 200)


def test_reads_only_the_pictures_it_shows(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    made.classes, made.sizes = ("a", "b", "c"), {"train": 90, "val": 90, "test": 20}
    paths_read, read = list[str](), source.read

    def counted(folder: Path, path: str, sha256: str) -> bytes:
        paths_read.append(path)
        return read(folder, path, sha256)

    monkeypatch.setattr(source, "read", counted)
    params = made.write()
    report.main(params)
    assert 60 < len(paths_read) < 150  # every test image, in small, and of the 540 others a few
    paths_read.clear()
    report.main(params)
    assert not paths_read  # they were kept

    kept = {path: path.read_bytes() for path in paths.thumbnails().rglob("*.jpg")}
    page_before = report.PAGE.read_bytes()
    shutil.rmtree(paths.thumbnails())
    report.main(params)
    assert {path: path.read_bytes() for path in paths.thumbnails().rglob("*.jpg")} == kept
    assert report.PAGE.read_bytes() == page_before  # drawn or kept, the page is the same

    for path in (damaged := sorted(kept)[:2]):  # a power cut leaves files without their end
        path.write_bytes(kept[path][: len(kept[path]) // 2 * (path == damaged[0])])
    report.main(params)
    assert {path: path.read_bytes() for path in kept} == kept and report.PAGE.read_bytes() == page_before

    shutil.rmtree(paths.thumbnails())
    paths.thumbnails().write_text("")  # where nothing can be kept
    report.main(params)
    assert report.PAGE.read_bytes() == page_before


def test_a_class_that_is_never_recognised_is_named_at_the_top(made: Made) -> None:
    made.write()
    run = gather.load("folder")
    run.classes[-1] = replace(run.classes[-1], accuracy=0.0)
    caveats = page.of(run).summary().caveats
    assert f"Classes of which no image is recognised: {run.classes[-1].name}." in caveats


@pytest.mark.parametrize(
    ("backbone", "cut", "tap", "named"),
    [
        ("timm:vit_small_patch16_dinov3.lvd1689m", "pooled", "same", ["timm:vit_small_patch16_dinov3.lvd1689m"]),
        ("timm:resnet18+timm:vit_base_patch16_224.mae", "pooled", "same", ["timm:vit_base_patch16_224.mae"]),
        ("timm:vit_base_patch16_224.mae", "input", "same", []),  # no weights
        ("efficientnet_lite0", "pooled", "same", []),
    ],
)
def test_licences_that_are_not_free_for_all_uses_are_named(backbone: str, cut: str, tap: str, named: list[str]) -> None:
    params = {"backbone": backbone, "weights": "default"}
    run: Any = SimpleNamespace(head={"params": params, "features": {"cut": cut}, "tap": tap})
    rows = page.licences(run)
    assert [title for title, _ in rows] == [f"licence of {name}" for name in named]
    assert all("not free for all uses, or not known to be; read the terms at https://" in text for _, text in rows)


def test_folds_are_told(made: Made, reported: Callable[[], tuple[str, str]]) -> None:
    spread = {"top1_mean": 0.9, "top1_sd": 0.02, "cross_entropy_mean": 0.4, "cross_entropy_sd": 0.03}
    made.metrics = {"folds": 5, **spread, "unknown_share": 0.125, "unknown_accuracy": 2 / 3}
    page, text = reported()
    for said in (page, text):
        assert "24 images, each evaluated once, by the one of 5 heads that was not trained on it" in said
        assert "top-1 90.0% ± 2.0%, cross-entropy 0.400 ± 0.030" in said and "first seed" not in said
        assert "one more head for new images, trained on 18 images, chosen on 12" in said
        assert "That holds for 3 of 24 of the images evaluated here; the class is right for 2 of 3 of them." in said
    assert "images of the first of 5 heads; test: of all of them together" in page
