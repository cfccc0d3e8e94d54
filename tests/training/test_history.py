"""The history on disk: what is written is what is read, to six digits."""

import csv
from pathlib import Path

from stages.training import history
from stages.training.history import Epoch


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    rows = [Epoch(1, 1, 0.001, 0.123456789, 1.0, 0.5, 2 / 3), Epoch(2, 2, None, 0.1, 0.2, val_map_50=0.4)]
    path = tmp_path / "history.csv"
    history.write(path, rows)
    assert path.read_text().splitlines() == [
        "epoch,phase,lr,train_loss,val_loss,train_accuracy,val_accuracy,val_map_50,val_map",
        "1,1,0.001,0.123457,1,0.5,0.666667,,",
        "2,2,,0.1,0.2,,,0.4,",
    ]
    with path.open(newline="") as file:
        first, second = (history.parse(row) for row in csv.DictReader(file))
    assert first == Epoch(1, 1, 0.001, 0.123457, 1.0, 0.5, 0.666667) and second == rows[1]


def test_the_lowest_loss_of_the_most_accurate_is_chosen() -> None:
    assert history.choose([(0.80, 0.1), (0.9, 0.5), (0.896, 0.4), (0.896, 0.4)]) == 2
    assert history.choose([(0.80, 0.1), (0.9, 0.5), (0.894, 0.4)]) == 1  # more than half a point below
    assert history.choose([(0.0, 0.7)]) == 0


def test_losses_that_are_about_level_go_to_the_first() -> None:
    assert history.choose([(0.9, 0.52), (0.9, 0.51), (0.9, 0.50)], tolerance=0.05) == 0
    assert history.choose([(0.9, 0.53), (0.9, 0.51), (0.9, 0.50)], tolerance=0.05) == 1
