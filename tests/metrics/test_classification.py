"""Scores against hand-computed values and plain loops."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_calibration_error

from stages.metrics import classification
from stages.metrics.classification import confident, interval, reliability, scores


def drawn(images: int, classes: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (images,), generator=generator)
    logits = torch.randn(images, classes, generator=generator)
    logits[torch.arange(images), labels] += 1
    return logits, labels


def test_by_hand() -> None:
    probabilities = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1], [0.3, 0.3, 0.4]])
    actual = scores(probabilities.log(), torch.tensor([0, 1, 1, 2]))
    assert actual["top1"] == 0.75
    assert actual["macro_accuracy"] == pytest.approx((1 + 0.5 + 1) / 3)
    assert actual["cross_entropy"] == pytest.approx(
        -(math.log(0.7) + math.log(0.8) + math.log(0.3) + math.log(0.4)) / 4
    )
    assert actual["ece"] == pytest.approx((0.3 + 0.2 + 0.6 + 0.6) / 4, abs=1e-6)  # each prediction in a bin of its own
    assert "top5" not in actual
    assert (actual["top1_low"], actual["top1_high"]) == interval(3, 4)


@settings(max_examples=40)
@given(images=st.integers(1, 40), classes=st.integers(2, 9), seed=st.integers(0, 1000))
def test_against_plain_loops(images: int, classes: int, seed: int) -> None:
    logits, labels = drawn(images, classes, seed)
    found = scores(logits, labels)
    rows, actual = logits.tolist(), labels.tolist()
    chosen = [max(range(classes), key=row.__getitem__) for row in rows]
    hits = [c == a for c, a in zip(chosen, actual, strict=True)]
    assert found["top1"] == pytest.approx(sum(hits) / images)
    if classes > 5:
        five = [a in sorted(range(classes), key=row.__getitem__)[-5:] for row, a in zip(rows, actual, strict=True)]
        assert found["top5"] == pytest.approx(sum(five) / images)
    present = sorted(set(actual))
    recalls = [sum(h for h, a in zip(hits, actual, strict=True) if a == c) / actual.count(c) for c in present]
    assert found["macro_accuracy"] == pytest.approx(sum(recalls) / len(recalls), abs=1e-6)
    loss = [math.log(sum(map(math.exp, row))) - row[a] for row, a in zip(rows, actual, strict=True)]
    assert found["cross_entropy"] == pytest.approx(sum(loss) / images, rel=1e-5)


@settings(max_examples=40)
@given(images=st.integers(1, 60), classes=st.integers(2, 9), seed=st.integers(0, 1000), bins=st.integers(1, 20))
def test_the_reliability_diagram(images: int, classes: int, seed: int, bins: int) -> None:
    logits, labels = drawn(images, classes, seed)
    probabilities = logits.softmax(1)
    actual = list(reliability(*probabilities.max(1), labels, bins))
    assert sum(b.images for b in actual) == images
    confidence, chosen = probabilities.max(1)
    by_bin: dict[int, list[int]] = {}
    for image in range(images):
        number = min(max(math.ceil(float(confidence[image] * bins)), 1), bins)
        by_bin.setdefault(number, []).append(image)
    assert len(actual) == len(by_bin)
    for b, number in zip(actual, sorted(by_bin), strict=True):
        members = by_bin[number]
        assert b.images == len(members)
        assert b.confidence == pytest.approx(float(confidence[members].mean()), rel=1e-5)
        assert b.accuracy == pytest.approx(float((chosen[members] == labels[members]).double().mean()))


@settings(max_examples=20)
@given(images=st.integers(1, 60), classes=st.integers(2, 9), seed=st.integers(0, 1000))
def test_the_calibration_error_is_that_of_the_diagram(images: int, classes: int, seed: int) -> None:
    logits, labels = drawn(images, classes, seed)
    bins = reliability(*logits.softmax(1).max(1), labels)
    expected = sum(b.images * abs(b.confidence - b.accuracy) for b in bins) / images
    assert scores(logits, labels)["ece"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),  # Newcombe 1998 and R's prop.test(correct = FALSE)
        (10, 10, 0.7225, 1.0),
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_against_published_numbers(hits: int, count: int, low: float, high: float) -> None:
    assert interval(hits, count) == pytest.approx((low, high), abs=1e-4)


def test_wilson_of_nothing() -> None:
    assert interval(0, 0) == (0.0, 1.0)


@given(count=st.integers(1, 10_000), data=st.data())
def test_wilson_holds_the_share_and_is_symmetric(count: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, count))
    low, high = interval(hits, count)
    tiny = 1e-12  # rounding
    assert 0 <= low <= hits / count + tiny and hits / count - tiny <= high <= 1
    other = interval(count - hits, count)
    assert (1 - other[1], 1 - other[0]) == pytest.approx((low, high), abs=1e-9)
    wider = interval(hits, count, level=0.99)
    assert wider[0] <= low + tiny and high <= wider[1] + tiny


def test_confident() -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8], [0.4, 0.6]])
    labels = torch.tensor([0, 1, 0, 1])
    assert confident(*probabilities.max(1), labels, 0.5) == (1.0, 0.5)  # argmax of a tie is the first
    assert confident(*probabilities.max(1), labels, 0.75) == (0.5, 0.5)
    assert confident(*probabilities.max(1), labels, 0.85) == (0.25, 1.0)
    assert confident(*probabilities.max(1), labels, 0.95) == (0.0, 0.0)


def test_the_constants_are_those_that_the_docstring_tells() -> None:
    assert (classification.CALIBRATION_BINS, classification.LEVEL) == (15, 0.95)


@settings(max_examples=30)
@given(images=st.integers(1, 60), classes=st.integers(2, 9), seed=st.integers(0, 999))
def test_against_torchmetrics(images: int, classes: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(images, classes, generator=generator)
    labels = torch.randint(classes, (images,), generator=generator)
    actual, has_images = classification.scores(logits, labels), torch.bincount(labels, minlength=classes) > 0
    per_class = multiclass_accuracy(logits, labels, num_classes=classes, average="none")
    assert actual["macro_accuracy"] == pytest.approx(float(per_class[has_images].mean()), abs=1e-6)
    ece = multiclass_calibration_error(logits.softmax(1), labels, num_classes=classes, n_bins=15)
    assert actual["ece"] == pytest.approx(float(ece), abs=1e-5)
    if classes > 5:
        top5 = multiclass_accuracy(logits, labels, num_classes=classes, top_k=5, average="micro")
        assert actual["top5"] == pytest.approx(float(top5), abs=1e-6)
