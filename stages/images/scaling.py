"""Images of more than 8 bits per value: which values become black and white.

White is 65,535 in 16-bit integers and 255 in floats. These plain conversions are not reported, and with them a float
image of 0 to 1, or one of 12 bits stored in 16, would be black. Such an image is scaled by the range that its file
states (TIFF's MinSampleValue and MaxSampleValue), else by the values that it holds, and its scaling is reported.
"""

import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

SCALING = 1  # version of the rule, raised whenever scaled images come out otherwise
BITS = (8, 10, 12, 14)  # that cameras and scanners keep in 16
PERCENTILES = (0.5, 99.5)
SAMPLE_RANGES = ((340, 341), (280, 281))  # tags of a TIFF: SMinSampleValue and SMaxSampleValue, Min and Max
Values = npt.NDArray[Any]
Range = tuple[float, float]
FULL_RANGE: Range = (0.0, 65_535.0)  # of 16 bits: a plain conversion


class Scaling(NamedTuple):
    """How values become 0 to 255: `low` black, `high` white.

    Attributes:
        description: for people, "float, 0 to 1".
    """

    low: float
    high: float
    description: str

    def apply(self, values: Values) -> npt.NDArray[np.uint8]:
        """Values of any type as 0 to 255; what is not a number is black."""
        span = self.high - self.low or 1.0
        scaled = np.nan_to_num((values.astype(np.float64) - self.low) * (255 / span), nan=0, posinf=255, neginf=0)
        return scaled.round().clip(0, 255).astype(np.uint8)


def is_wide(image: Image.Image) -> bool:
    """Whether an opened image has more than 8 bits per value."""
    return image.mode.startswith(("I", "F")) or ";16" in _raw_mode(image)


def to_8_bits(
    image: Image.Image, stated: Range | None, low_bytes: Callable[[], Image.Image | None]
) -> tuple[Image.Image, Scaling | None]:
    """An image with 8 bits per value, and its scaling; None where it is a plain conversion.

    Args:
        image: loaded; with several channels of 16 bits Pillow has kept the high byte of each value.
        stated: what `stated_range` says of it.
        low_bytes: gives the low bytes of such channels; None where they cannot be had.
    """
    if image.mode.startswith("I") or image.mode == "F":
        return _grey_to_8_bits(image, stated)
    high = np.asarray(image)
    if stated == FULL_RANGE or (not stated and high[..., :3].max(initial=0) >= 1 << (max(BITS) - 8)):
        return image, None
    low = low_bytes()
    if low is None:
        return image, None
    values = high.astype(np.uint16) << 8 | np.asarray(low)
    colours = values if image.mode not in ("LA", "RGBA") else values[..., :-1]
    scaling = _of_stated(colours, stated) or _of_integers(colours)
    return (Image.fromarray(scaling.apply(values), image.mode), scaling) if scaling else (image, None)


def stated_range(image: Any) -> Range | None:
    """The values that the file of an opened image says are black and white; None where it does not say."""
    if image.format == "PPM" and image.mode == "I":
        return FULL_RANGE  # its header has the largest value, by which Pillow scales
    tags: Mapping[int, Any] = image.tag_v2 if image.format == "TIFF" else {}
    for low_tag, high_tag in SAMPLE_RANGES:
        low, high = (_number(tags.get(tag)) for tag in (low_tag, high_tag))
        if high is not None and high > (low or 0):
            return low or 0.0, high
    return None


def swap_bytes(image: Any) -> bool:
    """Lets an opened image load the low byte of each 16-bit value, not the high one; whether that can be done."""
    mode = _raw_mode(image)
    other = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}.get(mode[-1:])
    if not other or ";16" not in mode:
        return False
    swapped = mode[:-1] + other
    image.tile = [
        tile._replace(args=swapped if isinstance(tile.args, str) else (swapped, *tile.args[1:])) for tile in image.tile
    ]
    return True


def _raw_mode(image: Any) -> str:
    """How the file lays out its values, as Pillow calls it: `RGB;16B`."""
    arguments = image.tile[0].args if getattr(image, "tile", None) else ""
    return str(arguments if isinstance(arguments, str) else next(iter(arguments or ()), ""))


def _grey_to_8_bits(image: Image.Image, stated: Range | None) -> tuple[Image.Image, Scaling | None]:
    """The same of an image of one channel, whose values Pillow keeps whole."""
    values = np.asarray(image)
    scaling = _of_stated(values, stated)
    if not scaling and stated != FULL_RANGE:
        scaling = _of_floats(values) if image.mode == "F" else _of_integers(values)
    if scaling:
        return Image.fromarray(scaling.apply(values)), scaling
    divisor = 1 if image.mode == "F" else 257
    plain = np.nan_to_num(values.astype(np.float64)) / divisor
    return Image.fromarray(plain.clip(0, 255).astype(np.uint8)), None


def _number(value: Any) -> float | None:
    values = value if isinstance(value, tuple) else (value,)
    return float(values[0]) if values and isinstance(values[0], int | float) else None


def _of_stated(values: Values, stated: Range | None) -> Scaling | None:
    """By the range that the file states, if all values lie in it."""
    if not stated or stated == FULL_RANGE or not values.size:
        return None
    if values.min() < stated[0] or values.max() > stated[1]:
        return None
    return Scaling(*stated, f"{stated[0]:,g} to {stated[1]:,g}, as the file states")


def _of_integers(values: Values) -> Scaling | None:
    """By the smallest usual number of bits that holds all values; None where these are 16."""
    lowest, highest = (int(values.min()), int(values.max())) if values.size else (0, 0)
    if lowest < 0 or highest > FULL_RANGE[1]:
        return _of_percentiles(values, "integers")
    for bits in BITS:
        if highest < 1 << bits:
            return Scaling(0, (1 << bits) - 1, f"{bits}-bit integers, 0 to {(1 << bits) - 1:,}")
    return None


def _of_floats(values: Values) -> Scaling | None:
    """0 to 1 or -1 to 1 where these hold all values; None where 0 to 255 does."""
    finite = values[np.isfinite(values)]
    lowest, highest = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if lowest >= 0 and highest <= 1:
        return Scaling(0, 1, "floats, 0 to 1")
    if lowest >= -1 and highest <= 1:
        return Scaling(-1, 1, "floats, -1 to 1")
    return None if lowest >= 0 and highest <= 255 else _of_percentiles(finite, "floats")


def _of_percentiles(values: Values, kind: str) -> Scaling:
    """By the image's own range, without its rarest values."""
    low, high = (float(value) for value in np.percentile(values, PERCENTILES))
    return Scaling(low, high, f"{kind}, {low:,.4g} to {high:,.4g}: its range without the outer 0.5 %")
