"""Many small pictures in one: those that the confusion matrix and the map of the page show on a click."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from stages.datasets.index_file import IndexRow
from stages.machine import cores
from stages.reporting.pictures import TILE, Album, data_uri
from stages.reporting.predictions import ClassPredictions, Neighbours

COLUMNS = 40
QUALITY = 68
SHOWN, MISTAKES = 1200, 400  # images spread evenly, and mistakes besides: with these a page stays below 8 MB


@dataclass(frozen=True)
class Sheet:
    """One JPEG with a tile for each of some images.

    Attributes:
        uri: the JPEG, `COLUMNS` tiles per row.
        images: the images, as positions among the evaluated ones, in the order of the tiles.
        points: where each lies on the map, in [0, 1]; None for an image that is not on it.
    """

    uri: str
    images: list[int]
    points: list[tuple[float, float] | None]

    def data(self, judged: ClassPredictions, rows: Sequence[IndexRow], names: Sequence[str]) -> dict[str, Any]:
        """What the script of the page reads: for each tile actual and predicted class, confidence, path and point."""
        tiles = [
            [
                int(judged.labels[image]),
                int(judged.chosen[image]),
                round(float(judged.confidence[image]), 3),
                rows[image].path,
                point and [round(value, 4) for value in point],
            ]
            for image, point in zip(self.images, self.points, strict=True)
        ]
        return {"side": TILE, "columns": COLUMNS, "classes": names, "tiles": tiles}


def make(judged: ClassPredictions, near: Neighbours, rows: Sequence[IndexRow], album: Album) -> Sheet | None:
    """The sheet of a run; None where no picture can be made."""
    images = choose(judged, near)
    on_map = {int(image): (float(x), float(y)) for image, (x, y) in zip(near.mapped, near.map, strict=True)}
    with ThreadPoolExecutor(cores()) as pool:
        tiles = list(pool.map(lambda image: album.tile(rows[image]), images))
    if not any(tiles):
        return None
    sheet = Image.new("RGB", (TILE * COLUMNS, TILE * -(-len(images) // COLUMNS)), "#888")
    for number, tile in enumerate(tiles):
        if tile:
            sheet.paste(tile, (TILE * (number % COLUMNS), TILE * (number // COLUMNS)))
    return Sheet(data_uri(sheet, QUALITY), images, [on_map.get(image) for image in images])


def choose(judged: ClassPredictions, near: Neighbours) -> list[int]:
    """The images on the map, or as many spread evenly, then the most confident mistakes that are not among them."""
    count = len(judged.labels)
    spread = near.mapped if len(near.mapped) else np.linspace(0, count - 1, min(SHOWN, count)).round().astype(int)
    images = [int(image) for image in spread]
    surest = [int(image) for image in np.argsort(-judged.confidence, kind="stable") if not judged.right[image]]
    spread_images = {*images}
    return images + [image for image in surest if image not in spread_images][:MISTAKES]
