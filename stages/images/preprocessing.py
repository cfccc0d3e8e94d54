"""What happens to an image before a network sees it, as numbers and as text.

`stages.images.decode` and `stages.images.views` do it. This module goes without torchvision, whose import takes 1.5 s.
"""

import json
import re
from dataclasses import dataclass, replace
from typing import Literal, get_args

ASPECT_RATIOS = (3 / 4, 4 / 3)  # of a random crop, as usual since Szegedy et al. 2014
FILL = 128  # grey, where a rotation shows what lies outside the image
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]


@dataclass(frozen=True)
class Preprocessing:
    """What the weights expect: short side to `resize`, the centre `crop`, then (x / 255 - mean) / std.

    Where `resize` is None the whole image is squashed to `crop` × `crop`.
    """

    resize: int | None
    crop: int
    interpolation: Interpolation
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __str__(self) -> str:
        """Readable and hashable: part of the provenance."""
        size = f"resize({self.crop}x{self.crop}" if self.resize is None else f"resize({self.resize}"
        crop = "" if self.resize is None else f"|center_crop({self.crop})"
        return f"decode|{size},{self.interpolation}){crop}|normalize({list(self.mean)},{list(self.std)})"

    @classmethod
    def parse(cls, text: str) -> "Preprocessing":
        """The inverse of `str`."""
        pattern = r"decode\|resize\((\d+)(?:x\d+)?,(\w+)\)(?:\|center_crop\((\d+)\))?\|normalize\((\[.*?\]),(\[.*?\])\)"
        match = re.fullmatch(pattern, text)
        if not match:
            raise ValueError(f"{text!r} does not describe a preprocessing")
        size, mode, crop, mean, std = match.groups()
        resize = None if crop is None else int(size)
        return cls(resize, int(crop or size), interpolation(mode), tuple(json.loads(mean)), tuple(json.loads(std)))

    def at(self, image_size: int | Literal["auto"], resize: Literal["crop", "squash"]) -> "Preprocessing":
        """The same for another input size; the crop keeps its share of the image."""
        crop = self.crop if image_size == "auto" else image_size
        if resize == "squash" or self.resize is None:
            return replace(self, resize=None, crop=crop)
        return replace(self, crop=crop, resize=round(self.resize * crop / self.crop))


def interpolation(name: str) -> Interpolation:
    """An interpolation by its name in any case.

    Raises:
        ValueError: there is no such interpolation.
    """
    for mode in get_args(Interpolation):
        if mode == name.lower():
            return mode  # type: ignore[no-any-return]
    raise ValueError(f"interpolation {name!r} is not one of {get_args(Interpolation)}")
