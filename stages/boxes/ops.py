"""torchvision.ops, imported at the first call: that takes a second and a half, and heads that name images call none.

`ops.box_iou` is `torchvision.ops.box_iou`, and so on.
"""

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    return getattr(import_module("torchvision.ops"), name)
