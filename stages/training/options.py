"""What training reads of params.yaml in blocks: `phases` and `lr_sweep`."""

from typing import Annotated

from pydantic import Field, model_validator

from stages.blocks import Block

FEWEST_STEPS = 10  # of a range test


class Phase(Block):
    """A stretch of training. A rate that it does not set comes from the flat knob of the same name."""

    epochs: Annotated[int, Field(ge=1)]
    train_from: str = "all"
    lr: Annotated[float, Field(gt=0)] | None = None
    lr_backbone: Annotated[float, Field(gt=0)] | None = None
    groups: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)


class LrSweep(Block):
    """The learning-rate range test: from `low` to `high` in `steps` steps; without steps there is none."""

    low: Annotated[float, Field(gt=0)]
    high: Annotated[float, Field(gt=0)]
    steps: Annotated[int, Field(ge=0, le=10_000)]

    @model_validator(mode="after")
    def _rises(self) -> "LrSweep":
        if self.low >= self.high:
            raise ValueError("low must be below high")
        if 0 < self.steps < FEWEST_STEPS:
            raise ValueError(f"steps must be 0, for no range test, or at least {FEWEST_STEPS}")
        return self
