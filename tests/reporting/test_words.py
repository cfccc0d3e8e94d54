"""Sentences that several kinds of pages share."""

from types import SimpleNamespace
from typing import cast

import pytest

from stages.reporting import words
from stages.reporting.gather import RunResults


@pytest.mark.parametrize(("refit", "unknown"), [("none", ["bee", "cat"]), ("trainval", ["cat"])])
def test_what_only_val_has_is_learnt_by_a_refit_alone(refit: str, unknown: list[str]) -> None:
    numbers = (("ant", 3, 1), ("bee", 0, 2), ("cat", 0, 0))
    classes = [SimpleNamespace(name=name, n_train=train, n_val=val) for name, train, val in numbers]
    run = cast("RunResults", SimpleNamespace(classes=classes, head={"params": {"refit": refit}}))
    assert words.never_trained_on(run) == unknown
