"""Sides as distributions, against sums by hand."""

from math import log

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stages.boxes.distributions import BINS, distribution_loss, expectation
from tests.boxes.distributions import logits_of


def test_the_expectation_by_hand() -> None:
    logits = torch.full((3, BINS), -torch.inf)
    logits[0, 5] = 0.0  # all in one bin
    logits[1, [2, 6]] = torch.tensor([0.0, log(3)])  # a quarter in bin 2, the rest in bin 6
    logits[2] = 7.0  # the same in all bins
    assert expectation(logits).tolist() == pytest.approx([5, 0.25 * 2 + 0.75 * 6, (BINS - 1) / 2])


def test_the_loss_by_hand() -> None:
    """Two bins with a quarter and three quarters; the truth is one of them, or between them."""
    logits = torch.full((BINS,), -1e4)
    logits[[4, 5]] = torch.tensor([0.0, log(3)])
    truth = torch.tensor([4.0, 5.0, 4.6])
    expected = [log(4), log(4 / 3), 0.4 * log(4) + 0.6 * log(4 / 3)]
    assert distribution_loss(logits.expand(3, BINS), truth).tolist() == pytest.approx(expected, rel=1e-5)
    even = distribution_loss(torch.zeros(3, BINS), torch.tensor([0.0, 7.3, BINS - 1]))
    assert even.tolist() == pytest.approx([log(BINS)] * 3)


@given(truth=st.floats(0, BINS - 1))
def test_the_distribution_of_a_distance_has_it_as_its_mean_and_the_least_loss(truth: float) -> None:
    distance = torch.tensor(truth, dtype=torch.float64)
    best = logits_of(distance)
    assert float(expectation(best)) == pytest.approx(truth, abs=1e-6)
    least = distribution_loss(best, distance)
    for bin_ in range(BINS):
        moved = best.clamp(min=-10).clone()
        moved[bin_] += 0.5
        assert distribution_loss(moved, distance) > least - 1e-9
