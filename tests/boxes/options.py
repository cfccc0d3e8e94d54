"""Options of the heads that find objects."""

from typing import Any

from stages.heads.registry import HEADS

KNOBS: dict[str, Any] = {
    "hidden": 8,
    "tower_depth": 1,
    "dropout": 0.0,
    "predict": "both",
    "pool": "none",
    "largest_hidden": 0,
    "box_sigmoid": False,
    "box_loss": "smooth_l1",
    "box_weight": 2.0,
    "class_weight": 3.0,
    "mining": 0.0,
    "loss": "cross_entropy",
    "focal_gamma": 2.0,
    "focal_alpha": 0.25,
    "anchor_count": 6,
    "anchor_sizes": [[0.28, 0.14], [0.2, 0.2], [0.14, 0.28], [0.7, 0.35], [0.5, 0.5], [0.35, 0.7]],
    "anchor_match": 0.5,
    "anchor_ignore": 0.4,
}


def options_of(head: str, **changes: Any) -> Any:
    """The options of a head, with some of them changed."""
    return HEADS[head].read(KNOBS | changes)
