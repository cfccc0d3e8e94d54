"""What heads share that predict at many locations."""

from pathlib import Path

import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from stages.boxes import dense
from tests.boxes.options import options_of


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_at_first_objects_are_rare_everywhere() -> None:
    raw = dense.PredictionLayer(6, 3, 7)(torch.zeros(2, 6, 4, 5))
    assert raw.shape == (2, 4, 5, 3, 7)
    prediction = dense.split(raw)
    torch.testing.assert_close(prediction.object.sigmoid(), torch.full((2, 4, 5, 3), 0.01))
    assert not prediction.code.any() and not prediction.classes.any()


def test_a_target_by_hand() -> None:
    assigned = torch.tensor([dense.BACKGROUND, 1, dense.IGNORED, 0])
    codes = torch.arange(16.0).reshape(4, 4)
    rows = dense.target(assigned, codes, torch.tensor([7, 9])).tolist()
    assert rows == [[0] * 6, [1, 4, 5, 6, 7, 9], [-1, 0, 0, 0, 0, 0], [1, 12, 13, 14, 15, 7]]


@pytest.mark.parametrize("kind", ["smooth_l1", "l1", "mse"])
def test_the_loss_is_j(kind: str) -> None:
    """One location after the other, as the formula says."""
    raw, truth = drawn(0, 2, 5, 8), torch.zeros(2, 5, 6)
    truth[0, 1], truth[0, 4] = torch.tensor([1, 0.1, 0.2, 0.3, 0.4, 2]), torch.tensor([1, 0.5, 0.5, 0.5, 0.5, 0])
    truth[1, 0, 0] = -1
    options = options_of("grid", box_loss=kind)
    measure = {"smooth_l1": F.smooth_l1_loss, "l1": F.l1_loss, "mse": F.mse_loss}[kind]
    total = torch.zeros(())
    for position, right in zip(raw.flatten(0, 1), truth.flatten(0, 1), strict=True):
        if right[0] >= 0:
            total += F.binary_cross_entropy_with_logits(position[0], right[0])
        if right[0] > 0:
            total += 2 * measure(position[1:5], right[1:5]) + 3 * F.cross_entropy(position[5:], right[5].long())
    prediction = dense.split(raw)
    objects = truth[..., 0] > 0
    actual = dense.loss(prediction, truth, boxes=(prediction.code[objects], truth[objects][:, 1:5]), options=options)
    torch.testing.assert_close(actual, total / 2)


def test_images_without_objects_have_a_finite_loss() -> None:
    raw, truth = drawn(0, 2, 5, 8).requires_grad_(), torch.zeros(2, 5, 6)
    prediction = dense.split(raw)
    for kind in ("smooth_l1", "giou"):
        actual = dense.loss(
            prediction,
            truth,
            boxes=(prediction.code[0, :0], truth[0, :0, 1:5]),
            options=options_of("grid", box_loss=kind),
        )
        actual.backward(retain_graph=True)  # type: ignore[no-untyped-call]
        assert actual.isfinite() and raw.grad is not None and raw.grad.isfinite().all()


@settings(max_examples=40)
@given(seed=st.integers(0, 1000), locations=st.integers(1, 40), classes=st.integers(1, 60))
def test_detections_are_the_best_pairs_of_location_and_class(seed: int, locations: int, classes: int) -> None:
    boxes, logits = drawn(seed, 1, locations, 4), 3 * drawn(seed + 1, 1, locations, classes)
    objects = torch.rand(1, locations, generator=torch.Generator().manual_seed(seed))
    (detections,) = dense.detections(dense.Candidates(boxes, objects, logits))
    probability = logits[0].softmax(1).tolist()
    pairs = [(float(objects[0, p]) * probability[p][c], p, c) for p in range(locations) for c in range(classes)]
    expected = [pair for pair in sorted(pairs, reverse=True) if pair[0] >= dense.FLOOR][: dense.MOST]
    assert detections.scores.tolist() == pytest.approx([pair[0] for pair in expected], abs=1e-6)
    assert len(detections.labels) == len(detections.boxes) == len(expected)
    for score, label, box in zip(detections.scores, detections.labels, detections.boxes, strict=True):
        location = int((boxes[0] == box).all(1).nonzero()[0, 0])
        assert float(score) == pytest.approx(float(objects[0, location]) * probability[location][int(label)], abs=1e-6)


def test_cell_centres_go_row_by_row() -> None:
    assert dense.cell_centres(1, 2).tolist() == [[0.25, 0.5], [0.75, 0.5]]
    assert dense.cell_centres(2, 1).tolist() == [[0.5, 0.25], [0.5, 0.75]]


def test_boxes_that_no_location_predicts_are_counted() -> None:
    assert dense.unassigned(4, [torch.tensor([-1, 2, -2, 2]), torch.tensor([0, -1])]) == 2


def test_the_mean_of_probabilities_is_geometric() -> None:
    a, b = torch.randn(2, 50, generator=torch.Generator().manual_seed(4)) * 5
    expected = (a.double().sigmoid() * b.double().sigmoid()).sqrt()
    torch.testing.assert_close(dense.mean_probability(a, b).double(), expected, rtol=1e-5, atol=0)


def test_improbable_objects_have_a_score_in_an_exported_file_too(tmp_path: Path) -> None:
    """A score of 0 says that the second stage has not seen a box, and sigmoid is exactly 0 in onnxruntime."""

    class Mean(nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return dense.mean_probability(a, b)

    logits = (torch.linspace(-40, 40, 81), torch.linspace(-40, 0, 81))
    torch.onnx.export(Mean().eval(), logits, tmp_path / "mean.onnx", dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "mean.onnx")
    (found,) = session.run(None, {node.name: x.numpy() for node, x in zip(session.get_inputs(), logits, strict=True)})
    assert (found > 0).all()
    torch.testing.assert_close(torch.from_numpy(found), Mean()(*logits), rtol=1e-4, atol=0)
