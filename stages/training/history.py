"""One row an epoch, as `reports/plots/history.csv` keeps it. No torch: the report reads it too."""

import csv
import io as streams
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from stages.features import io


@dataclass(frozen=True)
class Epoch:
    """An epoch. A head that is solved at once has one, without a learning rate."""

    epoch: int
    phase: int
    lr: float | None
    train_loss: float
    val_loss: float
    train_accuracy: float
    val_accuracy: float


def score(loss: float, accuracy: float, monitor: str) -> tuple[float, float]:
    """How good a result on validation is by `monitor`, the other one deciding a tie: smaller is better."""
    return (loss, -accuracy) if monitor == "val_loss" else (-accuracy, loss)


def write(path: Path, history: Sequence[Epoch]) -> None:
    """Writes the rows, floats to six digits, no learning rate as an empty cell."""
    text = streams.StringIO()
    writer = csv.DictWriter(text, fieldnames=[field.name for field in fields(Epoch)], lineterminator="\n")
    writer.writeheader()
    for epoch in history:
        writer.writerow({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in _items(epoch)})
    io.write_bytes(path, text.getvalue().encode())


def parse(row: dict[str, str]) -> Epoch:
    """A row as csv.DictReader gives it."""
    losses = (float(row[name]) for name in ("train_loss", "val_loss", "train_accuracy", "val_accuracy"))
    return Epoch(int(row["epoch"]), int(row["phase"]), float(row["lr"]) if row["lr"] else None, *losses)


def _items(epoch: Epoch) -> list[tuple[str, float | int | str]]:
    return [(key, "" if value is None else value) for key, value in asdict(epoch).items()]
