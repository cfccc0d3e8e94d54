"""Each kind of mistake by hand, and what holds of all of them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.metrics.detection import match
from stages.metrics.mistakes import KINDS, Kind, costs, counts, fix_errors_of_kind, sort
from tests.metrics.scenes import FAR, SQUARE, found, scene, truth

A_THIRD = [5.0, 0.0, 15.0, 10.0]  # of SQUARE
HARDLY = [9.0, 0.0, 19.0, 10.0]  # 1/19


@pytest.mark.parametrize(
    ("box", "label", "kind"),
    [
        (SQUARE, 1, "class"),
        (A_THIRD, 0, "place"),
        (A_THIRD, 1, "both"),
        (HARDLY, 0, "background"),
        (FAR, 0, "background"),
    ],
)
def test_each_kind_by_hand(box: list[float], label: int, kind: str) -> None:
    expected = dict.fromkeys(KINDS, 0) | {kind: 1} | {"missed": int(kind in ("both", "background"))}
    assert counts([truth([SQUARE])], [found([box], [0.9], [label])]) == expected


def test_doubles_and_missed_objects() -> None:
    objects = truth([SQUARE, FAR])
    assert counts([objects], [found([SQUARE, SQUARE], [0.9, 0.8])]) == dict.fromkeys(KINDS, 0) | {
        "double": 1,
        "missed": 1,
    }


def test_what_counts_neither_way_is_no_mistake() -> None:
    objects = truth([SQUARE, FAR], ignored=(0,), crowd=(1,))
    assert set(counts([objects], [found([SQUARE, FAR], [0.9, 0.8])]).values()) == {0}
    assert counts([objects], [found([A_THIRD], [0.9])])["background"] == 1  # an ignored object attracts nothing
    assert counts([truth([])], [found([SQUARE], [0.9])])["background"] == 1


@pytest.mark.parametrize(("box", "label", "kind"), [(SQUARE, 1, "class"), (A_THIRD, 0, "place")])
def test_mending_makes_a_hit_of_it(box: list[float], label: int, kind: str) -> None:
    objects, items = truth([SQUARE]), found([box], [0.9], [label])
    cost = costs([objects], [items], 2)
    assert cost == dict.fromkeys(KINDS, 0.0) | {kind: 1.0}


def test_a_mended_box_goes_where_another_hits_already() -> None:
    objects, items = truth([SQUARE]), found([SQUARE, SQUARE], [0.9, 0.8], [0, 1])
    _, rest = fix_errors_of_kind(objects, sort(objects, items), "class")
    assert rest.scores.tolist() == pytest.approx([0.9])


def test_the_cost_of_false_alarms_by_hand() -> None:
    objects, items = truth([SQUARE]), found([FAR, SQUARE], [0.9, 0.8])
    assert costs([objects], [items], 1) == dict.fromkeys(KINDS, 0.0) | {"background": 0.5}


@settings(max_examples=60)
@given(seed=st.integers(0, 100_000), classes=st.integers(1, 3))
def test_every_box_is_a_hit_or_set_aside_or_one_mistake(seed: int, classes: int) -> None:
    for objects, item in zip(*scene(seed, classes), strict=True):
        mistakes = sort(objects, item)
        matched = match(objects, mistakes.detections)
        assert torch.equal(mistakes.kinds >= 0, matched.counted & (matched.truth < 0))
        assert not mistakes.missed[matched.truth[matched.truth >= 0]].any()
        assert not (mistakes.missed & (objects.ignored | objects.crowd)).any()


@settings(max_examples=30)
@given(seed=st.integers(0, 100_000), classes=st.integers(1, 3))
def test_mending_never_makes_it_worse(seed: int, classes: int) -> None:
    assert min(costs(*scene(seed, classes), classes).values()) >= -1e-9


@settings(max_examples=60)
@given(seed=st.integers(0, 100_000), kind=st.sampled_from(KINDS))
def test_once_mended_a_kind_is_gone(seed: int, kind: Kind) -> None:
    truths, items = scene(seed, 3)
    pairs = [
        fix_errors_of_kind(objects, sort(objects, item), kind) for objects, item in zip(truths, items, strict=True)
    ]
    assert counts([pair[0] for pair in pairs], [pair[1] for pair in pairs])[kind] == 0
