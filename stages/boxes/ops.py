"""torchvision.ops, imported at the first call: the import takes 1.5 s, and classification heads do not need it.

`ops.box_iou` is `torchvision.ops.box_iou`, and so on.
"""

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    return getattr(import_module("torchvision.ops"), name)
