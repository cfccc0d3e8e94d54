"""`head: auto`: candidates are what their names give, validation takes the best, what does not fit is left out."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from stages import paths, train
from stages.errors import UserError
from stages.heads.registry import HEADS, head_with_rate
from stages.params import with_overrides
from stages.training import candidates, closed_form, loop
from stages.training.candidates import Size
from stages.training.data import HeadData, SplitData
from stages.training.history import LEVEL, LOSS_LEVEL, Epoch
from stages.training.model import TrainResult

CPU = torch.device("cpu")
Make = Callable[..., Any]
FEATURES = {"cut": "pooled", "backbone": "squeezenet1_1", "image_size": 64, "weights": "random"}
SMALL: dict[str, Any] = {"head": "auto", "epochs": 2, "hidden": 6, "batch_size": 16}


def toy(columns: int = 6, noise: float = 2.0, train: int = 48) -> HeadData:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(3, columns, generator=generator)

    def split(count: int) -> SplitData:
        y = torch.arange(count) % 3
        x = centres[y] + noise * torch.randn(count, columns, generator=generator)
        return SplitData((5 + 3 * x)[:, None], y, list(range(count)))

    return HeadData(["a", "b", "c"], {"train": split(train), "val": split(30), "test": split(9)}, FEATURES)


@pytest.mark.parametrize("columns", [6, 70], ids=["primal", "dual"])
def test_every_candidate_is_what_its_name_gives_bit_for_bit(
    workplace: Path, params: Make, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    data, chosen, results = toy(columns), params(**SMALL), dict[tuple[str, str], TrainResult]()

    def recorded(fit: Make) -> Make:
        def record(head: str, data: HeadData, *, params: Any, **options: Any) -> TrainResult:
            result: TrainResult = fit(head, data, params=params, **options)
            return results.setdefault((head, params.normalize), result)

        return record

    with monkeypatch.context() as patch:
        patch.setattr(loop, "HOPELESS_ERRORS", math.inf)
        for module in (closed_form, loop):
            patch.setattr(module, "fit", recorded(module.fit))
        competition = candidates.compete(data, chosen, CPU)
    assert len(results) == len(competition.candidates) == len(HEADS["auto"].candidates)
    for row in competition.candidates:
        named = train.fit(data, with_overrides(chosen, {"head": row.head, "normalize": row.normalize}), CPU)
        result = results[row.head, row.normalize]
        assert result.module.state_dict().keys() == named.module.state_dict().keys()
        for name, tensor in named.module.state_dict().items():
            assert torch.equal(result.module.state_dict()[name], tensor), (row, name)
        assert replace(result, module=named.module) == named


def test_the_best_on_validation_is_taken_and_ties_go_to_the_simpler(workplace: Path, params: Make) -> None:
    competition = candidates.compete(toy(), params(**SMALL), CPU)
    first, *others = [row for row in competition.candidates if not row.left_out]
    accuracies = [row.val_accuracy or 0.0 for row in others]
    assert accuracies == sorted(accuracies, reverse=True) and len({*accuracies}) > 1
    level = [row for row in others if (row.val_accuracy or 0.0) >= max(accuracies) - LEVEL]
    assert level and all((row.val_loss or 0.0) * (1 + LOSS_LEVEL) >= (first.val_loss or 0.0) for row in level)
    assert (first.val_accuracy or 0.0) >= max(accuracies) - LEVEL
    assert (competition.winner.head, competition.winner.normalize) == (first.head, first.normalize)
    assert competition.result.history[competition.result.best_epoch - 1].val_accuracy == first.val_accuracy


def test_of_equal_candidates_the_simplest_is_taken(
    workplace: Path, params: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    always = TrainResult(torch.nn.Identity(), [Epoch(1, 1, None, 0.1, 0.1, 1.0, 1.0)], 1, {})  # type: ignore[arg-type]
    monkeypatch.setattr(candidates, "fit", lambda *_, **__: always)
    rows = candidates.compete(toy(), params(**SMALL), CPU).candidates
    assert (rows[0].head, rows[0].normalize) == HEADS["auto"].candidates[0] == ("ridge", "none")


def test_the_baseline_is_the_candidate_of_that_name(workplace: Path, params: Make) -> None:
    data, chosen = toy(), params(**SMALL)
    competition = candidates.compete(data, chosen, CPU)
    baseline = train.ridge_baseline(None, data=data, params=competition.winner, device=CPU)
    assert competition.baseline and baseline and competition.baseline.notes == baseline.notes
    for name, tensor in baseline.module.state_dict().items():
        assert torch.equal(competition.baseline.module.state_dict()[name], tensor)


def test_training_that_is_far_behind_is_given_up_after_a_third_of_its_epochs(
    workplace: Path, params: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = params(**SMALL | {"epochs": 9, "lr": 1e-7, "early_stopping_patience": 9})
    rows = candidates.compete(toy(noise=0.01), slow, CPU).candidates
    (given_up,) = [row for row in rows if row.left_out]
    assert given_up.head == "mlp" and given_up.left_out.startswith("After 3 of 9 epochs")
    assert not list((paths.store() / "train").glob("*.pt"))
    named = loop.fit("mlp", toy(noise=0.01), params=with_overrides(slow, {"head": "mlp"}), device=CPU)
    assert len(named.history) == 9


def test_a_candidate_that_diverges_is_left_out_with_the_reason(workplace: Path, params: Make) -> None:
    competition = candidates.compete(toy(), params(**SMALL, lr=1e30, optimizer="sgd"), CPU)
    reasons = {(row.head, row.left_out) for row in competition.candidates if row.left_out}
    assert {head for head, _ in reasons} == {"mlp"} and all("`lr` (now 1e+30)" in reason for _, reason in reasons)
    assert competition.winner.head != "mlp"


@pytest.mark.parametrize(
    ("size", "left"),
    [
        (Size(660, 1280, 33), set()),  # the built-in logos
        (Size(4571, 1280, 102), set()),  # Caltech-101
        (Size(20_000, 1280, 10_000), {"logistic", "mlp"}),
        (Size(300_000, 1280, 10), {"logistic", "mlp"}),
    ],
)
def test_what_would_take_more_than_a_minute_is_left_out(params: Make, size: Size, left: set[str]) -> None:
    chosen = params()
    costs = {head: candidates.cost(head, size, params=chosen, device=CPU) for head in HEADS["auto"].candidate_heads}
    assert {head for head, cost in costs.items() if cost.seconds > candidates.SECONDS} == left, costs


@pytest.mark.parametrize(("room", "seconds"), [(1000, 60.0), (1 << 40, 1e-9)], ids=["memory", "time"])
def test_one_candidate_always_remains(
    workplace: Path, params: Make, monkeypatch: pytest.MonkeyPatch, room: int, seconds: float
) -> None:
    monkeypatch.setattr(candidates.mapped, "room", lambda: room)
    monkeypatch.setattr(candidates, "SECONDS", seconds)
    rows = candidates.compete(toy(), params(**SMALL), CPU).candidates
    trained = [row for row in rows if not row.left_out]
    assert len({row.head for row in trained}) == 1
    message = "GB of memory" if room == 1000 else "expected to take"
    assert rows[: len(trained)] == trained and all(message in row.left_out for row in rows[len(trained) :])


def test_it_says_so_when_nothing_could_be_trained(
    workplace: Path, params: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> TrainResult:
        raise UserError("no.")

    for module in (closed_form, loop):
        monkeypatch.setattr(module, "fit", fail)
    with pytest.raises(UserError, match=r"No candidate of head auto .*ridge with normalize=none: no;"):
        candidates.compete(toy(), params(**SMALL), CPU)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"class_weights": "balanced"}, r"`class_weights` balanced needs .*set class_weights=none, or head=mlp"),
        ({"cut": "layer3", "tap": "pooled"}, r"`head` auto compares heads on vectors .*take tap=same"),
        ({"cut": "input"}, r"`head` auto compares heads on vectors .*take tap=same"),
        ({"cut": "pyramid"}, r"`head` auto takes a vector"),
        ({"monitor": "val_map_50"}, r"`monitor` val_map_50 needs a head that finds objects"),
    ],
)
def test_what_has_no_meaning_before_the_head_is_chosen_is_refused(
    params: Make, knobs: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        params(head="auto", **knobs)


def test_the_learning_rate_is_of_the_one_that_trains_in_epochs() -> None:
    assert head_with_rate("auto") == "mlp"
    assert head_with_rate("ridge") == "ridge" and head_with_rate("linear") == "linear"


def test_what_a_named_head_takes_is_said_before_it_starts_where_that_is_much(
    params: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for head in ("ridge", "lda", "logistic", "knn"):
        assert not candidates.beforehand(toy(), params(head=head), CPU)
    monkeypatch.setattr(candidates, "size", lambda data: Size(500_000, 1280, 100, True, 48_000))
    logistic, knn = (candidates.beforehand(toy(), params(head=head), CPU) for head in ("logistic", "knn"))
    assert logistic == "head=logistic is expected to take 17 GB of memory and 44 minutes on this many images"
    assert knn == "head=knn is expected to take 9 GB of memory and 314 minutes on this many images"


def test_heads_that_stream_take_no_memory_for_each_row(params: Make) -> None:
    small, large = (
        {head: candidates.cost(head, Size(rows, 1280, 100, True, 40_000), params=params(), device=CPU)
         for head in ("ridge", "lda", "logistic")}
        for rows in (100_000, 1_000_000)
    )  # fmt: skip
    for head in ("ridge", "lda"):
        assert small[head].bytes == large[head].bytes < 4e9 and small[head].seconds < large[head].seconds
    assert large["logistic"].bytes > 9 * small["logistic"].bytes
