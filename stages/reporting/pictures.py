"""Thumbnails inside the page, of the images that can be read."""

import base64
import io
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from stages import files, paths
from stages.datasets import source
from stages.datasets.index_file import IndexRow
from stages.errors import UserError
from stages.images.header import JPEG_END, open_image
from stages.images.loading import load, upright
from stages.images.scaling import is_wide

SIDE = 280  # pixels of the longer side: sharp at 140 on a screen of double density
TILE = 80  # where there are very many
TILES = f"centre-{TILE}"  # folder of the tiles
QUALITY = 72
LONGEST = 12  # of the sides: a longer image shows its middle


@dataclass(frozen=True)
class Picture:
    """An image of the index, with its thumbnail as a data URI, or None where it cannot be shown."""

    row: IndexRow
    uri: str | None
    width: int = 0
    height: int = 0


@dataclass
class Album:
    """Makes thumbnails and lists those that cannot be made.

    Attributes:
        folder: where the images are; None where they are missing.
        why: the reason for that.
        side: pixels of the longer side of a thumbnail.
        missing: path and reason of every image that could not be shown.
        made: pictures by the checksum of their image.
    """

    folder: Path | None
    why: str = ""
    side: int = SIDE
    missing: dict[str, str] = field(default_factory=dict)
    made: dict[str, Picture] = field(default_factory=dict)

    @classmethod
    def open(cls, dataset: str, options: Any, root: str, side: int = SIDE) -> "Album":
        """The images of a dataset; an album without a folder where its archives or its folder are missing."""
        try:
            folder = source.folder(dataset, options, root)
            if not folder.is_dir():
                raise UserError(f"There is no folder {folder}.")
        except (UserError, OSError) as error:
            return cls(None, str(error), side)
        return cls(folder, side=side)

    @property
    def shown(self) -> int:
        """How many thumbnails were made."""
        return sum(picture.uri is not None for picture in self.made.values())

    def picture(self, row: IndexRow) -> Picture:
        """The picture of an image."""
        if row.sha256 not in self.made:
            self.made[row.sha256] = self._make(row)
        return self.made[row.sha256]

    def views(self, row: IndexRow, provenance: dict[str, Any]) -> list[Picture]:
        """An image in all its views, as the backbone saw them; empty where the image cannot be read."""
        if self.folder is None or self.picture(row).uri is None:
            return []
        from stages.images import views  # imports torch, 3 s: only where there are views to show
        from stages.images.decode import decode
        from stages.images.preprocessing import Preprocessing

        how = Preprocessing.parse(provenance.get("joined", [provenance])[0]["preprocessing"])
        image = decode(source.read(self.folder, row.path, row.sha256))
        pixels_of_views = [
            views.view(image, name, sha256=row.sha256, preprocessing=how, augment=views.settings(name))[0]
            for name in provenance["views"]
        ]
        small = [Image.fromarray(pixels.permute(1, 2, 0).numpy()) for pixels in pixels_of_views]
        for view in small:
            view.thumbnail((SIDE, SIDE))
        return [Picture(row, data_uri(view), *view.size) for view in small]

    def tile(self, row: IndexRow) -> Image.Image | None:
        """The centre of an image, TILE pixels wide and high; None where it cannot be read."""
        try:
            jpeg = self._kept(row, TILES, lambda data: encoded(centre(data), 90))
            return Image.open(io.BytesIO(jpeg)).convert("RGB")
        except Exception:  # as in `_make`, which lists the image as missing
            return None

    def _make(self, row: IndexRow) -> Picture:
        try:
            jpeg = self._kept(row, str(self.side), lambda data: encoded(thumbnail(data, self.side)))
            size = Image.open(io.BytesIO(jpeg)).size
        except Exception as error:  # Pillow has many for a damaged file, and none of them is worth losing the page
            self.missing[row.path] = str(error) or type(error).__name__
            return Picture(row, None)
        return Picture(row, as_uri(jpeg), *size)

    def _kept(self, row: IndexRow, kind: str, draw: Callable[[bytes], bytes]) -> bytes:
        """A small picture of an image as a JPEG, kept in the cache, because the next page shows most of them again.

        Args:
            row: of the image.
            kind: names the folder of pictures that are drawn alike.
            draw: from the bytes of the image.

        Raises:
            Exception: the image cannot be read.
        """
        path = paths.thumbnails() / kind / row.sha256[:2] / f"{row.sha256}.jpg"
        if path.is_file() and (kept := path.read_bytes()).endswith(JPEG_END):  # after a power cut a file may be empty
            return kept
        if self.folder is None:
            raise UserError(self.why)
        jpeg = draw(source.read(self.folder, row.path, row.sha256))
        with suppress(OSError):  # a page without this cache is as good
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = files.temp_path(path)
            temporary.write_bytes(jpeg)
            temporary.replace(path)
        return jpeg


def data_uri(small: Image.Image, quality: int = QUALITY) -> str:
    """A picture as a JPEG inside the page."""
    return as_uri(encoded(small, quality))


def encoded(small: Image.Image, quality: int = QUALITY) -> bytes:
    """A picture as a JPEG."""
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def as_uri(jpeg: bytes) -> str:
    """A JPEG inside the page."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def thumbnail(data: bytes, side: int = SIDE) -> Image.Image:
    """A small upright RGB image, at most `side` pixels a side, without the metadata of the original."""
    colour = _rgb(data, side)
    middle = min(colour.size) * LONGEST
    colour = ImageOps.fit(colour, (min(colour.width, middle), min(colour.height, middle)))
    colour.thumbnail((side, side))
    return _bare(colour)


def centre(data: bytes, side: int = TILE) -> Image.Image:
    """The same of the centre of an image, `side` pixels wide and high."""
    colour = _rgb(data, side)
    short = min(colour.size)
    left, top = (colour.width - short) / 2, (colour.height - short) / 2
    square = (left, top, left + short, top + short)
    return _bare(colour.resize((side, side), Image.Resampling.BICUBIC, square, reducing_gap=2.0))


def _rgb(data: bytes, side: int) -> Image.Image:
    """An upright RGB image, whose shorter side a JPEG may have shrunk, but to no less than `side` pixels."""
    with open_image(data) as image:
        if is_wide(image):  # more than 8 bits per value, which Pillow would clip
            return load(data)[0]
        image.draft("RGB", (side, side))  # JPEG decodes at half, a quarter or an eighth: far faster for photographs
        shown = upright(image)
        return (shown.convert("RGBA") if "transparency" in shown.info else shown).convert("RGB")


def _bare(small: Image.Image) -> Image.Image:
    """An image without the metadata that Pillow would write with it."""
    return Image.frombytes("RGB", small.size, small.tobytes())
