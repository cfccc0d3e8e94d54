"""Which images are chosen: spread over all clusters while there are few labels, then where classes meet."""

from dataclasses import replace

import numpy as np
import pytest

from stages.labelling import selection
from tests.reviewing.data import clusters, whole

CLASSES, EACH = 5, 40


def test_the_first_images_are_of_all_clusters() -> None:
    rows, y = clusters(CLASSES, EACH)
    vectors = whole(rows)
    nothing = replace(vectors, images=np.empty(0, np.int64))
    chosen = selection.choose(vectors, nothing, np.empty(0, np.int64), classes=0, number=CLASSES)
    assert sorted(y[chosen]) == list(range(CLASSES))


def test_clusters_with_a_label_come_last() -> None:
    rows, y = clusters(CLASSES, EACH)
    vectors = whole(rows)
    known = np.flatnonzero(np.isin(y, (0, 1)))[::10]
    pool = replace(vectors, images=np.setdiff1d(vectors.images, known))
    chosen = selection._typical(pool, replace(vectors, images=known), 3, 0)
    assert set(y[pool.images[chosen]]) <= {2, 3, 4}


def test_doubtful_images_lie_between_classes() -> None:
    generator = np.random.default_rng(0)
    first = np.concatenate([np.full(50, -3.0), np.full(50, 3.0), np.zeros(12)])  # the last twelve are in the middle
    rows = np.concatenate([first[:, None], generator.normal(0, 0.3, (112, 7))], 1).astype(np.float16)
    y = np.concatenate([np.zeros(50, np.int64), np.ones(50, np.int64)])
    vectors = whole(rows)
    known = np.r_[0:20, 50:70]
    pool = replace(vectors, images=np.setdiff1d(vectors.images, known))
    chosen = selection.choose(pool, replace(vectors, images=known), y[known], classes=2, number=3)
    assert len(set(chosen)) == 3 and (pool.images[chosen] >= 100).all()


@pytest.mark.parametrize("known", [0, 7, 150])
@pytest.mark.parametrize("number", [1, 30, 10_000])
def test_as_many_as_asked_for_and_none_twice(known: int, number: int) -> None:
    rows, y = clusters(CLASSES, EACH)
    vectors, order = whole(rows), np.random.default_rng(0).permutation(CLASSES * EACH)
    pool, labelled = (replace(vectors, images=np.sort(part)) for part in (order[known:], order[:known]))
    chosen = selection.choose(pool, labelled, y[labelled.images], classes=CLASSES, number=number)
    assert len(set(chosen.tolist())) == len(chosen) == min(number, len(pool))


def test_more_images_than_are_clustered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "CLUSTERED", 50)
    rows, _ = clusters(CLASSES, EACH)
    vectors = whole(rows)
    nothing = replace(vectors, images=np.empty(0, np.int64))
    chosen = selection.choose(vectors, nothing, np.empty(0, np.int64), classes=0, number=80)
    assert len(set(chosen.tolist())) == 80


def test_an_empty_pool() -> None:
    vectors = whole(clusters(2, 5)[0])
    nothing = replace(vectors, images=np.empty(0, np.int64))
    assert not len(selection.choose(nothing, vectors, np.zeros(10, np.int64), classes=1, number=5))
