"""One row an epoch, as `reports/plots/history.csv` keeps it. No torch: the report reads it too."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from stages import files


@dataclass(frozen=True)
class Epoch:
    """An epoch. A head that is solved at once has one, without a learning rate; not every task has every score."""

    epoch: int
    phase: int
    lr: float | None
    train_loss: float
    val_loss: float
    train_accuracy: float | None = None
    val_accuracy: float | None = None
    val_map_50: float | None = None


def score(loss: float, accuracy: float | None, monitor: str, map_50: float | None = None) -> tuple[float, float]:
    """How good a result on validation is by `monitor`, another one deciding a tie: smaller is better."""
    if monitor == "val_loss":
        return loss, -(accuracy or 0.0)
    return -((accuracy if monitor == "val_accuracy" else map_50) or 0.0), loss


def write(path: Path, history: Sequence[Epoch]) -> None:
    """Writes the rows, floats to six digits, no learning rate as an empty cell."""
    files.write_csv(path, [field.name for field in fields(Epoch)], map(asdict, history), digits=6)


def parse(row: dict[str, str]) -> Epoch:
    """A row as csv.DictReader gives it."""
    numbers = {name: float(value) if value else None for name, value in row.items() if name not in ("epoch", "phase")}
    return Epoch(epoch=int(row["epoch"]), phase=int(row["phase"]), **numbers)  # type: ignore[arg-type]
