"""Ridge regression against numpy's direct solution."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from stages.heads import ridge
from stages.heads.contract import gram_matrix
from stages.training import closed_form
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
def test_every_strength_is_solved_as_numpy_does(rows: int, columns: int) -> None:
    random = np.random.default_rng(1)
    x, y = random.normal(size=(rows, columns)), random.normal(size=(rows, 3))
    vectors = torch.from_numpy(x)
    actual = ridge._solve(vectors, gram_matrix(vectors), torch.from_numpy(y))
    assert ridge.STRENGTHS == (1e-4, 1e-3, 1e-2, 0.1, 1, 10, 100, 1000, 10_000)
    for strength, weights in zip(ridge.STRENGTHS, actual, strict=True):
        expected = np.linalg.solve(x.T @ x + strength * rows * np.eye(columns), x.T @ y)
        np.testing.assert_allclose(weights.numpy(), expected, rtol=1e-6, atol=1e-9)


def test_primal_and_dual_agree() -> None:
    random = torch.Generator().manual_seed(2)
    x = torch.randn(12, 12, generator=random, dtype=torch.float64)
    y = torch.randn(12, 4, generator=random, dtype=torch.float64)
    wide = torch.cat([x, torch.zeros(12, 1, dtype=torch.float64)], 1)  # a column of zeros makes it dual
    for primal, dual in zip(ridge._solve(x, gram_matrix(x), y), ridge._solve(wide, gram_matrix(wide), y), strict=True):
        torch.testing.assert_close(dual[:-1], primal, rtol=1e-8, atol=1e-10)
        assert not dual[-1].any()


@pytest.mark.parametrize("columns", [6, 100])
def test_the_head_is_the_best_strength_on_validation(columns: int, fit: Callable[[HeadData], TrainResult]) -> None:
    data = toy(columns)
    train, val = data.splits["train"], data.splits["val"]
    x, v = train.evaluation_vectors.double().numpy(), val.evaluation_vectors.double().numpy()
    mean, std = x.mean(0), x.std(0)
    std = std.clip(np.sqrt((std**2).mean()))
    x, v = (x - mean) / std, (v - mean) / std
    frequencies = np.bincount(train.y, minlength=3) / len(x)
    y = np.eye(3)[train.y] - frequencies
    candidates = []
    for strength in ridge.STRENGTHS:
        weights = np.linalg.solve(x.T @ x + strength * len(x) * np.eye(columns), x.T @ y)
        values = torch.from_numpy(v @ weights + frequencies)
        losses = {scale: float(F.cross_entropy(scale * values, val.y)) for scale in ridge.SCALES}
        scale = min(losses, key=losses.__getitem__)
        accuracy = float((values.argmax(1) == val.y).double().mean())
        candidates.append((-round(accuracy, 6), losses[scale], strength, scale, weights))
    best = min(candidates, key=lambda candidate: candidate[:2])
    fitted = fit(data)
    assert fitted.notes == {"strength": best[2], "scale": best[3]}
    with torch.inference_mode():
        logits = fitted.module(val.evaluation_vectors)
    np.testing.assert_allclose(logits, best[3] * (v @ best[4] + frequencies), rtol=1e-3, atol=1e-3)
    (epoch,) = fitted.history
    assert (epoch.epoch, epoch.lr, fitted.best_epoch) == (1, None, 1)
    assert epoch.val_loss == pytest.approx(best[1], rel=1e-4)
    assert epoch.val_accuracy == pytest.approx(-best[0], abs=1e-6)


def test_the_scale_is_the_one_with_the_lowest_cross_entropy() -> None:
    labels = torch.arange(40) % 4
    values = F.one_hot(labels, 4).double()
    values[:4] = values[:4].roll(1, 1)  # one in ten is wrong: too large a scale is punished
    scale, loss = ridge._best_scale(values, labels)
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
