"""Scores for several labels: as scikit-learn computes them, by hand where labels are unknown, and by VOC's rules."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from stages.metrics import multilabel
from stages.metrics.multilabel import UNKNOWN


def drawn(seed: int, images: int = 60, classes: int = 5, *, ties: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores with ties, and labels of which every class has one at least."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(images, classes))
    labels = (rng.random((images, classes)) < rng.uniform(0.05, 0.9, classes)).astype(np.int8)
    labels[0] = 1
    return torch.tensor(np.round(scores, 1) if ties else scores), torch.tensor(labels)


@settings(max_examples=50)
@given(st.integers(0, 10**6), st.integers(2, 80))
def test_map_is_that_of_scikit_learn(seed: int, images: int) -> None:
    scores, labels = drawn(seed, images)
    expected = sk.average_precision_score(labels.numpy(), scores.numpy(), average="macro")
    assert multilabel.mean_average_precision(scores, labels) == pytest.approx(expected, abs=1e-9)


def test_unknown_entries_are_left_out_class_by_class() -> None:
    scores, labels = drawn(3)
    labels[torch.rand(labels.shape, generator=torch.Generator().manual_seed(0)) < 0.2] = UNKNOWN
    expected = [
        sk.average_precision_score(labels[known, c].numpy(), scores[known, c].numpy())
        for c in range(5)
        for known in [labels[:, c] >= 0]
    ]
    assert multilabel.average_precisions(scores, labels).tolist() == pytest.approx(expected, abs=1e-9)


def test_eleven_points_by_hand() -> None:
    # precision at the three hits: 1/1, 2/3, 3/5; recall 1/3, 2/3, 1
    scores, labels = torch.tensor([[0.9], [0.8], [0.7], [0.6], [0.5]]), torch.tensor([[1], [0], [1], [0], [1]])
    (curve,) = multilabel.curves(scores, labels)
    assert multilabel.eleven(curve) == pytest.approx((4 * 1 + 3 * 2 / 3 + 4 * 3 / 5) / 11)
    assert multilabel.area(curve) == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)


def test_a_recall_of_exactly_a_tenth_counts() -> None:
    scores = torch.arange(20, 0, -1)[:, None].double()
    labels = torch.zeros(20, 1)
    labels[[0, *range(11, 20)]] = 1  # ten positives; the first hit alone has recall 0.1
    (curve,) = multilabel.curves(scores, labels)
    assert multilabel.eleven(curve) == pytest.approx((2 * 1 + 9 * 0.5) / 11)


def test_difficult_images_count_neither_way_as_in_voc() -> None:
    # an image that shows only difficult objects of the class stands first: neither a hit nor a false alarm
    scores, labels = torch.tensor([[0.99], [0.9], [0.8]]), torch.tensor([[UNKNOWN], [1], [0]])
    (curve,) = multilabel.curves(scores, labels)
    assert multilabel.area(curve) == 1 and multilabel.eleven(curve) == 1 and curve.positives == 1


def test_a_class_that_no_image_has_is_left_out_of_the_mean() -> None:
    scores, labels = torch.tensor([[0.9, 0.1], [0.1, 0.2]]), torch.tensor([[1, 0], [0, 0]])
    assert multilabel.average_precisions(scores, labels)[0] == 1
    assert multilabel.mean_average_precision(scores, labels) == 1
    assert multilabel.mean_average_precision(scores, torch.zeros(2, 2)) == 0


def test_f1_exact_matches_and_coverage_are_those_of_scikit_learn() -> None:
    scores, labels = drawn(7, ties=False)
    threshold = torch.full((5,), 0.4, dtype=torch.float64)
    values = multilabel.scores_of(scores, labels, threshold, interval=False)
    truth, said = labels.numpy(), (scores.sigmoid() >= 0.4).numpy()
    assert values["micro_f1"] == pytest.approx(sk.f1_score(truth, said, average="micro"))
    assert values["macro_f1"] == pytest.approx(sk.f1_score(truth, said, average="macro"))
    assert values["exact_match"] == pytest.approx(sk.accuracy_score(truth, said))
    some = truth.any(1)
    assert values["coverage"] == pytest.approx(sk.coverage_error(truth[some], scores.numpy()[some]))
    mean_loss = np.mean([sk.log_loss(truth[:, c], scores[:, c].sigmoid().numpy(), labels=[0, 1]) for c in range(5)])
    assert values["binary_cross_entropy"] == pytest.approx(mean_loss)


def test_what_is_unknown_is_no_mistake() -> None:
    said, labels = torch.tensor([[True, False], [True, True]]), torch.tensor([[UNKNOWN, 0], [1, UNKNOWN]])
    assert multilabel.right(said, labels).all()
    f1 = multilabel.counts(said, labels)
    assert f1.micro == 1 and [part.tolist() for part in f1] == [[1, 0], [0, 0], [0, 0]]
    assert multilabel.coverage(torch.tensor([[0.9, 0.1]]), torch.tensor([[UNKNOWN, 1]])) == 1


def test_thresholds_have_the_highest_f1() -> None:
    probabilities, labels = torch.rand(80, 4, generator=torch.Generator().manual_seed(1)), drawn(1, 80, 4)[1]
    labels[:, 3] = 0
    chosen = multilabel.thresholds(probabilities, labels)
    assert chosen[3] == 0.5  # no image has the class
    for c in range(3):
        best = max(sk.f1_score(labels[:, c], probabilities[:, c] >= t) for t in probabilities[:, c])
        assert sk.f1_score(labels[:, c], probabilities[:, c] >= chosen[c]) == pytest.approx(best)
        assert not (probabilities[:, c] == chosen[c]).any()


def test_the_interval_of_the_bootstrap_is_that_of_resampled_images() -> None:
    scores, labels = drawn(5, 40, 3)
    low, high = multilabel.bootstrap(scores, labels)
    rng, values = np.random.default_rng(0), []
    for _ in range(600):
        rows = rng.integers(0, 40, 40)
        values.append(multilabel.mean_average_precision(scores[rows], labels[rows]))
    expected = np.quantile(values, [0.025, 0.975])
    assert np.abs(np.array([low, high]) - expected).max() < 0.02
    assert low < multilabel.mean_average_precision(scores, labels) < high
    assert multilabel.bootstrap(scores, labels) == (low, high)


def test_a_weight_is_so_many_copies() -> None:
    scores, labels = drawn(9, 12, 1)
    (curve,) = multilabel.curves(scores, labels)
    rows = torch.tensor([0, 0, 3, 4, 4, 4, 7, 8, 9, 10, 11, 11])
    weights = torch.bincount(rows, minlength=12).double()[None]
    expected = multilabel.mean_average_precision(scores[rows], labels[rows])
    assert float(multilabel._weighted_area(curve, weights)) == pytest.approx(expected, abs=1e-12)


def test_reliability_counts_known_entries() -> None:
    probabilities, labels = torch.tensor([[0.95, 0.02], [0.96, 0.5]]), torch.tensor([[1, 0], [0, UNKNOWN]])
    low, high = multilabel.reliability(probabilities, labels)
    assert low == pytest.approx((0.02, 0, 1)) and high == pytest.approx((0.955, 0.5, 2))
