"""How large `image_size: objects` makes the input: as the objects need, and no larger than most images are."""

import math
from collections.abc import Sequence
from statistics import median, quantiles

from stages.datasets.index_file import IndexRow
from stages.errors import UserError

SMALLEST_SIDE = 64  # pixels that nine of ten objects should have at least, on strides of 8, 16 and 32
STRIDE = 32  # sizes are multiples of it
LEAST, MOST = 224, 512  # pixels a side


def choose(rows: Sequence[IndexRow]) -> tuple[int, str]:
    """The size of the input in pixels a side, and a sentence that says why.

    The side of an object is the square root of its area. Objects of an official val or test list do not take part.

    Args:
        rows: the index.

    Raises:
        UserError: there is no object.
    """
    train = [row for row in rows if row.split in (None, "train")]
    shares = [math.sqrt(box.area / (row.width * row.height)) for row in train for box in row.objects]
    if not shares:
        raise UserError("`image_size`: objects needs boxes, and no image of train has any: take image_size=auto.")
    small = quantiles([*shares, shares[0]], n=10, method="inclusive")[0]  # two values at least
    of_images = median(max(row.width, row.height) for row in train)
    needed = STRIDE * math.ceil(SMALLEST_SIDE / small / STRIDE)
    size = max(LEAST, min(needed, MOST, STRIDE * math.ceil(of_images / STRIDE)))
    return size, (
        f"image_size: objects takes {size}: nine of ten objects have sides of at least {small:.0%} of the image's, "
        f"{small * size:.0f} pixels at this size, and the longer side of the images is {of_images:.0f} pixels"
    )
