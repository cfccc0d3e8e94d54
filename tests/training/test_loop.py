"""Gradient descent: it learns, it repeats itself bit for bit, and it keeps the epoch that the monitor likes best."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from stages.errors import UserError
from stages.heads import linear, mlp
from stages.training import loop
from stages.training.data import Data, Part
from stages.training.fitted import Epoch, Fitted, as_row

CPU = torch.device("cpu")
Make = Callable[..., Any]


def toy(noise: float = 0.3, train: int = 60, val: int = 30, seed: int = 0) -> Data:
    """Three classes in eight dimensions; with little noise they are separable."""
    generator = torch.Generator().manual_seed(seed)
    centres = 6 * torch.nn.functional.one_hot(torch.arange(3), 8).float()

    def part(count: int) -> Part:
        y = torch.arange(count) % 3
        return Part(centres[y] + noise * torch.randn(count, 8, generator=generator), y, list(range(count)))

    return Data(["a", "b", "c"], {"train": part(train), "val": part(val), "test": part(3)}, {})


@pytest.fixture
def turned(workplace: Any, params: Make) -> Make:
    """Params for the toy set with some knobs turned."""

    def make(**overrides: Any) -> Any:
        plain = {"head": "linear", "epochs": 12, "batch_size": 16, "lr": 0.05, "hidden": 16, "weight_decay": 0.0}
        return params(**(plain | {"early_stopping_patience": 100} | overrides))

    return make


def fit(chosen: Any, data: Data | None = None) -> Fitted:
    return (mlp if chosen.head == "mlp" else linear).fit(data or toy(), chosen, CPU)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "plateau"])
@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_every_way_learns_a_separable_set(turned: Make, head: str, optimizer: str, schedule: str) -> None:
    found = fit(turned(head=head, optimizer=optimizer, schedule=schedule))
    assert max(epoch.val_accuracy for epoch in found.history) == 1
    assert found.history[-1].train_loss < 0.5 * found.history[0].train_loss
    assert not found.module.training


def test_twice_is_bit_identical_and_the_seed_matters(turned: Make) -> None:
    torch.manual_seed(1)
    one = fit(turned(head="mlp"))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    other = fit(turned(head="mlp"))
    assert torch.equal(torch.get_rng_state(), state)  # and leaves the random state alone
    assert one.history == other.history
    for name, tensor in one.module.state_dict().items():
        assert torch.equal(tensor, other.module.state_dict()[name])
    assert fit(turned(head="mlp", seed=1)).history != one.history


@pytest.mark.parametrize("monitor", ["val_loss", "val_accuracy"])
def test_the_best_epoch_is_kept(turned: Make, monkeypatch: pytest.MonkeyPatch, monitor: str) -> None:
    losses = [0.9, 0.5, 0.7, 0.4, 0.6, 0.8]
    accuracies = [0.5, 0.8, 0.9, 0.7, 0.9, 0.9]
    told = iter(zip(losses, accuracies, strict=True))
    states: list[dict[str, torch.Tensor]] = []

    def judge(module: torch.nn.Module, part: Part) -> tuple[float, float]:
        states.append({name: tensor.clone() for name, tensor in module.state_dict().items()})
        return next(told)

    monkeypatch.setattr(loop, "judge", judge)
    found = fit(turned(epochs=6, monitor=monitor))
    # of the accuracies 0.9 in epochs 3, 5 and 6 the one with the lowest loss
    assert found.best_epoch == {"val_loss": 4, "val_accuracy": 5}[monitor]
    assert [epoch.val_loss for epoch in found.history] == losses
    for name, tensor in found.module.state_dict().items():
        assert torch.equal(tensor, states[found.best_epoch - 1][name])
    assert not torch.equal(states[-1]["1.weight"], states[found.best_epoch - 1]["1.weight"])


def test_it_stops_early(turned: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    told = iter([(0.9, 0.1), (0.5, 0.1), (0.6, 0.1), (0.6, 0.1), (0.6, 0.1), (0.1, 0.9)])
    monkeypatch.setattr(loop, "judge", lambda module, part: next(told))
    found = fit(turned(epochs=50, early_stopping_patience=3))
    assert len(found.history) == 5  # three epochs without a better one than the second
    assert found.best_epoch == 2


def test_plateau_lowers_the_rate(turned: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "judge", lambda module, part: (1.0, 0.5))
    chosen = turned(epochs=8, schedule="plateau", plateau_factor=0.5, plateau_patience=2, lr=0.08)
    rates = [epoch.lr for epoch in fit(chosen).history]
    assert rates == pytest.approx([0.08, 0.08, 0.08, 0.08, 0.04, 0.04, 0.04, 0.02])


def test_cosine_falls_to_zero_over_all_steps(turned: Make) -> None:
    rates = [epoch.lr for epoch in fit(turned(epochs=4, schedule="cosine", lr=0.1)).history]
    assert rates == pytest.approx([0.1, 0.08535534, 0.05, 0.01464466])


def test_constant_stays(turned: Make) -> None:
    assert {epoch.lr for epoch in fit(turned(epochs=9, schedule="constant", lr=0.03)).history} == {0.03}


def test_knobs_reach_the_optimizer(turned: Make) -> None:
    module = torch.nn.Linear(2, 2)
    module.bias.requires_grad_(False)
    for name, kind in (("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)):
        optimizer = loop.make_optimizer(module, turned(optimizer=name, lr=0.25, weight_decay=0.125, momentum=0.75))
        assert type(optimizer) is kind
        (group,) = optimizer.param_groups
        assert (group["lr"], group["weight_decay"]) == (0.25, 0.125)
        assert group.get("momentum", 0.75) == 0.75
        assert group["params"] == [module.weight]


def test_the_losses_of_the_first_epoch(turned: Make) -> None:
    """With a rate of next to nothing the loss of training is the cross-entropy of the first weights."""
    data = toy()
    found = fit(turned(lr=1e-12, epochs=1, schedule="constant"), data)
    loss, accuracy = loop.judge(found.module, data.parts["train"])
    assert found.history[0].train_loss == pytest.approx(loss, rel=1e-5)
    assert found.history[0].train_accuracy == pytest.approx(accuracy)
    assert found.history[0].val_loss == pytest.approx(loop.judge(found.module, data.parts["val"])[0], rel=1e-5)


def test_label_smoothing_is_in_the_training_loss_alone(turned: Make) -> None:
    plain, smooth = (fit(turned(lr=1e-12, epochs=1, label_smoothing=share)) for share in (0.0, 0.5))
    assert plain.history[0].val_loss == pytest.approx(smooth.history[0].val_loss, rel=1e-6)
    assert plain.history[0].train_loss != pytest.approx(smooth.history[0].train_loss, rel=1e-3)


def test_a_loss_that_is_not_finite_names_the_rate(turned: Make) -> None:
    with pytest.raises(UserError, match=r"The loss is not finite in epoch \d+: try a smaller `lr` \(now 1e\+30\)"):
        fit(turned(head="mlp", optimizer="sgd", lr=1e30, schedule="constant"))


def test_the_test_part_plays_no_part(turned: Make) -> None:
    data = toy()
    other = Data(data.classes, data.parts | {"test": Part(torch.zeros(0, 8), torch.zeros(0).long(), [])}, {})
    assert fit(turned(), data).history == fit(turned(), other).history


def test_a_last_batch_of_one(turned: Make) -> None:
    assert fit(turned(batch_size=59, head="mlp", epochs=20)).history[-1].val_accuracy == 1


def test_judge_counts_by_hand() -> None:
    part = Part(torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 1, 1]), [0, 1, 2])
    loss, accuracy = loop.judge(torch.nn.Identity(), part)
    assert accuracy == pytest.approx(2 / 3)
    assert loss == pytest.approx((0.126928 + 0.313262 + 1.313262) / 3, rel=1e-5)


def test_a_row_of_the_history() -> None:
    assert as_row(Epoch(3, None, 0.123456789, 1.0, 0.5, 2 / 3)) == {
        "epoch": 3, "lr": "", "train_loss": "0.123457", "val_loss": "1", "train_accuracy": "0.5",
        "val_accuracy": "0.666667",
    }  # fmt: skip
