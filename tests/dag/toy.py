"""A run of seconds: tiny images, random weights."""

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("red", "green", "blue")
IMAGES = 8  # a class
BASE = {  # a run of seconds: tiny images, random weights
    "dataset": "folder",
    "backbone": "squeezenet1_1",
    "weights": "random",
    "image_size": 64,
    "epochs": 2,
    "hidden": 8,
}
# The stages that run from one on.
FROM_TRAIN = {"train", "evaluate", "report"}
FROM_HEAD = {"lr_sweep", *FROM_TRAIN}
FROM_EXTRACT = {"extract", "review", *FROM_HEAD}
FROM_SPLIT = {"split", "review", *FROM_HEAD}
FROM_INDEX = {"index", "split", *FROM_EXTRACT}
FROM_EVALUATE = {"evaluate", "report"}
NOTHING: set[str] = set()
FROM_SUGGESTION = {"lr_sweep", "report"}  # and train, where the suggestion is another one
AUGMENT = {"extract", "lr_sweep", "train"}  # with one view of each image nothing comes out otherwise


def draw_images(folder: Path, images: int, seed: int = 0) -> None:
    """Noise around one colour a class."""
    generator = np.random.default_rng(seed)
    for number, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for image in range(images):
            pixels = generator.integers(0, 120, (40, 48, 3), dtype=np.uint8)
            pixels[..., number] += 100
            Image.fromarray(pixels).save(folder / name / f"{seed}-{image:02}.jpg")


def digests(home: Path) -> dict[str, str]:
    results = [path for folder in ("cache/head", "reports") for path in (home / folder).rglob("*") if path.is_file()]
    return {str(path.relative_to(home)): hashlib.sha256(path.read_bytes()).hexdigest() for path in results}
