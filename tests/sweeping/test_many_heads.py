"""Heads trained at once are the heads that training gives one by one."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages.params import Params
from stages.sweeping import many_heads
from stages.training import loop
from stages.training.data import HeadData, SplitData
from stages.training.mapped import MappedFeatures
from stages.training.model import TrainResult

CPU = torch.device("cpu")
Make = Callable[..., Params]
FEATURES = {"cut": "pooled", "backbone": "squeezenet1_1", "image_size": 64, "weights": "random"}


def toy(views: int = 1) -> HeadData:
    """Four classes that overlap, in ten dimensions of unlike scale, a last batch that is smaller than the others."""
    generator = torch.Generator().manual_seed(3)
    centres = torch.randn(4, 10, generator=generator)

    def split(count: int) -> SplitData:
        y = torch.arange(count) % 4
        x = centres[y][:, None] + torch.randn(count, views, 10, generator=generator)
        return SplitData(x * torch.arange(1, 11), y, list(range(count)))

    return HeadData(list("abcd"), {"train": split(70), "val": split(40), "test": split(4)}, FEATURES)


@pytest.fixture
def turned(workplace: Any, params: Callable[..., Params]) -> Make:
    """Params for the toy set with some knobs turned."""

    def make(**overrides: Any) -> Params:
        plain = {"epochs": 8, "batch_size": 16, "hidden": 12, "lr": 0.01, "early_stopping_patience": 100}
        return params(**(plain | overrides))

    return make


def varied(chosen: Params, **axes: list[float]) -> list[Params]:
    """The params with one value of each axis after the other."""
    count = len(next(iter(axes.values())))
    return [chosen.model_copy(update={name: axes[name][position] for name in axes}) for position in range(count)]


def assert_as_alone(settings: list[Params], data: HeadData) -> dict[int, TrainResult | None]:
    """Every head has the history, the best epoch and the weights of `train` with its settings."""
    actual = dict(many_heads.fit(settings[0].head, data, settings=settings, device=CPU))
    assert sorted(actual) == list(range(len(settings)))
    for position, params in enumerate(settings):
        alone, together = loop.fit(params.head, data, params=params, device=CPU), actual[position]
        assert together is not None and together.best_epoch == alone.best_epoch
        assert len(together.history) == len(alone.history)
        for epoch, other in zip(together.history, alone.history, strict=True):
            scores, others = ({key: value or 0.0 for key, value in vars(row).items()} for row in (epoch, other))
            assert scores == pytest.approx(others, rel=1e-4, abs=1e-6)
        assert not together.module.training
        for name, tensor in alone.module.state_dict().items():
            torch.testing.assert_close(together.module.state_dict()[name], tensor, rtol=1e-3, atol=1e-5)
    return actual


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_each_head_is_that_of_train(turned: Make, head: str, optimizer: str) -> None:
    chosen = turned(head=head, optimizer=optimizer, dropout=0.4)
    assert_as_alone(varied(chosen, lr=[0.001, 0.01, 0.02], weight_decay=[0.0, 0.1, 0.01]), toy())


@pytest.mark.parametrize(
    "knobs",
    [
        {"schedule": "constant"},
        {"schedule": "step", "step_size": 3},
        {"schedule": "restarts", "cycle_len": 2},
        {"schedule": "one_cycle"},
        {"schedule": "plateau", "plateau_patience": 0, "plateau_factor": 0.5, "optimizer": "sgd", "momentum": 0.0},
        {"warmup": 2},
        {"clip_grad": 0.05, "optimizer": "sgd"},
        {"class_weights": "balanced"},
        {"loss": "focal", "class_weights": "balanced"},
        {"normalize": "none"},
        {"monitor": "val_accuracy"},
    ],
    ids=lambda knobs: next(iter(knobs.items())).__str__(),
)
@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_each_head_is_that_of_train_with_any_knob(turned: Make, head: str, knobs: dict[str, Any]) -> None:
    settings = varied(turned(head=head, **knobs), lr=[0.002, 0.02], weight_decay=[0.1, 0.0])
    assert_as_alone(settings, toy())


def test_heads_of_other_chance_or_loss_train_in_stacks_of_their_own(turned: Make) -> None:
    settings = varied(
        turned(head="mlp"),
        lr=[0.01, 0.02, 0.01, 0.01, 0.02],
        dropout=[0.0, 0.0, 0.5, 0.0, 0.5],
        label_smoothing=[0.0, 0.0, 0.0, 0.2, 0.0],
        seed=[0, 7, 7, 7, 7],
    )
    assert_as_alone(settings, toy())


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_every_head_draws_the_views_that_train_draws(turned: Make, head: str) -> None:
    assert_as_alone(varied(turned(head=head, views=3), lr=[0.01, 0.02]), toy(views=3))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_head_that_stops_leaves_the_others_as_they_are(turned: Make, optimizer: str) -> None:
    chosen = turned(head="mlp", optimizer=optimizer, epochs=25, early_stopping_patience=2, schedule="constant")
    actual = assert_as_alone(varied(chosen, lr=[0.0005, 0.2, 0.05, 0.01], weight_decay=[0.0, 0.0, 0.1, 0.0]), toy())
    lengths = [len(head.history) for head in actual.values() if head]
    assert min(lengths) < max(lengths)


def test_a_head_that_diverges_is_none_and_leaves_the_others_as_they_are(turned: Make) -> None:
    chosen = turned(head="mlp", optimizer="sgd", schedule="constant")
    settings = varied(chosen, lr=[0.01, 1e30, 0.02])
    actual = dict(many_heads.fit("mlp", toy(), settings=settings, device=CPU))
    assert actual[1] is None
    left = assert_as_alone([settings[0], settings[2]], toy())
    for position, other in ((0, 0), (2, 1)):
        together, alone = actual[position], left[other]
        assert together is not None and alone is not None
        assert together.history[-1].val_loss == pytest.approx(alone.history[-1].val_loss, rel=1e-5)


def test_what_does_not_fit_in_memory_trains_in_turns(turned: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = varied(turned(head="mlp"), lr=[0.001, 0.002, 0.005, 0.01, 0.02])
    sizes = list[int]()
    train = many_heads._train

    def counted(head: str, data: HeadData, some: list[Params], device: torch.device) -> Any:
        sizes.append(len(some))
        return train(head, data, some, device)

    monkeypatch.setattr(many_heads, "_train", counted)
    monkeypatch.setattr(many_heads, "MAX_BYTES", 2 * many_heads.COPIES * 4 * (12 * 11 + 4 * 13))
    assert_as_alone(settings, toy())
    assert sizes == [2, 2, 1]


def test_the_random_state_and_the_threads_are_left_alone(turned: Make) -> None:
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    list(many_heads.fit("mlp", toy(), settings=varied(turned(head="mlp"), lr=[0.01, 0.02]), device=CPU))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_the_number_of_cores_does_not_matter(turned: Make) -> None:
    threads = torch.get_num_threads()
    try:
        for workers in (1, 3):
            torch.set_num_threads(workers)
            assert_as_alone(varied(turned(head="mlp"), lr=[0.001, 0.005, 0.01, 0.02]), toy())
    finally:
        torch.set_num_threads(threads)


def test_the_test_part_plays_no_part(turned: Make) -> None:
    data = toy()
    second = HeadData(data.classes, {name: split for name, split in data.splits.items() if name != "test"}, FEATURES)
    settings = varied(turned(head="linear"), lr=[0.01, 0.02])
    first, two = (dict(many_heads.fit("linear", some, settings=settings, device=CPU)) for some in (data, second))
    assert [head.history for head in first.values() if head] == [head.history for head in two.values() if head]


def test_vectors_on_the_disk_are_those_of_memory(turned: Make, tmp_path: Path) -> None:
    """A sweep of a large set loads what one head alone reads batch by batch."""
    data = toy(views=3)
    layers = {name: np.memmap(tmp_path / name, np.float32, "w+", shape=tuple(split.x.shape))
              for name, split in data.splits.items()}  # fmt: skip
    for name, layer in layers.items():
        layer[:] = data.splits[name].x  # type: ignore[assignment]
    mapped = {name: replace(split, x=MappedFeatures([layers[name]], list(range(len(split.y)))))
              for name, split in data.splits.items()}  # fmt: skip
    settings = varied(turned(head="linear", epochs=2), lr=[0.01, 0.1])
    memory, disk = (dict(many_heads.fit("linear", one, settings=settings, device=CPU))
                    for one in (data, replace(data, splits=mapped)))  # fmt: skip
    for first, second in zip(memory.values(), disk.values(), strict=True):
        assert first and second and first.history == second.history
