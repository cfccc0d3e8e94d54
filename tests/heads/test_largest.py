"""The head for the largest object."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F
from torchvision.ops import box_convert

from stages.heads import largest
from tests.boxes.drawing import boxes_at_random
from tests.boxes.options import options_of

OPTIONS = options_of("largest")
SHAPE = (8, 3, 3)


def trainable(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_published_box_head_has_its_number_of_parameters() -> None:
    assert trainable(largest.build((512, 7, 7), 20, options_of("largest", predict="box"))) == 100_356


@pytest.mark.parametrize(("predict", "outputs"), [("box", 4), ("class", 5), ("both", 9)])
@pytest.mark.parametrize(("pool", "features"), [("none", 72), ("avg", 8)])
@pytest.mark.parametrize("hidden", [0, 6])
def test_layers(predict: str, outputs: int, pool: str, features: int, hidden: int) -> None:
    module = largest.build(SHAPE, 5, options_of("largest", predict=predict, pool=pool, largest_hidden=hidden))
    assert module(torch.zeros(2, *SHAPE)).shape == (2, outputs)
    with_hidden = (features + 1) * hidden + 2 * hidden + (hidden + 1) * outputs
    assert trainable(module) == (with_hidden if hidden else (features + 1) * outputs)


def test_an_epoch_may_end_with_a_batch_of_one() -> None:
    module = largest.build(SHAPE, 5, options_of("largest", largest_hidden=6))
    first, second = (torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(count)) for count in (1, 2))
    module(second)
    alone = module(first)
    alone.sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    torch.testing.assert_close(alone, module.eval()(first))


def test_the_largest_of_two() -> None:
    centre_size = torch.tensor([[0.447, 0.2387, 0.262, 0.2783], [0.524, 0.5735, 0.836, 0.7534]])
    actual = largest.targets(box_convert(centre_size, "cxcywh", "xyxy"), torch.tensor([0, 5]), OPTIONS, shape=SHAPE)
    assert actual.tolist() == pytest.approx([1, 0.524, 0.5735, 0.836, 0.7534, 5], abs=1e-6)


def test_without_objects_nothing_is_learnt() -> None:
    empty = largest.targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), OPTIONS, shape=SHAPE)
    assert empty.tolist() == [0] * 6
    outputs = torch.randn(2, 9, generator=torch.Generator().manual_seed(0)).requires_grad_()
    full = torch.tensor([1, 0.5, 0.5, 0.2, 0.2, 3])
    assert largest.loss(outputs, torch.stack([empty, full]), OPTIONS) == largest.loss(outputs[1:], full[None], OPTIONS)
    nothing = largest.loss(outputs, torch.stack([empty, empty]), OPTIONS)
    nothing.backward()  # type: ignore[no-untyped-call]
    assert nothing == 0 and outputs.grad is not None and not outputs.grad.any()


@pytest.mark.parametrize("predict", ["box", "class", "both"])
@pytest.mark.parametrize("sigmoid", [False, True])
def test_the_loss_is_the_weighted_sum_of_its_parts(predict: str, sigmoid: bool) -> None:
    outputs = torch.randn(3, 9, generator=torch.Generator().manual_seed(0))
    targets = torch.rand(3, 6, generator=torch.Generator().manual_seed(1)).ceil()
    numbers, logits = outputs[:, :4], outputs[:, 4:]
    box = F.smooth_l1_loss(numbers.sigmoid() if sigmoid else numbers, targets[:, 1:5])
    of_class = F.cross_entropy(logits, targets[:, 5].long())
    expected = {"box": 2 * box, "class": 3 * of_class, "both": 2 * box + 3 * of_class}[predict]
    given_to_it = {"box": numbers, "class": logits, "both": outputs}[predict]
    actual = largest.loss(given_to_it, targets, options_of("largest", predict=predict, box_sigmoid=sigmoid))
    torch.testing.assert_close(actual, expected)


@given(seed=st.integers(0, 10_000), sigmoid=st.booleans())
def test_encoding_then_decoding_gives_the_box_back(seed: int, sigmoid: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    box = boxes_at_random(1, generator)
    label = torch.randint(5, (1,), generator=generator)
    target = largest.targets(box, label, OPTIONS, shape=SHAPE)
    numbers = target[1:5].logit(eps=1e-6) if sigmoid else target[1:5]
    outputs = torch.cat([numbers, 20 * F.one_hot(label[0], 5)])[None]
    (detections,) = largest.decode(outputs, options_of("largest", box_sigmoid=sigmoid))
    torch.testing.assert_close(detections.boxes, box, atol=1e-5, rtol=0)
    assert detections.labels.tolist() == label.tolist() and detections.scores.item() == pytest.approx(1)


def test_what_is_not_predicted_is_filled_in() -> None:
    (detections,) = largest.decode(torch.tensor([[0.5, 0.5, 0.2, 0.4]]), options_of("largest", predict="box"))
    assert detections.boxes[0].tolist() == pytest.approx([0.4, 0.3, 0.6, 0.7])
    assert (detections.scores.tolist(), detections.labels.tolist()) == ([1], [0])
    (detections,) = largest.decode(torch.tensor([[0.0, 2.0]]), options_of("largest", predict="class"))
    assert (detections.boxes.tolist(), detections.labels.tolist()) == ([[0, 0, 1, 1]], [1])


def test_all_boxes_but_one_are_out_of_its_reach() -> None:
    assert [largest.unassigned(torch.zeros(count, 4), OPTIONS, SHAPE) for count in range(4)] == [0, 0, 1, 2]
