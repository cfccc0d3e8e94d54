"""What an extraction will cost, before it starts: bytes, seconds, and whether the disk can hold it."""

import json
from math import prod
from pathlib import Path

import numpy as np

from stages import files, paths
from stages.errors import UserError
from stages.features import h5

UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
HOUR, DAY = 3600.0, 86400.0


def view_bytes(layers: h5.Shapes) -> int:
    """Bytes that one view of one image takes."""
    return sum(prod(shape) * np.dtype(dtype).itemsize for shape, dtype in layers.values())


def describe(layers: h5.Shapes, *, images: int, views: int, missing: int, speed: float | None) -> str:
    """One line: "9,144 images × 1,280 × float16 = 23.4 MB, about 35 s at 268 images/s; 12 rows missing".

    Args:
        layers: layer -> shape of one view of one image, and dtype.
        images: all of them.
        views: of each image.
        missing: number of views that must be computed.
        speed: of the last run, in views per second; None where it is not known.
    """
    shapes = " + ".join(" × ".join(f"{side:,}" for side in shape) for shape, _ in layers.values())
    dtype = np.dtype(next(iter(layers.values()))[1]).name
    per_image = f"{views} views × " if views > 1 else ""
    most = "at most " if h5.INPUT in layers else ""
    size = f"{images:,} images × {per_image}{shapes} × {dtype} = {most}{in_bytes(images * views * view_bytes(layers))}"
    unit = "views" if views > 1 else "images"
    time = f", about {missing / speed:.0f} s at {speed:.0f} {unit}/s" if speed and missing else ""
    return f"{size}{time}; {missing:,} {'views' if views > 1 else 'rows'} missing"


def refuse_where_full(path: Path, layers: h5.Shapes, *, rows: int) -> None:
    """Stops before the work where the disk cannot hold it; for stored images of many sizes nobody knows beforehand.

    Args:
        path: a file on the disk in question.
        layers: as above.
        rows: views of images, in all files that will be written.

    Raises:
        UserError: with the bytes that are needed.
    """
    needed, free = rows * view_bytes(layers), files.free(path)
    if needed > free and h5.INPUT not in layers:
        raise UserError(
            f"{path.parent} has no room for the features: {needed:,} bytes are needed (for the file, and for its parts "
            f"during the run), {free:,} are free. Make room (`python -m stages.store gc --dry-run`) and run again."
        )


def last_speed(backbone: str, cut: str) -> float | None:
    """Views per second of the last extraction in this checkout; None where that was of another network."""
    try:
        timing = json.loads((paths.main_checkout() / paths.TIMINGS / "extract.json").read_text())
        same = (timing["of"]["backbone"], timing["of"]["cut"]) == (backbone, cut)
        return float(timing.get("views/s") or timing["images/s"]) or None if same else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def in_bytes(count: float) -> str:
    """A number of bytes as people write it."""
    power = min(len(UNITS) - 1, max(0, (len(str(int(count))) - 1) // 3))
    return f"{count / 1000**power:.3g} {UNITS[power]}"


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    for unit, length in (("years", 365 * DAY), ("days", DAY), ("hours", HOUR), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:,.0f} s"
