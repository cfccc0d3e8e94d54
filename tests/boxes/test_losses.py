"""Losses against their definitions."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from stages.boxes.losses import box_loss, class_loss, hardest, object_loss
from tests.boxes.options import options_of

PLAIN = options_of("grid", loss="cross_entropy", focal_gamma=2.0, focal_alpha=0.25)


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(seed=st.integers(0, 1000), gamma=st.floats(0, 5), alpha=st.floats(0, 1))
def test_focal_loss_of_objects_is_its_definition(seed: int, gamma: float, alpha: float) -> None:
    logits, truth = drawn(seed, 20), (drawn(seed + 1, 20) > 0).float()
    actual = object_loss(logits, truth, options_of("grid", loss="focal", focal_gamma=gamma, focal_alpha=alpha))
    probability = torch.where(truth > 0, logits.sigmoid(), 1 - logits.sigmoid())
    weight = torch.where(truth > 0, alpha, 1 - alpha)
    torch.testing.assert_close(actual, -weight * (1 - probability) ** gamma * probability.log(), rtol=1e-3, atol=1e-5)


@given(seed=st.integers(0, 1000), gamma=st.floats(0.1, 5))
def test_focal_loss_of_classes_is_its_definition(seed: int, gamma: float) -> None:
    logits, labels = drawn(seed, 20, 4), torch.arange(20) % 4
    probability = logits.softmax(1)[torch.arange(20), labels]
    expected = -((1 - probability) ** gamma) * probability.log()
    actual = class_loss(logits, labels, options_of("grid", loss="focal", focal_gamma=gamma))
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-5)


def test_focal_loss_without_gamma_and_alpha_is_cross_entropy() -> None:
    logits, truth, choices = drawn(0, 20), (drawn(1, 20) > 0).float(), drawn(2, 20, 4)
    off = options_of("grid", loss="focal", focal_gamma=0.0, focal_alpha=-1.0)
    torch.testing.assert_close(object_loss(logits, truth, off), object_loss(logits, truth, PLAIN))
    labels = torch.arange(20) % 4
    torch.testing.assert_close(class_loss(choices, labels, off), F.cross_entropy(choices, labels, reduction="none"))


def test_ignored_locations_cost_nothing() -> None:
    for options in (PLAIN, options_of("grid", loss="focal")):
        assert (object_loss(drawn(0, 3), torch.tensor([-1.0, 0, 1]), options) > 0).tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("kind", "expected"), [("l1", (1 + 3) / 4), ("mse", (1 + 9) / 4), ("smooth_l1", (0.5 + 2.5) / 4)]
)
def test_box_losses_are_means_over_the_four_numbers(kind: str, expected: float) -> None:
    actual, truth = torch.tensor([[0.0, 0, 0, 0], [1, 2, 3, 4]]), torch.tensor([[1.0, 3, 0, 0], [1, 2, 3, 4]])
    assert box_loss(actual, truth, kind).tolist() == pytest.approx([expected, 0])


def test_giou_by_hand() -> None:
    """Two unit squares with a gap of one between them: IoU 0, a third of their hull is empty."""
    left, right = torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[2.0, 0, 3, 1]])
    assert box_loss(left, right, "giou").tolist() == pytest.approx([1 + 1 / 3])
    assert box_loss(left, left, "giou").tolist() == pytest.approx([0], abs=1e-6)


def test_ciou_by_hand() -> None:
    """The same squares: IoU 0, the square of the distance of their centres is 4, of the hull's diagonal 10."""
    left, right = torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[2.0, 0, 3, 1]])
    assert box_loss(left, right, "ciou").tolist() == pytest.approx([1 + 4 / 10])
    assert box_loss(left, left, "ciou").tolist() == pytest.approx([0], abs=1e-6)


@given(seed=st.integers(0, 1000), ratio=st.sampled_from([0.0, 1.0, 3.0]))
def test_mining_keeps_the_hardest_background(seed: int, ratio: float) -> None:
    each = drawn(seed, 3, 30).abs()
    truth = (drawn(seed + 1, 3, 30) / 3).round().clamp(-1, 1)
    truth[2] = truth[2].clamp(max=0)  # an image without objects
    counted = hardest(each, truth, ratio)
    for losses, states, mask in zip(each.tolist(), truth.tolist(), counted.tolist(), strict=True):
        background = sorted((loss for loss, state in zip(losses, states, strict=True) if state == 0), reverse=True)
        number = len(background) if ratio == 0 else int(ratio * max(1, states.count(1)))
        rows = list(zip(losses, states, mask, strict=True))
        assert sorted((loss for loss, state, keep in rows if keep and state == 0), reverse=True) == background[:number]
        assert all(keep == (state == 1) for _, state, keep in rows if state != 0)
