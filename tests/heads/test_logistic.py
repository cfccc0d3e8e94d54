"""Logistic regression against scikit-learn's."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from stages.blocks import HeadOptions
from stages.heads import logistic
from tests.heads.clusters import clusters


@pytest.mark.parametrize(("rows", "columns"), [(120, 10), (40, 60)])
def test_it_is_that_of_scikit_learn(rows: int, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logistic, "PATIENCE", 100)
    monkeypatch.setattr(logistic, "GRADIENT", 1e-8)
    train, val = clusters(rows, columns), clusters(30, columns, seed=1)
    layers = logistic.build((columns,), 4, HeadOptions())
    solutions = logistic.solutions(layers, train, val)
    for solution, strength in zip(solutions, logistic.STRENGTHS[:7], strict=False):
        assert solution.notes == {"strength": strength}
        reference = LogisticRegression(C=1 / (strength * rows), tol=1e-10, max_iter=10_000)
        reference.fit(train.x.double().numpy(), train.labels.numpy())
        with torch.inference_mode():
            probabilities = layers(val.x).softmax(1)
        expected = torch.from_numpy(reference.predict_proba(val.x.double().numpy())).float()
        torch.testing.assert_close(probabilities, expected, atol=1e-4, rtol=0)


def test_the_path_ends_when_validation_gets_worse_again_and_again() -> None:
    train, val = clusters(40, 60), clusters(30, 60, seed=1)
    path = list(logistic.solutions(logistic.build((60,), 4, HeadOptions()), train, val))
    assert logistic.PATIENCE < len(path) < len(logistic.STRENGTHS)
