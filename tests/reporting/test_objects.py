"""The part of the page on objects: counts, distributions, boxes where they are."""

import json
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages import paths
from stages.datasets import index_file
from stages.datasets.base import Box
from stages.reporting import figures, objects
from stages.reporting.objects import ObjectCount
from stages.reporting.pictures import LONGEST, SIDE, Picture
from tests.reporting.synthetic import HOSTILE, Made

Reported = Callable[[], tuple[str, str]]
ANNOTATED = {
    "train": {"ant": {"objects": 9, "difficult": 2}, "bee": {"objects": 1_500, "difficult": 0}},
    "val": {"ant": {"objects": 4, "difficult": 1}},
}


def row(*objects: Box, size: tuple[int, int] = (200, 100)) -> index_file.IndexRow:
    return index_file.IndexRow("a.jpg", "0", *size, "ant", objects, None)


def test_objects_are_counted_by_class_and_list() -> None:
    assert objects.count(ANNOTATED, ["train", "val"]) == [
        ObjectCount("ant", (9, 4), 13, 3),
        ObjectCount("bee", (1_500, 0), 1_500, 0),
    ]


def test_the_sentences() -> None:
    rows = [row(Box("ant", (0, 0, 9, 9)), Box("ant", (0, 0, 9, 9))), row()]
    assert objects.sentences(ANNOTATED, ["train", "val"], rows) == (
        "Annotated: 1,509 objects (2 difficult) in train, 4 objects (1 difficult) in val. Used, without duplicates and "
        "broken annotations: 2 objects in 1 image; 1 image has none."
    )


@pytest.mark.parametrize("side", [20, 100, 280])
def test_a_mark_lies_where_the_box_is_whatever_the_size(side: int) -> None:
    picture = Picture(row(Box("ant", (20, 50, 60, 100))), "data:", side, side // 2)
    example = objects.example(picture, {"ant": "#fff"})
    assert (example.width, example.height) == (SIDE, SIDE / 2)
    found = example.marks[0]
    assert (found.x, found.y, found.width, found.height) == pytest.approx((28, 70, 56, 70))
    assert (found.name_x, found.name_y) == pytest.approx((28, 66))
    assert (found.anchor, found.outline.colour) == ("start", "#fff")


@pytest.mark.parametrize("corners", [(0, 0, 200, 100), (190, 0, 200, 4), (0, 96, 3, 100), (120, 40, 200, 60)])
def test_a_name_stays_in_the_picture(corners: tuple[float, float, float, float]) -> None:
    found = objects.example(Picture(row(Box("ant", corners)), "data:", 100, 50), {}).marks[0]
    assert 0 < found.name_x < SIDE and objects.LETTER - 4 <= found.name_y < SIDE / 2
    assert found.anchor == ("end" if found.x > SIDE / 2 else "start")


def test_small_boxes_lie_on_top_and_the_largest_have_names() -> None:
    many = [Box("ant", (0, 14 * place, 50, 14 * place + 14 - place / 9)) for place in range(20)]
    found = objects.example(Picture(row(*reversed(many), size=(280, 280)), "data:", 280, 280), {}).marks
    assert [mark.outline.box for mark in found] == many
    assert sum(bool(mark.name) for mark in found) == objects.NAMED and found[0].name


@given(st.lists(st.tuples(*[st.integers(0, 199)] * 4), max_size=40))
def test_no_name_stands_on_another(corners: list[tuple[int, int, int, int]]) -> None:
    many = [Box("ant", (min(a, c), min(b, d), max(a, c) + 1, max(b, d) + 1)) for a, b, c, d in corners]
    found = objects.example(Picture(row(*many, size=(200, 200)), "data:", 280, 280), {}).marks
    named = [mark for mark in found if mark.name]
    assert bool(named) == bool(many)
    for one, other in combinations(named, 2):
        same_line = abs(one.name_y - other.name_y) < objects.LETTER
        ends = [(mark.name_x - (21 if mark.anchor == "end" else 0)) for mark in (one, other)]
        assert not same_line or abs(ends[0] - ends[1]) >= 3 * objects.LETTER_WIDTH - 1e-6


def test_a_picture_that_is_cut_or_missing_has_no_marks() -> None:
    long = row(Box("ant", (0, 0, 9, 9)), size=(LONGEST * 10 + 1, 10))
    assert objects.example(Picture(long, "data:", 120, 10), {}).marks == []
    assert objects.example(Picture(row(Box("ant", (0, 0, 9, 9))), None), {}).marks == []


@pytest.mark.parametrize("values", [[3.0], [3.0, 3.0], [1e-7, 1.0], [0.1, 0.3, 0.7], list(np.geomspace(1, 1e5, 50))])
def test_every_object_is_in_its_distribution(values: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    counted, histogram = list[int](), np.histogram

    def counting(*given: Any) -> Any:
        found = histogram(*given)
        counted.append(found[0].sum())
        return found

    monkeypatch.setattr(np, "histogram", counting)
    assert "<svg" in objects.spread("Width", "pixels", {"": np.array(values)}).svg()
    assert counted == [len(values)]


def test_hundreds_of_classes_and_objects_are_drawn() -> None:
    many = {f"class {number}": {"objects": number, "difficult": number // 2} for number in range(1, 200)}
    assert "Bars of objects of 199 classes, 19,900 in all, 9,900 difficult." in objects.per_class(many, "train").alt
    assert "300 images" in objects.an_image(list(range(300))).alt


def test_the_page_shows_objects_with_hostile_names_as_text(made: Made, reported: Reported) -> None:
    made.task, made.head = "detection", "grid"
    html, _ = reported()
    section = html.split('<h2 id="objects">')[1].split("<h2 ")[0]
    assert section.count('class="annotated"') == objects.EXAMPLES
    assert "<script" not in section and "<img onerror" not in section
    assert f"in {54:,} images" in section and 'href="#objects"' in html
    assert len(HOSTILE) == section.count("<th scope")


def test_the_page_of_a_classifier_has_no_section_on_objects(standard: tuple[str, str]) -> None:
    html, markdown = standard
    assert 'id="objects"' not in html and "#objects" not in html and "objects_" not in markdown
    assert "Training images" in html


def test_a_dataset_without_boxes_has_no_such_part(made: Made, reported: Reported) -> None:
    write = made.write

    def without_objects() -> object:
        params = write()
        path = paths.index("folder")
        lines = [json.loads(line) | {"objects": []} for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return params

    made.write = without_objects  # type: ignore[assignment, method-assign]
    html, _ = reported()
    assert "objects" not in html.split("<main>")[1].split("<h2")[0] and 'id="objects"' not in html
    assert "Training images" in html


def test_broken_annotations_and_leaks_are_listed(made: Made, reported: Reported, tmp_path: Path) -> None:
    made.index = {
        "broken_annotations": [{"path": "a.xml", "reason": "the box of <b>ant</b> is empty"}],
        "duplicates": [{"path": "a.jpg", "of": "b.jpg", "lists": "train, test"}],
    }
    html, _ = reported()
    assert "Broken annotations (1)" in html and "a.xml: the box of &lt;b&gt;ant&lt;/b&gt; is empty" in html
    assert "a.jpg is b.jpg (across splits: train, test)" in html


def test_what_a_figure_says_in_words_has_numbers_without_exponents() -> None:
    said = objects.spread("Width", "pixels", {"": np.array([0.123456, 59.04, 1100.2])}).alt
    assert said == "Width of 3 objects: median 59, 0.123 to 1100 pixels."
    groups = [{"from": 309.2, "to": 309.4, "objects": 1, "recall": 1.0},
              {"from": 310.0, "to": 420.0, "objects": 2, "recall": 0.5}]  # fmt: skip
    assert "309: 100%, 310–420: 50%" in figures.recall_by_size(groups).alt
