"""`head: auto`: candidates are what their names give, validation takes the best, what does not fit is left out."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from stages import train
from stages.errors import UserError
from stages.heads.registry import HEADS, head_with_rate
from stages.params import with_overrides
from stages.training import candidates, closed_form, loop
from stages.training.candidates import NORMALIZATIONS, Size
from stages.training.data import HeadData, SplitData
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
        for module in (closed_form, loop):
            patch.setattr(module, "fit", recorded(module.fit))
        competition = candidates.compete(data, chosen, CPU)
    assert len(results) == len(competition.candidates) == 16
    for row in competition.candidates:
        named = train.fit(data, with_overrides(chosen, {"head": row.head, "normalize": row.normalize}), CPU)
        result = results[row.head, row.normalize]
        assert result.module.state_dict().keys() == named.module.state_dict().keys()
        for name, tensor in named.module.state_dict().items():
            assert torch.equal(result.module.state_dict()[name], tensor), (row, name)
        assert replace(result, module=named.module) == named


def test_the_best_on_validation_is_taken_and_ties_go_to_the_simpler(workplace: Path, params: Make) -> None:
    competition = candidates.compete(toy(), params(**SMALL), CPU)
    accuracies = [row.val_accuracy or 0.0 for row in competition.candidates]
    assert accuracies == sorted(accuracies, reverse=True) and len({*accuracies}) > 1
    first = competition.candidates[0]
    assert (competition.winner.head, competition.winner.normalize) == (first.head, first.normalize)
    assert competition.result.history[competition.result.best_epoch - 1].val_accuracy == first.val_accuracy
    easy = candidates.compete(toy(noise=0.01), params(**SMALL, lr=0.1), CPU)
    level = [(row.head, row.normalize) for row in easy.candidates if row.val_accuracy == 1]
    simplest_first = [(head, normalize) for head in HEADS["auto"].candidates for normalize in NORMALIZATIONS]
    assert level[0] == ("ridge", "none") and len(level) > 4
    assert level == [pair for pair in simplest_first if pair in level]


def test_the_baseline_is_the_candidate_of_that_name(workplace: Path, params: Make) -> None:
    data, chosen = toy(), params(**SMALL)
    competition = candidates.compete(data, chosen, CPU)
    baseline = train.ridge_baseline(competition.result, data=data, params=competition.winner, device=CPU)
    assert competition.baseline is not None and competition.baseline.notes == baseline.notes
    for name, tensor in baseline.module.state_dict().items():
        assert torch.equal(competition.baseline.module.state_dict()[name], tensor)


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
    costs = {head: candidates.cost(head, size, params=chosen, device=CPU) for head in HEADS["auto"].candidates}
    assert {head for head, cost in costs.items() if cost.seconds > candidates.SECONDS} == left, costs


@pytest.mark.parametrize(("room", "seconds"), [(1000, 60.0), (1 << 40, 1e-9)], ids=["memory", "time"])
def test_one_candidate_always_remains(
    workplace: Path, params: Make, monkeypatch: pytest.MonkeyPatch, room: int, seconds: float
) -> None:
    monkeypatch.setattr(candidates.mapped, "room", lambda: room)
    monkeypatch.setattr(candidates, "SECONDS", seconds)
    rows = candidates.compete(toy(), params(**SMALL), CPU).candidates
    trained = [row for row in rows if not row.left_out]
    assert len({row.head for row in trained}) == 1 and len(trained) == len(NORMALIZATIONS)
    message = "GB of memory" if room == 1000 else "expected to take"
    assert rows[: len(trained)] == trained and all(message in row.left_out for row in rows[len(trained) :])


def test_it_says_so_when_nothing_could_be_trained(
    workplace: Path, params: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> TrainResult:
        raise UserError("no.")

    for module in (closed_form, loop):
        monkeypatch.setattr(module, "fit", fail)
    with pytest.raises(UserError, match=r"No candidate of head auto could be trained \(ridge with normalize=none: no;"):
        candidates.compete(toy(), params(**SMALL), CPU)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"refit": "trainval"}, r"`refit` trainval needs a head that trains in epochs.*set refit=none, or head=mlp"),
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
