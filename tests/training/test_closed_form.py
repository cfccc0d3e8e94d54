"""Heads in closed form: ridge regression against scikit-learn's, the choice of a solution, and a refit."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch.nn import functional as F

from stages.heads import ridge
from stages.heads.contract import LabelledVectors, VectorBlocks, best_scale, module_of
from stages.training import closed_form, history
from stages.training.data import HeadData, SplitData
from stages.training.model import TrainResult

CPU = torch.device("cpu")
Make = Callable[..., Any]
FEATURES = {"cut": "pooled", "backbone": "squeezenet1_1", "image_size": 64, "weights": "random"}


@pytest.fixture
def fit(workplace: Path, params: Make) -> Callable[[HeadData], TrainResult]:
    """`fit(data)`: ridge with the params of the checkout."""
    return lambda data: closed_form.fit("ridge", data, params=params(head="ridge"), device=CPU)


def toy(columns: int, train: int = 60, val: int = 40, noise: float = 2.0) -> HeadData:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(3, columns, generator=generator)

    def split(count: int) -> SplitData:
        y = torch.arange(count) % 3
        y[: count // 5] = 0  # classes of different sizes
        x = centres[y] + noise * torch.randn(count, columns, generator=generator)
        return SplitData(5 + 3 * x[:, None], y, list(range(count)))

    return HeadData(["a", "b", "c"], {"train": split(train), "val": split(val), "test": split(10)}, FEATURES)


@pytest.mark.parametrize(("rows", "columns"), [(30, 8), (8, 30), (10, 10)], ids=["primal", "dual", "square"])
def test_every_strength_is_that_of_scikit_learn(rows: int, columns: int) -> None:
    random = np.random.default_rng(1)
    x, labels = 7 + 3 * random.normal(size=(rows, columns)), np.arange(rows) % 3
    train = LabelledVectors(torch.from_numpy(x), torch.from_numpy(labels))
    actual = ridge._solve(train, 3, ridge.STRENGTHS)
    assert ridge.STRENGTHS[0] == pytest.approx(1e-3) and ridge.STRENGTHS[-1] == 100
    for strength, (weights, bias) in zip(ridge.STRENGTHS, actual, strict=True):
        reference = Ridge(alpha=strength * x.var(0).mean() * rows).fit(x, np.eye(3)[labels])
        np.testing.assert_allclose(weights.numpy(), reference.coef_.T, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(bias.numpy(), reference.intercept_, rtol=1e-6, atol=1e-9)


def test_the_unit_and_the_origin_of_the_features_do_not_matter() -> None:
    x, labels = torch.randn(40, 6, generator=torch.Generator().manual_seed(2)), torch.arange(40) % 3
    first = ridge._solve(LabelledVectors(x, labels), 3, ridge.STRENGTHS)
    moved = ridge._solve(LabelledVectors(5 + 100 * x, labels), 3, ridge.STRENGTHS)
    for (weights, bias), (other_weights, other_bias) in zip(first, moved, strict=True):
        torch.testing.assert_close(x.double() @ weights + bias, (5 + 100 * x).double() @ other_weights + other_bias,
                                   rtol=1e-4, atol=1e-5)  # fmt: skip


@pytest.mark.parametrize("columns", [6, 100])
@pytest.mark.parametrize("head", ["ridge", "lda", "logistic", "knn"])
def test_a_refit_is_the_same_settings_on_train_and_val_together(
    workplace: Path, params: Make, head: str, columns: int
) -> None:
    data, chosen_params = toy(columns), params(head=head)
    chosen = closed_form.fit(head, data, params=chosen_params, device=CPU)
    again = closed_form.refit(head, data, params=chosen_params, device=CPU, chosen=chosen)
    assert again.notes == chosen.notes and again.history == chosen.history
    assert not again.module.training and not any(p.requires_grad for p in again.module.parameters())
    both = data.splits["train"].join(data.splits["val"])
    model = copy.deepcopy(again.module)
    vectors = closed_form.normalized(model, both)[1]
    module_of(head).solve(model.head, vectors, chosen.notes)  # type: ignore[attr-defined]
    x = data.splits["test"].evaluation_vectors
    with torch.inference_mode():
        assert torch.equal(model(x), again.module(x))
        assert head == "knn" or not torch.equal(chosen.module(x), again.module(x))
    assert again.knobs == chosen.knobs | ({"rows": len(both.y)} if head == "knn" else {})


@pytest.mark.parametrize("columns", [6, 100])
def test_the_head_is_the_best_strength_on_validation(columns: int, fit: Callable[[HeadData], TrainResult]) -> None:
    data = toy(columns)
    train, val = data.splits["train"], data.splits["val"]
    x, v = train.evaluation_vectors.double().numpy(), val.evaluation_vectors.double().numpy()
    mean, std = x.mean(0), x.std(0)
    std = std.clip(np.sqrt((std**2).mean()))
    x, v = (x - mean) / std, (v - mean) / std
    candidates = []
    for strength in ridge.STRENGTHS:
        reference = Ridge(alpha=strength * x.var(0).mean() * len(x)).fit(x, np.eye(3)[train.y])
        values = torch.from_numpy(reference.predict(v))
        losses = {scale: float(F.cross_entropy(scale * values, val.y)) for scale in ridge.SCALES}
        scale = min(losses, key=losses.__getitem__)
        accuracy = float((values.argmax(1) == val.y).double().mean())
        candidates.append((round(accuracy, 6), losses[scale], strength, scale, reference))
    best = candidates[history.choose([candidate[:2] for candidate in candidates])]
    fitted = fit(data)
    assert fitted.notes == {"strength": best[2], "scale": best[3]}
    with torch.inference_mode():
        logits = fitted.module(val.evaluation_vectors)
    np.testing.assert_allclose(logits, best[3] * best[4].predict(v), rtol=1e-3, atol=1e-3)
    (epoch,) = fitted.history
    assert (epoch.epoch, epoch.lr, fitted.best_epoch) == (1, None, 1)
    assert epoch.val_loss == pytest.approx(best[1], rel=1e-4)
    assert epoch.val_accuracy == pytest.approx(best[0], abs=1e-6)


def test_the_scale_is_the_one_with_the_lowest_cross_entropy() -> None:
    labels = torch.arange(40) % 4
    values = F.one_hot(labels, 4).double()
    values[:4] = values[:4].roll(1, 1)  # one in ten is wrong: too large a scale is punished
    scale, loss = best_scale(values, labels, ridge.SCALES)
    losses = [float(F.cross_entropy(candidate * values, labels)) for candidate in ridge.SCALES]
    assert loss == min(losses) and scale == ridge.SCALES[losses.index(loss)]
    assert scale == pytest.approx(np.log(27), rel=0.07)  # 0.9 = e^s / (e^s + 3)
    assert ridge.SCALES[0] == 1 and ridge.SCALES[-1] == pytest.approx(1000)


def test_the_same_twice_and_the_random_state_is_nothing(fit: Callable[[HeadData], TrainResult]) -> None:
    torch.manual_seed(1)
    first = fit(toy(6))
    torch.manual_seed(2)
    second = fit(toy(6))
    for name, tensor in first.module.state_dict().items():
        assert torch.equal(tensor, second.module.state_dict()[name])
    assert not first.module.training and not any(p.requires_grad for p in first.module.parameters())


def test_the_test_part_plays_no_part(fit: Callable[[HeadData], TrainResult]) -> None:
    data = toy(6)
    second = HeadData(
        data.classes, data.splits | {"test": SplitData(torch.zeros(0, 1, 6), torch.zeros(0).long(), [])}, FEATURES
    )
    first, two = fit(data), fit(second)
    assert torch.equal(first.module.head.weight, two.module.head.weight)  # type: ignore[index]


@pytest.mark.parametrize("columns", [6, 100])
def test_every_view_is_a_row(columns: int, fit: Callable[[HeadData], TrainResult]) -> None:
    """V views of N images are solved as one view of V x N images."""
    data, generator = toy(columns, train=40), torch.Generator().manual_seed(3)
    train, val = data.splits["train"], data.splits["val"]
    x = train.x + torch.randn(40, 3, columns, generator=generator)
    views = SplitData(x, train.y, train.index_positions)
    rows = SplitData(x.reshape(120, 1, columns), torch.stack([train.y] * 3, 1).flatten(), list(range(120)))
    noisy = SplitData(
        torch.cat([val.x, torch.full_like(val.x, 1e4)], 1), val.y, val.index_positions
    )  # beside the evaluation view
    result = fit(HeadData(data.classes, {"train": views, "val": noisy}, FEATURES))
    expected = fit(HeadData(data.classes, {"train": rows, "val": val}, FEATURES))
    assert result.notes == expected.notes
    for name, tensor in expected.module.state_dict().items():
        assert torch.equal(result.module.state_dict()[name], tensor)
    assert result.history[0].val_loss == expected.history[0].val_loss
    first = fit(
        HeadData(data.classes, {"train": SplitData(x[:, :1], train.y, train.index_positions), "val": val}, FEATURES)
    )
    assert not torch.allclose(first.module.head.weight, result.module.head.weight)  # type: ignore[index]


@pytest.mark.parametrize("head", ["ridge", "lda", "logistic", "knn"])
def test_of_many_validation_images_evenly_spread_ones_choose_and_all_are_scored(
    workplace: Path, params: Make, monkeypatch: pytest.MonkeyPatch, head: str
) -> None:
    data, chosen_params = toy(6, val=90), params(head=head)
    monkeypatch.setattr(closed_form, "CHOOSING", 30 * (6 + 3))  # 30 vectors of 6 numbers with 3 scores
    thinned = closed_form.fit(head, data, params=chosen_params, device=CPU)
    assert thinned.notes.pop("val_images_that_chose") == 30
    spread = torch.linspace(0, 89, 30, dtype=torch.float64).round().long()
    few = HeadData(data.classes, data.splits | {"val": data.splits["val"].some(spread)}, FEATURES)
    by_hand = closed_form.fit(head, few, params=chosen_params, device=CPU)
    assert thinned.notes == by_hand.notes
    for name, tensor in by_hand.module.state_dict().items():
        assert torch.equal(thinned.module.state_dict()[name], tensor)
    with torch.inference_mode():
        logits, y = thinned.module(data.splits["val"].evaluation_vectors), data.splits["val"].y
    assert thinned.history[0].val_accuracy == pytest.approx(float((logits.argmax(1) == y).double().mean()))
    assert thinned.history[0].val_loss == pytest.approx(float(F.cross_entropy(logits, y)), rel=1e-5)


def test_blocks_say_the_same_as_vectors_in_memory() -> None:
    generator = torch.Generator().manual_seed(0)
    x, labels = 50 + torch.randn(700, 5, generator=generator), torch.randint(3, (700,), generator=generator)
    read = lambda: zip(x.split(64), labels.split(64), strict=True)  # noqa: E731
    blocks, memory = VectorBlocks(read, (700, 5), labels), LabelledVectors(x, labels)
    torch.testing.assert_close(blocks.mean, memory.mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(blocks.gram, memory.gram, rtol=1e-9, atol=1e-9)
    assert blocks.variance == pytest.approx(memory.variance, rel=1e-9)
    for classes in (3, 5):  # of the last two no image is there
        torch.testing.assert_close(blocks.class_sums(classes), memory.class_sums(classes), rtol=1e-9, atol=1e-9)
        by_hand = torch.stack([memory.centred[labels == label].sum(0) for label in range(classes)])
        torch.testing.assert_close(memory.class_sums(classes), by_hand, rtol=1e-9, atol=1e-9)
