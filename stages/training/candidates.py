"""`head: auto`: several heads, each with every normalisation, compete on validation; the best is kept as if named.

Each candidate is what `-S head=NAME -S normalize=…` gives, bit for bit: they share only what is computed before the
heads differ, the normalised features and their Gram matrix.
"""

import hashlib
import time
from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch

from stages import files, paths
from stages.errors import UserError
from stages.heads.registry import HEADS
from stages.params import Params, with_overrides
from stages.training import closed_form, learning_rate, loop, mapped
from stages.training.closed_form import Normalized
from stages.training.data import HeadData
from stages.training.history import Candidate
from stages.training.model import TrainResult

NORMALIZATIONS = ("none", "standardize", "l2", "sqrt")  # the simplest first
SECONDS = 60.0  # a candidate that is expected to take longer is left out
SPEEDS = {"cpu": 3e10}  # float64 operations per second of two cores; a fixed number, so that the choice is one as well
GPU_SPEED = 3e11
SOLVES = 12  # of a path of strengths
EVALUATIONS = 300  # of the loss by L-BFGS, over all strengths
STEP = 5e-4  # seconds that a step of gradient descent takes beside its operations
DOUBLE = 8  # bytes


class Size(NamedTuple):
    """The size of a problem: vectors of train with all views, numbers in each, and classes."""

    rows: int
    features: int
    classes: int


class Cost(NamedTuple):
    """What training a candidate is expected to take."""

    seconds: float
    bytes: float


@dataclass
class Competition:
    """What came of it.

    Attributes:
        candidates: all of them, the best first and those that were left out last.
        winner: params that name the winner.
        result: the winner.
        baseline: ridge regression on standardised features, if it was among the candidates.
        seconds: what each took, by its name.
    """

    candidates: list[Candidate]
    winner: Params
    result: TrainResult
    baseline: TrainResult | None
    seconds: dict[str, float]

    def write(self) -> None:
        """Writes the table of candidates beside the head, and the seconds where nothing depends on them."""
        files.write_json(paths.CANDIDATES, list(map(asdict, self.candidates)), indent=1)
        digest = hashlib.sha256(paths.CANDIDATES.read_bytes()).hexdigest()
        files.write_json(paths.TIMINGS / paths.CANDIDATES.name, {"of": digest, "seconds": self.seconds})


def compete(data: HeadData, params: Params, device: torch.device) -> Competition:
    """Trains every candidate that fits; the best has the highest validation accuracy, and ties go to the simpler.

    Simpler is the head that comes first in the registry, then the normalisation that comes first in NORMALIZATIONS.

    Raises:
        UserError: no candidate could be trained.
    """
    heads, seconds = HEADS[params.head].candidates, dict[str, float]()
    rows, best, baseline, reasons = list[Candidate](), None, None, left_out(data, params, device)
    for normalize in NORMALIZATIONS:
        shared = dict[str, Normalized]()
        for head in heads:
            named = with_overrides(params, {"head": head, "normalize": normalize})
            started = time.perf_counter()
            row, result = _train(named, data, device, shared=shared, reason=reasons.get(head, ""))
            rows.append(row)
            if result is None:
                continue
            seconds[row.name] = round(time.perf_counter() - started, 2)
            if best is None or _key(row, heads) < best[0]:
                best = _key(row, heads), named, result
            if (head, normalize) == ("ridge", "standardize"):
                baseline = result
    rows.sort(key=lambda row: _key(row, heads))
    if best is None:
        why = "; ".join(f"{row.name}: {row.left_out}" for row in rows)
        raise UserError(f"No candidate of head {params.head} could be trained ({why}).")
    return Competition(rows, best[1], best[2], baseline, seconds)


def _train(
    params: Params, data: HeadData, device: torch.device, *, shared: dict[str, Normalized], reason: str
) -> tuple[Candidate, TrainResult | None]:
    """A candidate as its params name it, with its scores; no result if it is left out, for a reason or a failure."""
    try:
        if reason:
            raise UserError(reason)
        if HEADS[params.head].closed_form:
            result = closed_form.fit(params.head, data, params=params, device=device, shared=shared)
        else:
            result = loop.fit(params.head, data, params=learning_rate.resolve(params)[0], device=device)
    except (UserError, torch.linalg.LinAlgError) as error:  # type: ignore[attr-defined]
        return Candidate(params.head, params.normalize, left_out=str(error).rstrip(".")), None
    epoch = result.history[result.best_epoch - 1]
    return Candidate(params.head, params.normalize, epoch.val_accuracy, epoch.val_loss), result


def _key(row: Candidate, heads: tuple[str, ...]) -> tuple[float, int, int]:
    """What candidates are ordered by: accuracy, then simplicity."""
    accuracy = -1.0 if row.val_accuracy is None else row.val_accuracy
    return -accuracy, heads.index(row.head), NORMALIZATIONS.index(row.normalize)


def left_out(data: HeadData, params: Params, device: torch.device) -> dict[str, str]:
    """Why heads are left out that would take too long or too much memory; never all of them."""
    images, views = data.splits["train"].x.shape[:2]
    features = data.shape[-1] if len(data.shape) == 2 else data.shape[0]  # tokens (T, D); else (D,) or maps (D, H, W)
    size = Size(images * views, features, len(data.classes))
    costs = {head: cost(head, size, params=params, device=device) for head in HEADS[params.head].candidates}
    reasons = {head: reason for head, expected in costs.items() if (reason := too_much(expected))}
    if len(reasons) == len(costs):  # the quickest of those that fit into memory remains
        del reasons[min(costs, key=lambda head: (costs[head].bytes > mapped.room(), costs[head].seconds))]
    return reasons


def too_much(expected: Cost) -> str:
    """Why a candidate with these costs is left out; empty if it is not."""
    if expected.bytes > mapped.room():
        return f"it needs about {expected.bytes / 1e9:,.0f} GB of memory, and {mapped.room() / 1e9:,.0f} GB are allowed"
    if expected.seconds > SECONDS:
        return f"it is expected to take {expected.seconds:,.0f} seconds, and {SECONDS:g} are allowed"
    return ""


def cost(head: str, size: Size, *, params: Params, device: torch.device) -> Cost:
    """What a candidate is expected to take, from the sizes of its matrices alone: the same on every run.

    Args:
        head: one of the candidates.
        size: of the train split.
        params: the layers and epochs of a head that trains in epochs.
        device: where it is computed.
    """
    rows, features, classes = size
    speed = SPEEDS.get(device.type, GPU_SPEED)
    if not HEADS[head].closed_form:
        weights = params.hidden * (features + classes)
        passes = params.epochs * rows * weights * 6 / (2 * speed)  # in float32, forward and backward
        return Cost(passes + STEP * params.epochs * rows / params.batch_size, 16 * weights)
    side = min(rows, features)
    gram = 2 * rows * features * side
    operations: float
    if head == "logistic":
        operations = gram + 10 * side**3 + EVALUATIONS * 4 * rows * side * classes
        numbers = 3 * rows * features + 5 * rows * classes + (2 * 10 + 5) * side * classes + 3 * side**2
    else:
        products = 2 * rows * features * classes * (SOLVES if rows < features else 1)
        operations = gram + products + SOLVES * (side**3 / 3 + 2 * classes * side**2)
        numbers = 3 * rows * features + 2 * rows * classes + 4 * features * classes + 3 * side**2
        if head == "lda" and rows < features:
            numbers += 3 * rows**2
    return Cost(operations / speed, DOUBLE * numbers)
