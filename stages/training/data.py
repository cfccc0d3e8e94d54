"""Features, labels and parts, lined up and checked against each other before anything trains on them."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from stages import paths
from stages.backbones import names
from stages.datasets import listing, parts
from stages.errors import UserError
from stages.features import h5
from stages.heads import TAKES
from stages.params import Params

BATCH = 256  # images that are judged at a time
BLOCK = 512  # views read at a time: a block of float16 maps in float32 stays small


@dataclass(frozen=True)
class Part:
    """The images of one part.

    Attributes:
        x: (N, V, …), the features of each view of each image, the first the evaluation view: vectors in float32, maps
            as they are stored.
        y: (N,) int64, positions in the list of classes; where it lies, batches go.
        rows: (N,) positions in the index.
    """

    x: torch.Tensor
    y: torch.Tensor
    rows: list[int]

    @property
    def evaluation(self) -> torch.Tensor:
        """(N, …) float32, the evaluation view of each image."""
        return self.x[:, 0].float()

    def batch(self, images: torch.Tensor, views: torch.Tensor | int = 0) -> torch.Tensor:
        """Float32 features (n, …) of some images, each in its view."""
        return self.x[images.to(self.x.device), views].to(self.y.device).float()

    def batches(self, view: int = 0) -> Iterator[torch.Tensor]:
        """Float32 features of one view of every image, in order, some at a time."""
        for images in torch.arange(len(self.y)).split(BATCH):  # type: ignore[no-untyped-call]
            yield self.batch(images, view)

    def to(self, device: torch.device) -> "Part":
        """The part on a device; maps stay where they are and follow batch by batch."""
        return replace(self, x=self.x.to(device) if self.x.ndim == 3 else self.x, y=self.y.to(device))


@dataclass(frozen=True)
class Data:
    """All that a head is trained and judged on.

    Attributes:
        parts: train, val and test.
        provenance: of the features.
        identity: a digest of which images, labels and parts these are.
    """

    classes: list[str]
    parts: dict[str, Part]
    provenance: dict[str, Any]
    identity: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the features of one image: (D,) or (C, H, W)."""
        return tuple(self.parts["train"].x.shape[2:])


def load(params: Params) -> Data:
    """The chosen dataset's features, its labels and its parts. Images that cannot be decoded are left out.

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
    layer = features.layers[params.cut]
    if layer.ndim == 3 or TAKES[params.head] == "vector":
        layer = _vectors(layer)
    made = {}
    for name, images in split.items():
        places = [place for image in images if features.ok[place := place_of[image]]]
        labels = torch.tensor([number[rows[place].label] for place in places], dtype=torch.long)
        made[name] = Part(torch.from_numpy(layer[places]), labels, places)
    labelled = [[(rows[place].sha256, rows[place].label) for place in part.rows] for part in made.values()]
    return Data(classes, made, features.provenance, hashlib.sha256(json.dumps(labelled).encode()).hexdigest())


def check_provenance(found: Mapping[str, Any], params: Params, path: str) -> None:
    """Refuses features that are not those that params describe.

    Raises:
        UserError: naming the difference.
    """
    views = found.get("views")
    count = len(views) if isinstance(views, list) else 0
    if count != params.views:
        raise UserError(f"{path} has {count} views an image, params ask for {params.views}: `dvc repro`.")
    _compare(found, {"backbone": params.backbone, "cut": params.cut}, path)
    single = found.get("joined", [found])
    for one, (_, weights) in zip(single, names.joined(params.backbone, params.weights), strict=True):
        wanted: dict[str, Any] = {}
        if weights != "default":
            wanted["weights"] = weights
        if params.image_size != "auto":
            wanted["image_size"] = params.image_size
        if params.resize == "squash":
            wanted["resize"] = params.resize
        _compare(one, wanted, path)


def _compare(found: Mapping[str, Any], wanted: Mapping[str, Any], path: str) -> None:
    for name, value in wanted.items():
        if found.get(name) != value:
            raise UserError(
                f"{path} was extracted with {name} {found.get(name)!r}, params ask for {value!r}: `dvc repro`."
            )


def _vectors(layer: h5.Array) -> h5.Array:
    """Float32 vectors (N, views, D); of maps (N, views, D, H, W) the mean over positions."""
    vectors = np.empty(layer.shape[:3], np.float32)
    images = max(1, BLOCK // layer.shape[1])
    for first in range(0, len(layer), images):
        block = np.array(layer[first : first + images], dtype=np.float32)
        vectors[first : first + images] = block.mean((-2, -1)) if block.ndim == 5 else block
    return vectors
