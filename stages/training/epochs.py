"""How many epochs `epochs: auto` takes: few images train long enough, and many not for days."""

import math

from stages.errors import counted
from stages.heads.registry import HEADS
from stages.params import FEWEST_EPOCHS, Params, with_overrides

EPOCHS = 40  # with more of them, a detector of few images learns its images by heart
FEWEST_STEPS = 400  # of the optimiser, in all: more epochs than EPOCHS where images are few
MOST_STEPS = 2000  # fewer epochs than EPOCHS where images are many, but at least FEWEST_EPOCHS
MOST_EPOCHS = 300  # fewer steps than FEWEST_STEPS where a handful of images would be repeated more often


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
    steps = max(1, math.ceil(images / params.batch_size))  # without an image training itself says what is missing
    wanted = max(math.ceil(FEWEST_STEPS / steps), min(EPOCHS, MOST_STEPS // steps))
    epochs = min(max(wanted, FEWEST_EPOCHS), MOST_EPOCHS)
    sentence = (
        f"epochs: auto takes {epochs}: {counted(images, 'images')} in batches of {params.batch_size} give "
        f"{counted(steps, 'steps')} per epoch, {epochs * steps:,} in all"
    )
    read = not (params.phases or HEADS[params.head].closed_form)
    return with_overrides(params, {"epochs": epochs}), sentence if read else ""
