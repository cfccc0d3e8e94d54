"""Gradient descent: it learns, it repeats itself bit for bit, and it keeps the epoch that the monitor likes best."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from stages.errors import UserError
from stages.heads import linear
from stages.training import loop
from stages.training.data import HeadData, SplitData
from stages.training.model import FeatureNormalization, HeadModel, TrainResult
from stages.training.tasks import ClassificationTask, EpochScores, Task

CPU = torch.device("cpu")
Make = Callable[..., Any]
FEATURES = {"cut": "pooled", "backbone": "squeezenet1_1", "image_size": 64, "weights": "random"}


def toy(noise: float = 0.3, train: int = 60, val: int = 30, seed: int = 0) -> HeadData:
    """Three classes in eight dimensions; with little noise they are separable."""
    generator = torch.Generator().manual_seed(seed)
    centres = 6 * torch.nn.functional.one_hot(torch.arange(3), 8).float()

    def split(count: int) -> SplitData:
        y = torch.arange(count) % 3
        x = centres[y] + noise * torch.randn(count, 8, generator=generator)
        return SplitData(x[:, None], y, list(range(count)))

    return HeadData(["a", "b", "c"], {"train": split(train), "val": split(val), "test": split(3)}, FEATURES)


@pytest.fixture
def turned(workplace: Any, params: Make) -> Make:
    """Params for the toy set with some knobs turned."""

    def make(**overrides: Any) -> Any:
        plain = {"head": "linear", "epochs": 12, "batch_size": 16, "lr": 0.05, "hidden": 16, "weight_decay": 0.0}
        return params(**(plain | {"early_stopping_patience": 100} | overrides))

    return make


def fit(chosen: Any, data: HeadData | None = None) -> TrainResult:
    return loop.fit(chosen.head, data or toy(), params=chosen, device=CPU)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "plateau"])
@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_every_way_learns_a_separable_set(turned: Make, head: str, optimizer: str, schedule: str) -> None:
    result = fit(turned(head=head, optimizer=optimizer, schedule=schedule))
    assert max(epoch.val_accuracy for epoch in result.history) == 1
    assert result.history[-1].train_loss < 0.5 * result.history[0].train_loss
    assert not result.module.training


def test_twice_is_bit_identical_and_the_seed_matters(turned: Make) -> None:
    torch.manual_seed(1)
    first = fit(turned(head="mlp"))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = fit(turned(head="mlp"))
    assert torch.equal(torch.get_rng_state(), state)  # and leaves the random state alone
    assert first.history == second.history
    for name, tensor in first.module.state_dict().items():
        assert torch.equal(tensor, second.module.state_dict()[name])
    assert fit(turned(head="mlp", seed=1)).history != first.history


def test_short_steps_take_one_thread(turned: Make) -> None:
    params, several = turned(head="linear"), max(2, torch.get_num_threads())
    module, _ = loop.start("linear", toy(), train=toy().splits["train"], params=params, device=CPU)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: several)
        assert loop.step_threads(module, 64) == 1
        assert loop.step_threads(module, loop.SHORT) == several


@pytest.mark.parametrize("monitor", ["val_loss", "val_accuracy"])
def test_the_best_epoch_is_kept(turned: Make, monkeypatch: pytest.MonkeyPatch, monitor: str) -> None:
    losses = [0.9, 0.5, 0.7, 0.4, 0.6, 0.8]
    accuracies = [0.5, 0.8, 0.9, 0.7, 0.9, 0.9]
    epoch_scores = map(EpochScores, losses, accuracies)
    states: list[dict[str, torch.Tensor]] = []

    def evaluate(module: HeadModel, split: SplitData, task: Task) -> EpochScores:
        states.append({name: tensor.clone() for name, tensor in module.head.state_dict().items()})
        return next(epoch_scores)

    monkeypatch.setattr(loop, "evaluate", evaluate)
    result = fit(turned(epochs=6, monitor=monitor))
    # of the accuracies 0.9 in epochs 3, 5 and 6 the one with the lowest loss
    assert result.best_epoch == {"val_loss": 4, "val_accuracy": 5}[monitor]
    assert [epoch.val_loss for epoch in result.history] == losses
    for name, tensor in result.module.head.state_dict().items():
        assert torch.equal(tensor, states[result.best_epoch - 1][name])
    assert not torch.equal(states[-1]["weight"], states[result.best_epoch - 1]["weight"])


def test_it_stops_early(turned: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    epoch_scores = map(EpochScores, [0.9, 0.5, 0.6, 0.6, 0.6, 0.1], [0.1, 0.1, 0.1, 0.1, 0.1, 0.9])
    monkeypatch.setattr(loop, "evaluate", lambda module, split, task: next(epoch_scores))
    result = fit(turned(epochs=50, early_stopping_patience=3))
    assert len(result.history) == 5  # three epochs without a better one than the second
    assert result.best_epoch == 2


def test_plateau_lowers_the_rate(turned: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "evaluate", lambda module, split, task: EpochScores(1.0, 0.5))
    chosen = turned(epochs=8, schedule="plateau", plateau_factor=0.5, plateau_patience=2, lr=0.08)
    rates = [epoch.lr for epoch in fit(chosen).history]
    assert rates == pytest.approx([0.08, 0.08, 0.08, 0.08, 0.04, 0.04, 0.04, 0.02])


def test_cosine_falls_to_zero_over_all_steps(turned: Make) -> None:
    rates = [epoch.lr for epoch in fit(turned(epochs=4, schedule="cosine", lr=0.1)).history]
    assert rates == pytest.approx([0.1, 0.08535534, 0.05, 0.01464466])


def test_constant_stays(turned: Make) -> None:
    assert {epoch.lr for epoch in fit(turned(epochs=9, schedule="constant", lr=0.03)).history} == {0.03}


def test_knobs_reach_the_optimizer(turned: Make) -> None:
    first, second = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    for name, kind in (("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)):
        chosen = turned(optimizer=name, weight_decay=0.125, momentum=0.75)
        rates = [{"params": [first.weight], "lr": 0.25}, {"params": [second.weight], "lr": 0.5}]
        optimizer = loop.make_optimizer(rates, chosen)
        assert isinstance(optimizer, kind)
        for group, weight, lr in zip(optimizer.param_groups, (first.weight, second.weight), (0.25, 0.5), strict=True):
            assert (group["lr"], group["weight_decay"]) == (lr, 0.125)
            assert group.get("momentum", 0.75) == 0.75
            assert group["params"] == [weight]


def test_the_losses_of_the_first_epoch(turned: Make) -> None:
    """With a rate of next to nothing the loss of training is the cross-entropy of the first weights."""
    data = toy()
    result = fit(turned(lr=1e-12, epochs=1, schedule="constant"), data)
    task = ClassificationTask(turned(), None)
    scores = task.evaluate(result.module, data.splits["train"])
    assert result.history[0].train_loss == pytest.approx(scores.loss, rel=1e-5)
    assert result.history[0].train_accuracy == pytest.approx(scores.accuracy)
    assert result.history[0].val_loss == pytest.approx(task.evaluate(result.module, data.splits["val"]).loss, rel=1e-5)


def test_label_smoothing_is_in_the_training_loss_alone(turned: Make) -> None:
    plain, smooth = (fit(turned(lr=1e-12, epochs=1, label_smoothing=share)) for share in (0.0, 0.5))
    assert plain.history[0].val_loss == pytest.approx(smooth.history[0].val_loss, rel=1e-6)
    assert plain.history[0].train_loss != pytest.approx(smooth.history[0].train_loss, rel=1e-3)


def test_a_loss_that_is_not_finite_names_the_rate(turned: Make) -> None:
    with pytest.raises(UserError, match=r"The loss is not finite in epoch \d+: try a smaller `lr` \(now 1e\+30\)"):
        fit(turned(head="mlp", optimizer="sgd", lr=1e30, schedule="constant"))


def test_the_test_part_plays_no_part(turned: Make) -> None:
    data = toy()
    other = HeadData(
        data.classes, data.splits | {"test": SplitData(torch.zeros(0, 1, 8), torch.zeros(0).long(), [])}, FEATURES
    )
    assert fit(turned(), data).history == fit(turned(), other).history


def test_a_last_batch_of_one(turned: Make) -> None:
    assert fit(turned(batch_size=59, head="mlp", epochs=20)).history[-1].val_accuracy == 1


def test_judge_counts_by_hand(turned: Make) -> None:
    x = torch.tensor([[[2.0, 0.0]], [[0.0, 1.0]], [[1.0, 0.0]]])
    split = SplitData(x, torch.tensor([0, 1, 1]), [0, 1, 2])
    whole = HeadModel(torch.nn.Identity(), FeatureNormalization(2), shape=(2,), takes="vector", precision="float32")
    scores = ClassificationTask(turned(), None).evaluate(whole, split)
    assert scores.accuracy == pytest.approx(2 / 3)
    assert scores.loss == pytest.approx((0.126928 + 0.313262 + 1.313262) / 3, rel=1e-5)


# --- several views


def viewed(views: int, carrier: int, seed: int = 0) -> HeadData:
    """The toy set in which one view carries the class, in train; all others are the same for every class."""
    made = {}
    for name, split in toy(seed=seed).splits.items():
        x = torch.zeros(len(split.y), views, 8)
        x[:, carrier] = split.evaluation_vectors
        made[name] = SplitData(x if name == "train" else split.x.expand(-1, views, -1), split.y, split.index_positions)
    return HeadData(["a", "b", "c"], made, FEATURES)


@pytest.mark.parametrize("carrier", [0, 1, 2])
def test_every_view_is_drawn(turned: Make, carrier: int) -> None:
    result = fit(turned(epochs=30), viewed(3, carrier))
    assert max(epoch.val_accuracy for epoch in result.history) == 1  # learned from one view in three
    assert max(epoch.train_accuracy for epoch in result.history) < 0.8  # and trained on the others too


def test_each_image_is_drawn_once_an_epoch_in_a_view_of_its_own(turned: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Features that say which image and view they are of."""
    images, views, seen = 50, 4, list[torch.Tensor]()
    x = torch.stack(torch.meshgrid(torch.arange(images), torch.arange(views), indexing="ij"), 2).float()
    train = SplitData(x, torch.arange(images) % 3, list(range(images)))

    class Spy(torch.nn.Linear):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            if self.training:
                seen.append(batch.clone())
            return super().forward(batch)

    data = HeadData(["a", "b", "c"], {"train": train, "val": train, "test": train}, FEATURES)
    chosen = turned(epochs=40, normalize="none", lr=1e-9)
    monkeypatch.setattr(linear, "build", lambda shape, classes, knobs: Spy(shape[0], classes))
    fit(chosen, data)
    rows = torch.cat(seen).reshape(40, images, 2)
    assert all(sorted(epoch[:, 0].tolist()) == list(range(images)) for epoch in rows)
    drawn = torch.stack([epoch[epoch[:, 0].argsort(), 1] for epoch in rows])  # epochs x images
    counts = torch.bincount(drawn.flatten().long(), minlength=views) / drawn.numel()
    assert counts.tolist() == pytest.approx([1 / views] * views, abs=0.05)
    assert all(len(epoch.unique()) == views for epoch in drawn)  # images do not share a draw
    assert all(len(image.unique()) > 1 for image in drawn.T)  # nor do epochs


def test_training_with_views_is_bit_identical_twice(turned: Make) -> None:
    generator = torch.Generator().manual_seed(5)
    plain = toy(noise=2.0)
    x = plain.splits["train"].x + torch.randn(60, 4, 8, generator=generator)
    data = HeadData(
        plain.classes, plain.splits | {"train": SplitData(x, plain.splits["train"].y, list(range(60)))}, FEATURES
    )
    torch.manual_seed(1)
    first = fit(turned(head="mlp"), data)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = fit(turned(head="mlp"), data)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.history == second.history
    for name, tensor in first.module.state_dict().items():
        assert torch.equal(tensor, second.module.state_dict()[name])
    assert fit(turned(head="mlp", seed=1), data).history != first.history


def test_with_one_view_nothing_is_drawn(turned: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = fit(turned(head="mlp"))

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("drawn")

    monkeypatch.setattr(torch, "randint", refuse)
    assert fit(turned(head="mlp")).history == expected.history
    with pytest.raises(AssertionError, match="drawn"):
        fit(turned(head="mlp"), viewed(2, 0))


def test_standardisation_is_of_all_views(turned: Make) -> None:
    x = torch.randn(60, 3, 8, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 5, 9])[:, None] + 2
    plain = toy()
    data = HeadData(
        plain.classes, plain.splits | {"train": SplitData(x, plain.splits["train"].y, list(range(60)))}, FEATURES
    )
    result = fit(turned(epochs=1), data)
    torch.testing.assert_close(result.module.standardize.mean, x.flatten(0, 1).mean(0))


def test_validation_sees_the_evaluation_view_alone(turned: Make) -> None:
    plain = toy()
    val = plain.splits["val"]
    noisy = torch.cat([val.x, torch.full((len(val.y), 2, 8), 1e3)], 1)
    other = HeadData(plain.classes, plain.splits | {"val": SplitData(noisy, val.y, val.index_positions)}, FEATURES)
    assert fit(turned(), other).history == fit(turned(), plain).history
