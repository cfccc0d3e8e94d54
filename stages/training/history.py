"""Rows of `reports/plots/history.csv`, one per epoch, and the candidates of `head: auto`.

Without torch: the report reads both.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from stages import files

LEVEL = 0.005  # half a point of accuracy
LOSS_LEVEL = 0.05  # of the loss of different heads


@dataclass(frozen=True)
class Epoch:
    """The results of an epoch; scores that the task does not have are None.

    A head in closed form has a single epoch, without a learning rate.
    """

    epoch: int
    phase: int
    lr: float | None
    train_loss: float
    val_loss: float
    train_accuracy: float | None = None
    val_accuracy: float | None = None
    val_map_50: float | None = None
    val_map: float | None = None

    @property
    def choice(self) -> float:
        """What decides between heads that name classes: accuracy, or mAP where images have several labels."""
        return (self.val_accuracy if self.val_map is None else self.val_map) or 0.0


@dataclass(frozen=True)
class Candidate:
    """A head that `head: auto` tried.

    Attributes:
        head: its name.
        normalize: of the features before it.
        val_accuracy: the share of validation images with the right class; None if it was left out.
        val_loss: the cross-entropy on validation; None if it was left out.
        left_out: why it did not compete, as the end of a sentence.
        val_map: mAP on validation, in place of the accuracy where images have several labels.
    """

    head: str
    normalize: str
    val_accuracy: float | None = None
    val_loss: float | None = None
    left_out: str = ""
    val_map: float | None = None

    @property
    def choice(self) -> float | None:
        """The score that decides; None if it was left out."""
        return self.val_accuracy if self.val_map is None else self.val_map

    @property
    def name(self) -> str:
        """The head and its normalisation."""
        return f"{self.head} with normalize={self.normalize}"


def score(
    loss: float,
    accuracy: float | None,
    *,
    monitor: str,
    map_50: float | None = None,
    map: float | None = None,  # noqa: A002  (the name of the metric)
) -> tuple[float, float]:
    """A key that sorts results on validation by `monitor`, ties by another score: smaller is better.

    Args:
        loss: on validation.
        accuracy: on validation, in [0, 1]; None if the task does not have one.
        monitor: `val_loss`, `val_accuracy`, `val_map` or `val_map_50`.
        map_50: on validation, in [0, 1]; None if the task does not have one.
        map: of several labels on validation, in [0, 1]; None if the task does not have one.
    """
    if monitor == "val_loss":
        return loss, -((accuracy if map is None else map) or 0.0)
    return -({"val_accuracy": accuracy, "val_map": map, "val_map_50": map_50}[monitor] or 0.0), loss


def choose(scores: Sequence[tuple[float, float]], tolerance: float = 0.0) -> int:
    """Which of several results on validation to take: the position of the first with a low loss, of the most accurate.

    Those within LEVEL of the highest accuracy count as equally accurate: so small a difference is chance, and the loss,
    to which every image contributes, tells them apart better.

    Args:
        scores: accuracy in [0, 1] and cross-entropy of each, the simplest first.
        tolerance: losses above the lowest by no more than this share of it count as equal.
    """
    least = max(accuracy for accuracy, _ in scores) - LEVEL
    accurate = [position for position, (accuracy, _) in enumerate(scores) if accuracy >= least]
    lowest = min(scores[position][1] for position in accurate)
    return next(position for position in accurate if scores[position][1] <= (1 + tolerance) * lowest)


def write(path: Path, history: Sequence[Epoch]) -> None:
    """Writes one row per epoch, floats to six digits; a missing learning rate or score is an empty cell."""
    files.write_csv(path, [field.name for field in fields(Epoch)], map(asdict, history), digits=6)


def parse(row: dict[str, str]) -> Epoch:
    """An epoch from a row of csv.DictReader."""
    numbers = {name: float(value) if value else None for name, value in row.items() if name not in ("epoch", "phase")}
    return Epoch(epoch=int(row["epoch"]), phase=int(row["phase"]), **numbers)  # type: ignore[arg-type]
