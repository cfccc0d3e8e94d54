"""The figures as files beside report.md, and what `dvc plots` is told."""

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from stages import paths, report
from stages.evaluation.common import PLOTS
from stages.reporting import figures
from stages.reporting.gather import ClassRow
from stages.reporting.predictions import Counts
from stages.training.history import Epoch
from tests.reporting.synthetic import Made

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def without_files() -> None:
    """Here they are written."""


@pytest.mark.parametrize("task", ["classification", "detection", "largest"])
def test_the_text_shows_every_figure_as_a_file(made: Made, task: str) -> None:
    made.task = task
    report.main(made.write())
    told = re.findall(r"^!\[(.+)\]\((figures/.+)\)$", (paths.REPORTS / "report.md").read_text(), re.MULTILINE)
    files = {path.name: path.read_bytes() for path in paths.FIGURES.iterdir()}
    assert {file for _, file in told} == {f"figures/{name}" for name in files} and all(alt for alt, _ in told)
    assert {"report-curves_loss.png", "report-range_test.png"} < files.keys()
    for content in files.values():
        image = Image.open(io.BytesIO(content))
        assert image.format == "PNG" and image.width >= 400 and not image.info.keys() & {"Software", "Creation Time"}
    assert sum(map(len, files.values())) < 400_000


def test_figures_of_another_run_go_and_those_of_others_stay(made: Made) -> None:
    paths.FIGURES.mkdir(parents=True)
    for name in ("report-precision_recall.png", "sweep.png", "mine.png"):
        (paths.FIGURES / name).write_bytes(b"x")
    report.main(made.write())
    left = {path.name for path in paths.FIGURES.iterdir()}
    assert {"sweep.png", "mine.png"} < left and "report-precision_recall.png" not in left


def test_of_many_classes_the_matrix_shows_those_with_the_most_mistakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "MATRIX", 3)
    names = [f"class {label}" for label in range(500)]
    right = np.arange(500)
    counts = Counts.of(np.concatenate([right, [3, 3, 8]]), np.concatenate([right, [8, 8, 499]]), 500)
    drawing = figures.confusion(counts, names)
    assert set(drawing.cells.values()) == {"3,3", "3,8", "8,8", "8,499", "499,499"}
    assert "class 3 taken for class 8: 2 of 3" in drawing.titles.values()
    assert drawing.alt.endswith("500 of 503 images lie on the diagonal. Drawn: the 3 classes with the most mistakes.")
    assert Image.open(io.BytesIO(drawing.png())).width < 1000


def test_figures_of_ten_thousand_classes_have_no_artist_for_each() -> None:
    rows = [ClassRow(f"class {n}", 2 + n % 9, 1, 1, (n % 5) / 4, 0.5, None) for n in range(10_000)]
    for drawing in (figures.scores_of_classes(rows, "accuracy", "images"), figures.per_class(rows, "images")):
        assert not drawing.titles and len(drawing.svg()) < 200_000


def test_page_and_file_are_one_drawing_in_their_own_colours() -> None:
    drawing, again = (figures.trade_off([("<a>", 2.0, 0.5), ("b", 40.0, 0.9)], "top-1") for _ in range(2))
    svg = drawing.svg()
    assert again.png() == drawing.png()
    assert "var(--blue)" in svg and "var(--orange)" in svg and "&lt;a&gt;" in svg and "<a>" not in svg
    assert not any(colour in svg for colour in figures.VARIABLES)
    pixels = np.asarray(Image.open(io.BytesIO(drawing.png())).convert("RGB")).reshape(-1, 3)
    blue = [int(figures.BLUE[place : place + 2], 16) for place in (1, 3, 5)]
    assert (abs(pixels.astype(int) - blue).max(1) < 12).any() and pixels.max() == 255


def test_colours_are_those_of_the_style() -> None:
    style = (CHECKOUT / "stages/reporting/templates/style.css.j2").read_text()
    light = dict(re.findall(r"(--\w+): (#\w+);", style.partition("@media")[0]))
    for colour, variable in figures.VARIABLES.items():
        assert light[variable] in (colour, "#fff")


def test_dvc_plots_name_columns_and_templates_that_are_there() -> None:
    pipeline: dict[str, Any] = yaml.safe_load((CHECKOUT / "dvc.yaml").read_text())
    columns = {f"reports/plots/{name}.csv": set(header) for name, header in PLOTS.items()}
    columns |= {"reports/plots/lr_sweep.csv": {"lr", "loss", "smoothed"}}
    columns |= {"reports/plots/history.csv": set(Epoch.__dataclass_fields__)}
    of_stages = [plot for stage in pipeline["stages"].values() for plot in stage.get("plots", [])]
    assert {path for plot in of_stages for path in plot} == columns.keys()
    for plot in of_stages:
        for path, how in plot.items():
            assert {how["x"], how["y"]} <= columns[path] and how["title"] and how["cache"] is False
    for plot in pipeline["plots"]:
        for how in plot.values():
            for path, names in how["y"].items():
                assert {*names, how["x"]} <= columns[path]
    own = {path.stem: json.loads(path.read_text()) for path in (CHECKOUT / ".dvc/plots").glob("*.json")}
    known = {"simple", "linear", "confusion_normalized", *own}
    every = [how for plot in (*of_stages, *pipeline["plots"]) for how in plot.values()]
    assert {how["template"] for how in every} <= known and own.keys() <= {how["template"] for how in every}
