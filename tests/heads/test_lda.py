"""Shrinkage discriminant analysis against scikit-learn's."""

import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch.nn import functional as F

from stages.blocks import HeadOptions
from stages.errors import UserError
from stages.heads import lda
from stages.heads.contract import LabelledVectors
from tests.heads.clusters import clusters


@pytest.mark.parametrize(("rows", "columns"), [(90, 12), (40, 60)])
def test_it_is_that_of_scikit_learn(rows: int, columns: int) -> None:
    train, val = clusters(rows, columns), clusters(30, columns, seed=1)
    layers = lda.build((columns,), 4, HeadOptions())
    for solution, shrinkage in zip(lda.solutions(layers, train, val), lda.SHRINKAGES, strict=True):
        scale = solution.notes["scale"]
        assert solution.notes == {"shrinkage": shrinkage, "scale": scale} and scale in lda.SCALES
        reference = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage)
        reference.fit(train.x.double().numpy(), train.labels.numpy())
        with torch.inference_mode():
            probabilities = (layers(val.x) / scale).softmax(1)
        expected = torch.from_numpy(reference.predict_proba(val.x.double().numpy())).float()
        torch.testing.assert_close(probabilities, expected, atol=1e-4, rtol=0)


def test_a_class_without_train_images_is_never_chosen() -> None:
    train, val = clusters(60, 8), clusters(30, 8, seed=1)
    layers = lda.build((8,), 5, HeadOptions())  # the fifth has none
    for _ in lda.solutions(layers, train, val):
        with torch.inference_mode():
            logits = layers(val.x)
        assert logits.isfinite().all() and not (logits.argmax(1) == 4).any()


@pytest.mark.parametrize("columns", [8, 60])
def test_one_image_per_class_is_refused_with_a_head_that_can(columns: int) -> None:
    train = LabelledVectors(torch.randn(10, columns, generator=torch.Generator().manual_seed(0)), torch.arange(10))
    with pytest.raises(UserError, match="no class has two different ones in train: take ridge"):
        next(lda.solutions(lda.build((columns,), 10, HeadOptions()), train, train))


def test_the_scale_has_the_lowest_cross_entropy_on_validation() -> None:
    train, val = clusters(40, 60), clusters(30, 60, seed=1)
    layers = lda.build((60,), 4, HeadOptions())
    for solution in lda.solutions(layers, train, val):
        scale = solution.notes["scale"]
        with torch.inference_mode():
            scores = layers(val.x) / scale
        losses = [float(F.cross_entropy(other * scores, val.labels)) for other in lda.SCALES]
        assert solution.val_loss == pytest.approx(min(losses), rel=1e-4)
