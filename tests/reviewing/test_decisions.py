from dataclasses import replace

import pytest

from stages.datasets.base import Box
from stages.datasets.corrections import Correction
from stages.errors import UserError
from stages.reviewing import decisions
from stages.reviewing.suspicions import Suspicion
from tests.reviewing.data import row

ROWS = [row(0), row(1, "bee"), replace(row(2), objects=(Box("ant", (0, 0, 2, 2)),))]


def suspicion(path: str, decision: str, other: str = "") -> Suspicion:
    return Suspicion("label in doubt", path, "train", "ant", "bee", 0.5, other, decision=decision)


def test_undecided_rows_are_ignored_and_copies_follow() -> None:
    table = [suspicion("ant/0.jpg", "relabel:bee"), suspicion("bee/1.jpg", ""), suspicion("bee/1.jpg", "keep")]
    assert decisions.decided(table, ROWS, {"ant/0.jpg": ["ant/copy.jpg"]}, "decided.csv") == [
        Correction("ant/0.jpg", "label in doubt", "", "relabel:bee"),
        Correction("ant/copy.jpg", "label in doubt", "", "relabel:bee"),
        Correction("bee/1.jpg", "label in doubt", "", "keep"),
    ]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (suspicion("ant/0.jpg", "delete"), "`decision` must be keep, relabel:NAME"),
        (suspicion("ant/0.jpg", "relabel:bea"), "'bea' is not a class; did you mean bee"),
        (suspicion("ant/2.jpg", "relabel:bee"), "an image with objects cannot be relabelled"),
        (suspicion("ant/0.jpg", "together"), "together is for two images"),
    ],
)
def test_a_decision_that_cannot_be_carried_out_is_refused(row: Suspicion, said: str) -> None:
    with pytest.raises(UserError, match=said):
        decisions.decided([row], ROWS, {}, "decided.csv")


def test_a_later_decision_replaces_an_earlier_one() -> None:
    earlier = [Correction("a", "label in doubt", "", "relabel:bee"), Correction("b", "blank", "", "keep")]
    later = [Correction("a", "blurred", "", "drop"), Correction("b", "blank", "", "drop")]
    assert decisions.merged(earlier, later) == later


def test_what_was_decided_is_not_suspected_again() -> None:
    table = [suspicion("a", ""), suspicion("b", "")]
    assert list(decisions.without_decided(table, [Correction("a", "label in doubt", "", "keep")])) == table[1:]
