"""How many epochs `epochs: auto` takes: as many as give a number of steps, so that few images train long enough."""

import math

from stages.errors import counted
from stages.heads.registry import HEADS
from stages.params import FEWEST_EPOCHS, Params, with_overrides

STEPS = 1000  # of the optimiser, in all
MOST = 300  # epochs: fewer steps than STEPS where a handful of images would be repeated more often


def resolve(params: Params, images: int) -> tuple[Params, str]:
    """Params with a number in place of `epochs: auto`.

    Args:
        params: `epochs`, and `batch_size`.
        images: in the train split.

    Returns:
        The params, and a sentence that says what was taken and why. It is empty if `epochs` is a number already, or if
        the head does not read it.
    """
    if params.epochs != "auto":
        return params, ""
    steps = math.ceil(images / params.batch_size)
    epochs = min(max(math.ceil(STEPS / steps), FEWEST_EPOCHS), MOST)
    sentence = (
        f"epochs: auto takes {epochs}: {counted(images, 'images')} in batches of {params.batch_size} give "
        f"{counted(steps, 'steps')} per epoch, {epochs * steps:,} in all"
    )
    read = not (params.phases or HEADS[params.head].closed_form)
    return with_overrides(params, {"epochs": epochs}), sentence if read else ""
