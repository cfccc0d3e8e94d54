"""The optimizers of torch without its compiler: the same steps, bit for bit, and nothing of it imported."""

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import optim
from torch.nn import functional as F
from torch.optim import lr_scheduler

from stages.heads import optimizers

CASES = {
    "AdamW": {"lr": 0.01, "weight_decay": 0.1, "fused": True},
    "Adam": {"lr": 0.01, "weight_decay": 0.1, "fused": True},
    "SGD": {"lr": 0.01, "weight_decay": 0.1, "momentum": 0.9, "fused": True},
    "LBFGS": {"max_iter": 3, "line_search_fn": "strong_wolfe"},
}
STEP = """
import sys, torch
from stages.heads.optimizers import LBFGS, AdamW
weight = torch.zeros(2, requires_grad=True)
for optimizer in (AdamW([weight], fused=True), LBFGS([weight])):
    def loss():
        optimizer.zero_grad()
        value = (weight - 1).square().sum()
        value.backward()
        return value
    optimizer.step(loss)
    optimizer.load_state_dict(optimizer.state_dict())
print([name for name in ("torch._dynamo", "sympy") if name in sys.modules])
"""


def descend(kind: Callable[..., optim.Optimizer], options: Mapping[str, Any]) -> tuple[torch.Tensor, dict[str, Any]]:
    """The weights of a linear layer after some steps, with its state saved and loaded in between."""
    torch.manual_seed(0)
    layer, x, labels = torch.nn.Linear(12, 3), torch.randn(20, 12), torch.arange(20) % 3
    optimizer = kind(layer.parameters(), **options)
    schedule = lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))

    def loss() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        value = F.cross_entropy(layer(x), labels)
        value.backward()
        return value

    for number in range(6):
        optimizer.step(loss)
        schedule.step()
        if number == 2:
            optimizer.load_state_dict(optimizer.state_dict())
    return layer.weight.detach().clone(), optimizer.state_dict()


@pytest.mark.parametrize("name", CASES)
def test_steps_are_those_of_torch(name: str) -> None:
    weight, state = descend(getattr(optimizers, name), CASES[name])
    expected, expected_state = descend(getattr(optim, name), CASES[name])
    assert torch.equal(weight, expected)
    assert state["param_groups"] == expected_state["param_groups"]


def test_a_step_imports_no_compiler(repository: Path) -> None:
    done = subprocess.run([sys.executable, "-c", STEP], cwd=repository, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
