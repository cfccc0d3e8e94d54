"""The heat map of a sweep: a PNG of any grid, the same bytes every time."""

import io

import pytest
from PIL import Image

from stages.sweeping import heatmap

GRID = [(0.001, 0.0, 0.9), (0.01, 0.0, 0.93), (0.001, 0.1, None), (0.01, 0.1, 0.91), (0.01, 0.1, 0.95)]


@pytest.mark.parametrize("points", [GRID, GRID[:1], GRID[2:3]], ids=["grid", "one", "diverged"])
def test_a_map_of_any_grid_is_the_same_png_twice(points: list[tuple[float, float, float | None]]) -> None:
    drawn = heatmap.draw(points, "val_accuracy")
    assert Image.open(io.BytesIO(drawn)).format == "PNG"
    assert heatmap.draw(points, "val_accuracy") == drawn


def test_a_cell_shows_the_best_by_the_monitor() -> None:
    both, low, high = ([(0.1, 0.0, value) for value in values] for values in ((0.2, 0.4), (0.2,), (0.4,)))
    assert heatmap.draw(both, "val_accuracy") == heatmap.draw(high, "val_accuracy")
    assert heatmap.draw(both, "val_map") == heatmap.draw(high, "val_map") != heatmap.draw(high, "val_accuracy")
    assert heatmap.draw(both, "val_loss") == heatmap.draw(low, "val_loss")
