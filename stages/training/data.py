"""Features, labels and splits, lined up and checked against each other before anything trains on them."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from stages import paths
from stages.backbones import names
from stages.datasets import index_file, splits
from stages.datasets.base import natural
from stages.datasets.index_file import IndexRow
from stages.errors import UserError
from stages.features import h5
from stages.heads.registry import HEADS
from stages.images import batch_views
from stages.images.options import Augment
from stages.images.preprocessing import Preprocessing
from stages.params import Params
from stages.training import mapped
from stages.training.ground_truth import GroundTruthBoxes, read_ground_truth
from stages.training.mapped import MappedFeatures

BATCH = 256  # images that are judged at a time
BLOCK = 512  # views read at a time: a block of float16 maps in float32 stays small


@dataclass(frozen=True)
class Pixels:
    """What turns images that are kept as pixels into views.

    Attributes:
        sizes: (N, 2) heights and widths without padding.
        how: the evaluation view.
        augment: what is drawn anew in training.
    """

    sizes: torch.Tensor
    how: Preprocessing
    augment: Augment

    def evaluation(self, x: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """(n, 3, S, S) of kept images (n, 3, H, W) at these positions."""
        return batch_views.evaluation(x, self.sizes[images], self.how)

    def training(self, x: torch.Tensor, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The same, drawn anew, and the maps (n, 2, 3) from pixels of what is kept to pixels of the view."""
        drawn = batch_views.draw(self.sizes[images], self.augment, torch.default_generator)
        return batch_views.view(x, self.sizes[images], crops=drawn, size=self.how.crop), drawn.affine(self.how.crop)

    def affines(self, images: torch.Tensor) -> torch.Tensor:
        """The maps (n, 2, 3) of evaluation views."""
        return batch_views.centred(self.sizes[images], self.how).affine(self.how.crop)

    def join(self, other: "Pixels") -> "Pixels":
        """These, then those of another part."""
        return replace(self, sizes=torch.cat([self.sizes, other.sizes]))


@dataclass(frozen=True)
class SplitData:
    """The images of one split.

    Attributes:
        x: (N, V, …), the features of each view of each image, the first the evaluation view: vectors in float32, maps
            as they are stored, images as uint8 (N, 1, 3, H, W) with padding. On the disk where they are too large.
        y: (N,) int64, positions in the list of classes; where it lies, batches go.
        index_positions: (N,) the lines of the index file that the images come from, counted from 0.
        pixels: how images are looked at; None for features.
        ground_truth: the objects in the images; None where the head does not need them.
    """

    x: torch.Tensor | MappedFeatures
    y: torch.Tensor
    index_positions: list[int]
    pixels: Pixels | None = None
    ground_truth: GroundTruthBoxes | None = None

    @property
    def evaluation_vectors(self) -> torch.Tensor:
        """(N, D) float32, the evaluation view of each image; of vectors, which are in memory."""
        assert isinstance(self.x, torch.Tensor)
        return self.x[:, 0].float()

    def batch(self, images: torch.Tensor, views: torch.Tensor | int = 0) -> torch.Tensor:
        """Float32 features (n, …) of some images, each in its view; of pixels their evaluation views, 0 to 255."""
        x = self._rows(images, views)
        return x.float() if self.pixels is None else self.pixels.evaluation(x, images)

    def training_batch(self, images: torch.Tensor, views: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What training sees of some images, and with ground truth, the affine map (n, 2, 3) from image to view.

        A view of features is one of those that were kept; a view of pixels is drawn anew.
        """
        if self.pixels is None:
            return self.batch(images, views), self.affines(images, views)
        x, maps = self.pixels.training(self._rows(images, views), images)
        return x, None if self.ground_truth is None else composed(maps, self.ground_truth.affine[images, 0])

    def affines(self, images: torch.Tensor, views: torch.Tensor | int = 0) -> torch.Tensor | None:
        """(n, 2, 3) from pixels of the image to pixels of what `batch` gives; None where there is no ground truth."""
        if self.ground_truth is None:
            return None
        affine = self.ground_truth.affine[images, views]
        return affine if self.pixels is None else composed(self.pixels.affines(images), affine)

    def shuffled(self) -> torch.Tensor:
        """The positions of all images in random order."""
        return self.x.shuffled() if isinstance(self.x, MappedFeatures) else torch.randperm(len(self.y))

    def image_batches(self) -> tuple[torch.Tensor, ...]:
        """The positions of all images, some at a time."""
        found: tuple[torch.Tensor, ...] = torch.arange(len(self.y)).split(BATCH)  # type: ignore[no-untyped-call]
        return found

    def batches(self, view: int = 0) -> Iterator[torch.Tensor]:
        """Float32 features of one view of every image, in order, some at a time."""
        for images in self.image_batches():
            yield self.batch(images, view)

    def join(self, other: "SplitData") -> "SplitData":
        """These images, then those of another part."""
        pixels = self.pixels and other.pixels and self.pixels.join(other.pixels)
        ground_truth = self.ground_truth and other.ground_truth and self.ground_truth.join(other.ground_truth)
        return SplitData(
            _joined(self.x, other.x),
            torch.cat([self.y, other.y]),
            self.index_positions + other.index_positions,
            pixels,
            ground_truth,
        )

    def to(self, device: torch.device) -> "SplitData":
        """The split on a device; maps stay where they are and follow batch by batch."""
        x = self.x.to(device) if isinstance(self.x, torch.Tensor) and self.x.ndim == 3 else self.x
        return replace(self, x=x, y=self.y.to(device))

    def _rows(self, images: torch.Tensor, views: torch.Tensor | int) -> torch.Tensor:
        return self.x[images.to(self.x.device), views].to(self.y.device)


@dataclass(frozen=True)
class HeadData:
    """All that a head is trained and judged on.

    Attributes:
        parts: train, val and test.
        provenance: of the features.
        identity: a digest of which images, labels and splits these are.
        levels: the shapes of a pyramid's maps, whose numbers stand one after the other in the features.
    """

    classes: list[str]
    splits: dict[str, SplitData]
    provenance: dict[str, Any]
    identity: str = ""
    levels: tuple[tuple[int, ...], ...] = ()

    @property
    def shape(self) -> tuple[Any, ...]:
        """Of the features of one image: (D,), (C, H, W) or (T, C); of pixels (3, S, S); of a pyramid each map."""
        if self.levels:
            return self.levels
        if found := self.splits["train"].pixels:
            return 3, found.how.crop, found.how.crop
        return tuple(self.splits["train"].x.shape[2:])


def load_data(params: Params) -> HeadData:
    """The chosen dataset's features, its labels and its splits. Images that cannot be decoded are left out.

    Raises:
        UserError: a file is missing or damaged, or the features are of another backbone, cut or set of images.
    """
    rows = index_file.read(params.dataset)
    path = paths.features(params.dataset, params.backbone, params.cut)
    features = h5.read(path)
    check_provenance(features.provenance, params, str(path))
    if features.sha256 != [row.sha256 for row in rows]:
        raise UserError(f"{path} holds the features of other images than {paths.index(params.dataset)}: `dvc repro`.")
    split = splits.read(params.dataset)
    boxes = HEADS[params.head].finds_objects
    if boxes and not any(row.objects for row in rows):
        raise UserError(f"`head`: {params.head} finds objects, and dataset {params.dataset} has no boxes.")
    named = [{box.label for box in row.objects} if boxes else {row.label} for row in rows]
    classes = sorted(set().union(*named) - {""}, key=natural)
    number = {label: place for place, label in enumerate(classes)}
    place_of = {row.sha256: place for place, row in enumerate(rows)}
    layers, levels = _layers(features, params)
    made = {}
    for name, images in split.items():
        places = [place for image in images if features.ok[place := place_of[image]] and (boxes or rows[place].label)]
        labels = torch.tensor([0 if boxes else number[rows[place].label] for place in places], dtype=torch.long)
        found = None
        if boxes:
            affine = torch.from_numpy(np.array(features.members["views"])[places])
            found = read_ground_truth(
                [rows[place] for place in places], classes, affine, features.provenance["image_size"]
            )
        made[name] = SplitData(_rows(layers, places), labels, places, _pixels(features, places, params), found)
    labelled = [[_said(rows[place]) for place in split.index_positions] for split in made.values()]
    identity = hashlib.sha256(json.dumps(labelled).encode()).hexdigest()
    return HeadData(classes, made, features.provenance, identity, levels)


def unlabelled(features: h5.Features, extents: torch.Tensor, params: Params) -> SplitData:
    """Images that no index lists, for a head that is to answer; none of them may be undecodable.

    Args:
        features: of N images.
        extents: (N, 2) width and height in pixels of each image.
        params: `cut`, `tap` and `head` say what the head takes.
    """
    count, found = len(extents), None
    if HEADS[params.head].finds_objects:
        affine = torch.from_numpy(np.array(features.members["views"]))
        found = GroundTruthBoxes([], affine, extents, features.provenance["image_size"])
    places = list(range(count))
    return SplitData(
        _rows(_layers(features, params)[0], places),
        torch.zeros(count, dtype=torch.long),
        places,
        _pixels(features, places, params),
        found,
    )


def composed(second: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    """Affine maps (n, 2, 3) one after the other."""
    turn = second[:, :, :2] @ first[:, :, :2]
    return torch.cat([turn, second[:, :, :2] @ first[:, :, 2:] + second[:, :, 2:]], 2)


def _said(row: IndexRow) -> list[Any]:
    """What a head may learn of an image."""
    return [row.sha256, row.label, [asdict(box) for box in row.objects]]


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


def _pixels(features: h5.Features, places: list[int], params: Params) -> Pixels | None:
    if params.cut != h5.INPUT:
        return None
    how = Preprocessing.parse(features.provenance["preprocessing"])
    return Pixels(torch.from_numpy(features.sizes[places]), how, params.augment)


def _layers(features: h5.Features, params: Params) -> tuple[list[h5.Array], tuple[tuple[int, ...], ...]]:
    """The features as a head takes them, and of a pyramid, the finest first, the shapes of the maps."""
    if params.cut == "pyramid":
        found = sorted(features.layers.values(), key=lambda layer: -layer.shape[-1])
        return found, tuple(layer.shape[2:] for layer in found)
    layer = features.layers[params.cut]
    wants_vectors = HEADS[params.head].input == "vector" and params.tap == "same" and params.cut != h5.INPUT
    return [_vectors(layer) if layer.ndim == 3 or wants_vectors else layer], ()


def _rows(layers: list[h5.Array], places: list[int]) -> torch.Tensor | MappedFeatures:
    """The features of some images; where those of all would take too much memory, on the disk."""
    if mapped.too_large(layers):
        return MappedFeatures(layers, places)
    found = [torch.from_numpy(layer[places]) for layer in layers]
    return found[0] if len(found) == 1 else torch.cat([one.flatten(2) for one in found], 2)


def _joined(
    first: torch.Tensor | MappedFeatures, second: torch.Tensor | MappedFeatures
) -> torch.Tensor | MappedFeatures:
    if isinstance(first, MappedFeatures):
        assert isinstance(second, MappedFeatures)  # the splits of one file are stored alike
        return first.join(second)
    assert isinstance(second, torch.Tensor)
    return torch.cat([first, second])


def _vectors(layer: h5.Array) -> h5.Array:
    """Float32 vectors (N, views, D); of maps (N, views, D, H, W) the mean over positions, of tokens over tokens."""
    channels = layer.shape[3] if layer.ndim == 4 else layer.shape[2]
    vectors = np.empty((*layer.shape[:2], channels), np.float32)
    images = max(1, BLOCK // layer.shape[1])
    positions = {3: (), 4: (2,), 5: (3, 4)}[layer.ndim]
    for first in range(0, len(layer), images):
        block = np.array(layer[first : first + images], dtype=np.float32)
        vectors[first : first + images] = block.mean(positions) if positions else block
    return vectors
