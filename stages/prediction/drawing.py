"""Boxes drawn into a copy of an image."""

import io as streams
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image as Pictures
from torchvision.utils import draw_bounding_boxes

from stages import files
from stages.boxes.geometry import Detections
from stages.command import shown
from stages.prediction.files import ImageFile
from stages.reporting.objects import COLOURS

QUALITY = 90
STEM_BYTES = 200  # of a file's name: most file systems take 255
NAME_LETTERS = 40  # of a class
LINE, LETTER = 250, 45  # a line's width and a letter's height: one pixel for so many of the longer side
SMALLEST_LETTER = 11


def draw(image: torch.Tensor, found: Detections, names: Sequence[str]) -> Pictures.Image:
    """A picture with boxes, the surest on top.

    Args:
        image: uint8 (3, H, W).
        found: in its pixels.
        names: what stands in each of the boxes.
    """
    order = found.scores.argsort().tolist()
    colours = [COLOURS[label % len(COLOURS)] for label in found.labels[order].tolist()]
    names = [shown(name)[:NAME_LETTERS] for name in names]
    longer = max(image.shape[1:])
    drawn = image
    if order:
        drawn = draw_bounding_boxes(
            image,
            found.boxes[order],
            [names[place] for place in order],
            colors=colours,
            width=max(2, longer // LINE),
            font=_font(),
            font_size=max(SMALLEST_LETTER, longer // LETTER),
            fill_labels=True,
        )
    return Pictures.fromarray(drawn.permute(1, 2, 0).numpy())


def write(picture: Pictures.Image, folder: Path, file: ImageFile) -> Path:
    """Writes a picture into a folder, named after its image: files of one name but other content do not meet."""
    stem = os.fsdecode(os.fsencode(Path(file.path).stem)[:STEM_BYTES])
    path = folder / f"{stem}-{file.sha256[:12]}.jpg"
    stream = streams.BytesIO()
    picture.save(stream, "JPEG", quality=QUALITY)
    files.write_bytes(path, stream.getvalue())
    return path


def _font() -> str:
    """A font with more alphabets than Pillow's own."""
    import matplotlib

    return str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf")
