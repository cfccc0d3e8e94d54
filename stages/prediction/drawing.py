"""Pictures with the predicted boxes drawn in."""

import io
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torchvision.utils import draw_bounding_boxes

from stages import files
from stages.boxes.geometry import Detections
from stages.command import shown
from stages.images.colours import colour_of
from stages.prediction.image_files import ImageFile

JPEG_QUALITY = 90
STEM_BYTES = 200  # of a file's name: most file systems allow 255
NAME_LETTERS = 40  # of a class
SIDE_PER_LINE_PIXEL, SIDE_PER_LETTER_PIXEL = 250, 45  # the longer side of an image that gives a line or letter a pixel
SMALLEST_LETTER = 11


def draw(image: torch.Tensor, detections: Detections, captions: Sequence[str]) -> Image.Image:
    """Draws boxes into an image, those with the highest scores on top.

    Args:
        image: (3, H, W) uint8.
        detections: n boxes in pixels of the image.
        captions: n texts, one for each box.
    """
    order = detections.scores.argsort().tolist()
    longer = max(image.shape[1:])
    if order:
        image = draw_bounding_boxes(
            image,
            detections.boxes[order],
            [shown(captions[box])[:NAME_LETTERS] for box in order],
            colors=[colour_of(label) for label in detections.labels[order].tolist()],
            width=max(2, longer // SIDE_PER_LINE_PIXEL),
            font=_font(),
            font_size=max(SMALLEST_LETTER, longer // SIDE_PER_LETTER_PIXEL),
            fill_labels=True,
        )
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def write(picture: Image.Image, folder: Path, file: ImageFile) -> Path:
    """Writes a picture into a folder and returns its path.

    Its name is that of the image with the start of its checksum, so that two images of one name do not overwrite each
    other.
    """
    stem = os.fsdecode(os.fsencode(Path(file.path).stem)[:STEM_BYTES])
    path = folder / f"{stem}-{file.sha256[:12]}.jpg"
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=JPEG_QUALITY)
    files.write_bytes(path, stream.getvalue())
    return path


def _font() -> str:
    """A font that has more alphabets than Pillow's own."""
    import matplotlib

    return str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf")
