"""Many small pictures of judged images in one: what the confusion matrix and the map of the page show on a click."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from stages.datasets.index_file import IndexRow
from stages.reporting.pictures import TILE, Album, data_uri
from stages.reporting.predictions import ClassPredictions, Neighbours

COLUMNS = 40
QUALITY = 68
SHOWN, MISTAKES = 1200, 400  # images spread evenly, and mistakes besides: with these a page stays below 8 MB


@dataclass(frozen=True)
class Sheet:
    """Judged images and their pictures.

    Attributes:
        uri: of a JPEG with a tile for each image, `COLUMNS` in a row.
        places: positions among the judged images, in the order of the tiles.
        points: where each lies on the map, in [0, 1]; None for one that is not on it.
    """

    uri: str
    places: list[int]
    points: list[tuple[float, float] | None]

    def data(self, judged: ClassPredictions, rows: Sequence[IndexRow], names: Sequence[str]) -> dict[str, Any]:
        """What the script of the page reads: of each tile actual and predicted class, confidence, path and point."""
        tiles = [
            [
                int(judged.labels[place]),
                int(judged.chosen[place]),
                round(float(judged.confidence[place]), 3),
                rows[place].path,
                point and [round(value, 4) for value in point],
            ]
            for place, point in zip(self.places, self.points, strict=True)
        ]
        return {"side": TILE, "columns": COLUMNS, "classes": names, "tiles": tiles}


def make(judged: ClassPredictions, near: Neighbours, rows: Sequence[IndexRow], album: Album) -> Sheet | None:
    """The sheet of a run; None where no picture can be had."""
    places = choose(judged, near)
    on_map = {int(place): (float(x), float(y)) for place, (x, y) in zip(near.mapped, near.map, strict=True)}
    tiles = [album.tile(rows[place]) for place in places]
    if not any(tiles):
        return None
    sheet = Image.new("RGB", (TILE * COLUMNS, TILE * -(-len(places) // COLUMNS)), "#888")
    for number, tile in enumerate(tiles):
        if tile:
            sheet.paste(tile, (TILE * (number % COLUMNS), TILE * (number // COLUMNS)))
    return Sheet(data_uri(sheet, QUALITY), places, [on_map.get(place) for place in places])


def choose(judged: ClassPredictions, near: Neighbours) -> list[int]:
    """Those of the map, or as many spread evenly, then the surest mistakes that are not among them."""
    count = len(judged.labels)
    spread = near.mapped if len(near.mapped) else np.linspace(0, count - 1, min(SHOWN, count)).round().astype(int)
    places = [int(place) for place in spread]
    surest = [int(place) for place in np.argsort(-judged.confidence, kind="stable") if not judged.right[place]]
    there = {*places}
    return places + [place for place in surest if place not in there][:MISTAKES]
