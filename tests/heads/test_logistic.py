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
    train, val = clusters(rows, columns), clusters(30, columns, seed=1)
    path, exact = (logistic.build((columns,), 4, HeadOptions()) for _ in range(2))
    for solution, strength in zip(logistic.solutions(path, train, val), logistic.STRENGTHS[:7], strict=False):
        assert solution.notes == {"strength": strength}
        assert logistic.solve(exact, train, solution.notes) == solution
        reference = LogisticRegression(C=1 / (strength * train.variance * rows), tol=1e-10, max_iter=10_000)
        reference.fit(train.x.double().numpy(), train.labels.numpy())
        expected = torch.from_numpy(reference.predict_proba(val.x.double().numpy())).float()
        with torch.inference_mode():
            torch.testing.assert_close(exact(val.x).softmax(1), expected, atol=1e-4, rtol=0)
            torch.testing.assert_close(path(val.x).softmax(1), expected, atol=5e-3, rtol=0)


def test_the_path_ends_when_validation_gets_worse_again_and_again() -> None:
    train, val = clusters(40, 60), clusters(30, 60, seed=1)
    path = list(logistic.solutions(logistic.build((60,), 4, HeadOptions()), train, val))
    assert logistic.PATIENCE < len(path) < len(logistic.STRENGTHS)
