"""`head: auto`: several heads with several normalisations compete on validation; the best is kept as if named.

Each candidate is what `-S head=NAME -S normalize=…` gives, bit for bit: they share only what is computed before the
heads differ, the normalised features and their Gram matrix. A head that trains in epochs comes last, and is given up
early where it is far behind.
"""

import hashlib
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from stages import files, paths
from stages.errors import UserError
from stages.heads.knn import COUNTS
from stages.heads.registry import HEADS, Normalize
from stages.metrics.multilabel import binary_cross_entropy
from stages.params import Params, with_overrides
from stages.training import closed_form, learning_rate, loop, mapped
from stages.training.closed_form import Normalized
from stages.training.data import HeadData, SplitData
from stages.training.history import LOSS_LEVEL, Candidate, choose
from stages.training.mapped import MappedFeatures
from stages.training.model import TrainResult, logits

SECONDS = 60.0  # a candidate that is expected to take longer is left out
SPEEDS = {"cpu": 3e10}  # float64 operations per second of two cores; a fixed number, so that the choice is one as well
GPU_SPEED = 3e11
SOLVES = 11  # of a path of strengths
SCALING = 2500  # operations that the choice of a scale takes for each score of a solution: it is a dozen exponentials
EVALUATIONS = 300  # of the loss by L-BFGS over all strengths, in float64; float32 takes twice as many, twice as fast
STEP = 5e-4  # seconds that a step of gradient descent takes beside its operations
DOUBLE = 8  # bytes
LARGE = 4e9  # bytes from which on it is said beforehand what a head takes


class Size(NamedTuple):
    """The size of a problem.

    Attributes:
        rows: vectors of train, with all views.
        features: numbers in each.
        classes: how many.
        on_disk: whether heads that can do so leave them there.
        choosing: images of val that choose among solutions.
    """

    rows: int
    features: int
    classes: int
    on_disk: bool = False
    choosing: int = 0


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
        baseline: ridge regression with the normalisation of the winner, unless it was left out.
        seconds: what each took, by its name.
    """

    candidates: list[Candidate]
    winner: Params
    result: TrainResult
    baseline: TrainResult | None
    seconds: dict[str, float]

    def write(self, folder: Path) -> None:
        """Writes the table of candidates into the folder of the head, and the seconds where nothing depends on them."""
        table = folder / paths.CANDIDATES.name
        files.write_json(table, list(map(asdict, self.candidates)), indent=1)
        digest = hashlib.sha256(table.read_bytes()).hexdigest()
        files.write_json(paths.TIMINGS / paths.CANDIDATES.name, {"of": digest, "seconds": self.seconds})


class Tried(NamedTuple):
    """A candidate that was trained."""

    row: Candidate
    params: Params
    result: TrainResult


def compete(data: HeadData, params: Params, device: torch.device) -> Competition:
    """Trains every candidate that fits, and takes the simplest of those that are about level, see `history.choose`.

    Simpler is what comes first among the candidates in the registry.

    Raises:
        UserError: no candidate could be trained.
    """
    tried, others, seconds, shared = list[Tried](), list[Candidate](), dict[str, float](), dict[str, Normalized]()
    reasons = left_out(data, params, device)
    candidates = HEADS[params.head].candidates
    if data.multilabel:
        candidates = tuple(candidate for candidate in candidates if HEADS[candidate[0]].multilabel)
    for head, normalize in _in_order(candidates):
        shared = {name: vectors for name, vectors in shared.items() if name == normalize}
        named = with_overrides(params, {"head": head, "normalize": normalize})
        reach = max((row.choice or 0.0 for row, _, _ in tried), default=None)
        started = time.perf_counter()
        try:
            if head in reasons:
                raise UserError(reasons[head])
            result = fit(named, data, device, shared=shared, reach=reach)
        except (UserError, torch.linalg.LinAlgError) as error:  # type: ignore[attr-defined]
            others.append(Candidate(head, normalize, left_out=str(error).rstrip(".")))
            continue
        tried.append(Tried(_scored(head, normalize, result, data.splits["val"].to(device)), named, result))
        seconds[tried[-1].row.name] = round(time.perf_counter() - started, 2)
    if not tried:
        why = "; ".join(f"{row.name}: {row.left_out}" for row in others)
        raise UserError(f"No candidate of head {params.head} could be trained ({why}).")
    tried.sort(key=lambda candidate: _simplicity(candidate.row, params))
    scores = [(row.choice or 0.0, row.val_loss or 0.0) for row, _, _ in tried]
    best = tried.pop(choose(scores, LOSS_LEVEL))
    results = {(row.head, row.normalize): result for row, _, result in [best, *tried]}
    rest = sorted([row for row, _, _ in tried], key=lambda row: (-(row.choice or 0.0), row.val_loss))
    others.sort(key=lambda row: _simplicity(row, params))
    baseline = results.get(("ridge", best.row.normalize))
    return Competition([best.row, *rest, *others], best.params, best.result, baseline, seconds)


def _scored(head: str, normalize: str, result: TrainResult, val: SplitData) -> Candidate:
    """A candidate with its scores on validation; the loss of several labels is that of calibrated probabilities."""
    epoch = result.history[result.best_epoch - 1]
    if epoch.val_map is None:
        return Candidate(head, normalize, epoch.val_accuracy, epoch.val_loss)
    loss = binary_cross_entropy(logits(result.module, val), val.y)
    return Candidate(head, normalize, val_map=epoch.val_map, val_loss=loss)


def _in_order(candidates: tuple[tuple[str, Normalize], ...]) -> list[tuple[str, Normalize]]:
    """Those in closed form first, by their normalisation, so that what they share is computed once."""
    return sorted(candidates, key=lambda candidate: (not HEADS[candidate[0]].closed_form, candidate[1]))


def _simplicity(row: Candidate, params: Params) -> int:
    """The position in the registry: the simplest is 0."""
    return [*map(list, HEADS[params.head].candidates)].index([row.head, row.normalize])


def fit(
    params: Params, data: HeadData, device: torch.device, *, shared: dict[str, Normalized], reach: float | None
) -> TrainResult:
    """A candidate as its params name it.

    Args:
        params: `head`, `normalize` and the knobs of the head.
        data: train and val are read.
        device: where to train.
        shared: what candidates before it have computed.
        reach: the highest validation accuracy so far.

    Raises:
        UserError: it diverged, or was given up.
    """
    if HEADS[params.head].closed_form:
        return closed_form.fit(params.head, data, params=params, device=device, shared=shared)
    return loop.fit(params.head, data, params=learning_rate.resolve(params)[0], device=device, reach=reach)


def left_out(data: HeadData, params: Params, device: torch.device) -> dict[str, str]:
    """Why heads are left out that would take too long or too much memory; never all of them."""
    costs = {head: cost(head, size(data), params=params, device=device) for head in HEADS[params.head].candidate_heads}
    reasons = {head: reason for head, expected in costs.items() if (reason := too_much(expected))}
    if len(reasons) == len(costs):  # the quickest of those that fit into memory remains
        del reasons[min(costs, key=lambda head: (costs[head].bytes > mapped.room(), costs[head].seconds))]
    return reasons


def size(data: HeadData) -> Size:
    """The size of the problem that the train split is."""
    images, views = data.splits["train"].x.shape[:2]
    features, classes = closed_form.columns(data.shape), len(data.classes)
    read_in_blocks = isinstance(data.splits["train"].x, MappedFeatures) and not data.multilabel
    choosing = closed_form.choosing(len(data.splits["val"].y), features, classes)
    return Size(images * views, features, classes, read_in_blocks, choosing)


def too_much(expected: Cost) -> str:
    """Why a candidate with these costs is left out; empty if it is not."""
    if expected.bytes > mapped.room():
        return f"it needs about {expected.bytes / 1e9:,.0f} GB of memory, and {mapped.room() / 1e9:,.0f} GB are allowed"
    if expected.seconds > SECONDS:
        return f"it is expected to take {expected.seconds:,.0f} seconds, and {SECONDS:g} are allowed"
    return ""


def beforehand(data: HeadData, params: Params, device: torch.device) -> str:
    """What a head in closed form is expected to take, where that is much; empty where it is not."""
    expected = cost(params.head, size(data), params=params, device=device)
    if expected.bytes <= LARGE and expected.seconds <= SECONDS:
        return ""
    return (
        f"head={params.head} is expected to take {max(1, expected.bytes / 1e9):,.0f} GB of memory and "
        f"{max(1, expected.seconds / 60):,.0f} minutes on this many images"
    )


def cost(head: str, size: Size, *, params: Params, device: torch.device) -> Cost:
    """What a candidate is expected to take, from the sizes of its matrices alone: the same on every run.

    Args:
        head: one of the candidates.
        size: of the train split.
        params: the layers and epochs of a head that trains in epochs.
        device: where it is computed.
    """
    rows, features, classes, on_disk, choosing = size
    speed = SPEEDS.get(device.type, GPU_SPEED)
    if not HEADS[head].closed_form:
        weights = params.hidden * (features + classes)
        passes = params.epoch_count * rows * weights * 6 / (2 * speed)  # in float32, forward and backward
        return Cost(passes + STEP * params.epoch_count * rows / params.batch_size, 16 * weights)
    if head == "knn":  # train is compared with itself too, for its own accuracy; in float32, with a copy in float16
        compared = rows * (len(COUNTS) * choosing + rows)
        return Cost(2 * features * compared / (2 * speed), 14 * rows * features)
    side = min(rows, features)
    gram = 2 * rows * features * side
    operations: float
    if head == "logistic":
        operations = gram + 10 * side**3 + EVALUATIONS * 4 * rows * side * classes
        numbers = 3 * rows * features + 5 * rows * classes + (2 * 10 + 5) * side * classes + 3 * side**2
    else:
        products = 2 * rows * features * (SOLVES * classes if rows < features else 1)
        scores = choosing * classes * (3 * features + SCALING)  # in float64, and again in float32, twice as fast
        operations = gram + products + SOLVES * (side**3 / 3 + 2 * classes * side**2 + scores)
        numbers = 3 * rows * features + 4 * features * classes + 3 * side**2 + choosing * (2 * features + 4 * classes)
        if rows < features:
            numbers += 2 * rows * classes
        if head == "lda" and rows < features:
            numbers += 3 * rows**2
        if on_disk and rows >= features:  # the vectors are read block by block
            numbers -= 3 * rows * features
    return Cost(operations / speed, DOUBLE * numbers)
