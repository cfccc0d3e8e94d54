"""`epochs: auto`: enough steps for few images, few repetitions, and no endless training of many."""

from collections.abc import Callable
from typing import Any

import pytest

from stages.errors import UserError
from stages.training import epochs


@pytest.mark.parametrize(
    ("images", "expected"),
    [(80, 80), (16, 300), (1, 300), (160, 40), (800, 40), (1_600, 20), (3_200, 12), (100_000, 12), (17, 200), (0, 300)],
)
def test_few_images_train_for_more_epochs_and_many_for_fewer(
    params: Callable[..., Any], images: int, expected: int
) -> None:
    chosen = params(head="mlp", epochs="auto", batch_size=16)
    resolved, sentence = epochs.resolve(chosen, images)
    assert resolved.epoch_count == expected
    assert sentence.startswith(f"epochs: auto takes {expected}: ")


def test_a_number_stays_and_nothing_is_said(params: Callable[..., Any]) -> None:
    chosen = params(head="mlp", epochs=7)
    assert epochs.resolve(chosen, 80) == (chosen, "")
    phased = params(head="linear", cut="input", tap="pooled", epochs="auto", phases=[{"epochs": 3}])
    assert epochs.resolve(phased, 80)[1] == ""
    assert epochs.resolve(params(head="ridge", epochs="auto"), 80)[1] == ""


def test_a_warmup_must_end_before_the_fewest_epochs(params: Callable[..., Any]) -> None:
    assert params(head="mlp", epochs="auto", warmup=11).epochs == "auto"
    with pytest.raises(UserError, match=r"`warmup` \(12 epochs\) must end before `epochs` \(12\)"):
        params(head="mlp", epochs="auto", warmup=12)


def test_whoever_trains_must_have_replaced_it(params: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="to be replaced"):
        _ = params(head="mlp", epochs="auto").epoch_count
