"""Boxes after they were fitted: inside their image, never empty, and the same object."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from stages.datasets import annotations
from stages.datasets.base import Box, Record

CORNER = st.floats(allow_nan=True, allow_infinity=True, width=32) | st.integers(-20, 120)


@given(box=st.tuples(CORNER, CORNER, CORNER, CORNER), width=st.integers(1, 100), height=st.integers(1, 100))
def test_a_fitted_box_has_an_area_inside_the_image(
    box: tuple[float, float, float, float], width: int, height: int
) -> None:
    given_box = Box("ant", box, difficult=True, crowd=True)
    fitted = annotations.fit(Record("a.jpg", None, (given_box,)), (width, height))
    boxes, broken = fitted.boxes, fitted.faults
    for fitted_box in boxes:
        x1, y1, x2, y2 = fitted_box.box
        assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height
        assert replace(fitted_box, box=box) == given_box
    assert boxes or broken
    if boxes and boxes[0].box == box:
        assert not broken


def test_the_largest_object_that_counts() -> None:
    large, small = Box("large", (0, 0, 9, 9)), Box("small", (0, 0, 2, 2))
    assert annotations.largest([small, large]) == "large"
    for flagged in (replace(large, difficult=True), replace(large, crowd=True), replace(large, ignore=True)):
        assert annotations.largest([small, flagged]) == "small"
    assert annotations.largest([replace(large, difficult=True)]) == "large"  # where none counts
    assert annotations.largest([]) == ""


def test_counts_are_of_every_object_in_every_list() -> None:
    ant, hard = Box("ant", (0, 0, 1, 1)), Box("ant", (0, 0, 1, 1), difficult=True)
    records = [Record("a", None, (ant, hard), "train"), Record("b", None, (hard,), "val"), Record("c", None, (), "val")]
    assert annotations.counts(records) == {
        "train": {"ant": {"objects": 2, "difficult": 1}},
        "val": {"ant": {"objects": 1, "difficult": 1}},
    }
