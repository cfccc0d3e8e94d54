"""The optimizers of torch without torch.compile, which the first step of each would import: a second for nothing."""

import inspect
from typing import TypeVar

import torch
from torch import optim

Kind = TypeVar("Kind", bound=optim.Optimizer)
TIED = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")  # wrapped to tell the compiler to leave them


def eager(kind: type[Kind]) -> type[Kind]:
    """An optimizer whose methods are those beneath the wrappers for the compiler; its steps are the same, bit for bit.

    Args:
        kind: one of torch's optimizers.
    """

    class Eager(kind):  # type: ignore[valid-type,misc]
        step = torch.no_grad()(inspect.unwrap(kind.step))

    for name in TIED:
        setattr(Eager, name, inspect.unwrap(getattr(kind, name)))
    return Eager


LBFGS = eager(optim.LBFGS)
SGD = eager(optim.SGD)
Adam = eager(optim.Adam)
AdamW = eager(optim.AdamW)
