"""Features, labels and parts, lined up and checked against each other before anything trains on them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from stages import paths
from stages.datasets import listing, parts
from stages.errors import UserError
from stages.features import h5
from stages.params import Params

BLOCK = 512  # views read at a time: a block of float16 maps in float32 stays small


@dataclass(frozen=True)
class Part:
    """The images of one part.

    Attributes:
        x: (N, V, D) float32, a vector for each view of each image; the first is the evaluation view.
        y: (N,) int64, positions in the list of classes.
        rows: (N,) positions in the index.
    """

    x: torch.Tensor
    y: torch.Tensor
    rows: list[int]

    @property
    def evaluation(self) -> torch.Tensor:
        """(N, D), the evaluation view of each image."""
        return self.x[:, 0]


@dataclass(frozen=True)
class Data:
    """All that a head is trained and judged on.

    Attributes:
        parts: train, val and test.
        provenance: of the features.
    """

    classes: list[str]
    parts: dict[str, Part]
    provenance: dict[str, Any]


def load(params: Params) -> Data:
    """The chosen dataset's features as vectors, its labels and its parts. Images that cannot be decoded are left out.

    Raises:
        UserError: a file is missing or damaged, or the features are of another backbone, cut or set of images.
    """
    rows = listing.read(params.dataset)
    path = paths.features(params.dataset, params.backbone, params.cut)
    features = h5.read(path)
    check_provenance(features.provenance, params, str(path))
    if features.sha256 != [row.sha256 for row in rows]:
        raise UserError(f"{path} holds the features of other images than {paths.index(params.dataset)}: `dvc repro`.")
    split = parts.read(params.dataset)
    classes = sorted({row.label for row in rows})
    number = {label: place for place, label in enumerate(classes)}
    place_of = {row.sha256: place for place, row in enumerate(rows)}
    vectors = _vectors(features.layers[params.cut])
    made = {}
    for name, images in split.items():
        places = [place for image in images if features.ok[place := place_of[image]]]
        labels = torch.tensor([number[rows[place].label] for place in places], dtype=torch.long)
        made[name] = Part(vectors[places], labels, places)
    return Data(classes, made, features.provenance)


def check_provenance(found: Mapping[str, Any], params: Params, path: str) -> None:
    """Refuses features that are not those that params describe.

    Raises:
        UserError: naming the difference.
    """
    wanted: dict[str, Any] = {"backbone": params.backbone, "cut": params.cut}
    if params.weights != "default":
        wanted["weights"] = params.weights
    if params.image_size != "auto":
        wanted["image_size"] = params.image_size
    if params.resize == "squash":
        wanted["resize"] = params.resize
    views = found.get("views")
    count = len(views) if isinstance(views, list) else 0
    if count != params.views:
        raise UserError(f"{path} has {count} views an image, params ask for {params.views}: `dvc repro`.")
    for name, value in wanted.items():
        if found.get(name) != value:
            raise UserError(
                f"{path} was extracted with {name} {found.get(name)!r}, params ask for {value!r}: `dvc repro`."
            )


def _vectors(layer: h5.Array) -> torch.Tensor:
    """Float32 vectors (N, views, D); of maps (N, views, D, H, W) the mean over positions."""
    vectors = torch.empty(layer.shape[:3])
    images = max(1, BLOCK // layer.shape[1])
    for first in range(0, len(layer), images):
        block = torch.from_numpy(np.array(layer[first : first + images], dtype=np.float32))
        vectors[first : first + images] = block.mean((-2, -1)) if block.ndim == 5 else block
    return vectors
