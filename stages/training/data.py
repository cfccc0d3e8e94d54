"""Features, labels and splits, matched and checked against each other before anything trains on them."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from stages import memory, paths
from stages.backbones import names
from stages.datasets import index_file, splits
from stages.datasets.base import natural
from stages.datasets.index_file import IndexRow
from stages.errors import UserError, counted
from stages.features import h5
from stages.heads.registry import HEADS, heads_for, heads_for_labels
from stages.images import batch_views
from stages.images.options import Augment
from stages.images.preprocessing import Preprocessing
from stages.metrics.multilabel import UNKNOWN
from stages.params import Params
from stages.training import mapped
from stages.training.ground_truth import GroundTruthBoxes, read_ground_truth
from stages.training.mapped import MappedFeatures

BATCH = 256  # images that are evaluated at a time
BLOCK = 512  # views read at a time: a block of float16 maps in float32 stays small


@dataclass(frozen=True)
class PixelViews:
    """How images that the cache holds as pixels become views.

    Attributes:
        sizes: (N, 2) heights and widths without padding.
        preprocessing: from the image to its evaluation view.
        augment: how the random views of training differ.
    """

    sizes: torch.Tensor
    preprocessing: Preprocessing
    augment: Augment

    def evaluation(self, x: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """The evaluation views (n, 3, S, S) of cached images (n, 3, H, W) with these positions (n,) in the split."""
        return batch_views.evaluation(x, self.sizes[images], self.preprocessing)

    def training(self, x: torch.Tensor, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Random views (n, 3, S, S), and the affine maps (n, 2, 3) from pixels in the cache to pixels of the view."""
        crops, size = (
            batch_views.draw(self.sizes[images], self.augment, torch.default_generator),
            self.preprocessing.crop,
        )
        return batch_views.view(x, self.sizes[images], crops=crops, size=size), crops.affine(size)

    def affines(self, images: torch.Tensor) -> torch.Tensor:
        """The affine maps (n, 2, 3) of evaluation views."""
        return batch_views.centred(self.sizes[images], self.preprocessing).affine(self.preprocessing.crop)

    def some(self, images: torch.Tensor) -> "PixelViews":
        """Those of some images (n,) alone."""
        return replace(self, sizes=self.sizes[images])

    def join(self, other: "PixelViews") -> "PixelViews":
        """These images, then those of another split."""
        return replace(self, sizes=torch.cat([self.sizes, other.sizes]))


@dataclass(frozen=True)
class SplitData:
    """The images of one split.

    Attributes:
        x: (N, V, …), the features of each view of each image; view 0 is the evaluation view. Vectors are float32, maps
            have the dtype of the file, images are uint8 (N, 1, 3, H, W) with padding. If large, they stay on disk, in
            the dtype of the file.
        y: (N,) int64 labels, indices of classes; or (N, C) int8 where images have several labels: 1 for those that an
            image has, -1 where nobody knows, else 0. Batches go to the device of y.
        index_positions: (N,) the lines of the index file that the images come from, counted from 0.
        pixels: how images become views; None if the cache holds features.
        ground_truth: the objects in the images; None where the head does not need them.
    """

    x: torch.Tensor | MappedFeatures
    y: torch.Tensor
    index_positions: list[int]
    pixels: PixelViews | None = None
    ground_truth: GroundTruthBoxes | None = None

    @property
    def evaluation_vectors(self) -> torch.Tensor:
        """(N, D) float32, the evaluation view of each image; only for vectors."""
        return torch.cat(list(self.batches())) if isinstance(self.x, MappedFeatures) else self.x[:, 0].float()

    def batch(self, images: torch.Tensor, views: torch.Tensor | int = 0) -> torch.Tensor:
        """Float32 features (n, …) of some images (n,), each in its view; of pixels the evaluation views, 0 to 255."""
        x = self._rows(images, views)
        return x.float() if self.pixels is None else self.pixels.evaluation(x, images)

    def training_batch(self, images: torch.Tensor, views: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The features (n, …) that training takes, and with ground truth the affine maps (n, 2, 3) from image to view.

        A view of features is one of those in the cache; a view of pixels is a new random one.
        """
        if self.pixels is None:
            return self.batch(images, views), self.affines(images, views)
        x, maps = self.pixels.training(self._rows(images, views), images)
        return x, None if self.ground_truth is None else composed(maps, self.ground_truth.affine[images, 0])

    def affines(self, images: torch.Tensor, views: torch.Tensor | int = 0) -> torch.Tensor | None:
        """(n, 2, 3) from pixels of the image to pixels of the view that `batch` gives; None without ground truth."""
        if self.ground_truth is None:
            return None
        affine = self.ground_truth.affine[images, views]
        return affine if self.pixels is None else composed(self.pixels.affines(images), affine)

    def shuffled(self) -> torch.Tensor:
        """The positions of all images in random order."""
        return self.x.shuffled() if isinstance(self.x, MappedFeatures) else torch.randperm(len(self.y))

    def image_batches(self) -> tuple[torch.Tensor, ...]:
        """The indices of all images, BATCH at a time."""
        batches: tuple[torch.Tensor, ...] = torch.arange(len(self.y)).split(BATCH)  # type: ignore[no-untyped-call]
        return batches

    def batches(self, view: int = 0) -> Iterator[torch.Tensor]:
        """Float32 features (n, …) of one view of every image, in order, BATCH images at a time."""
        for images in self.image_batches():
            yield self.batch(images, view)

    def some(self, images: torch.Tensor) -> "SplitData":
        """Some of the images (n,) alone; not for ground truth, which nobody needs of some."""
        assert self.ground_truth is None
        x = self.x[images.to(self.x.device)] if isinstance(self.x, torch.Tensor) else self.x.some(images)
        positions = [self.index_positions[image] for image in images.tolist()]
        pixels = self.pixels and self.pixels.some(images)
        return SplitData(x, self.y[images.to(self.y.device)], positions, pixels)

    def join(self, other: "SplitData") -> "SplitData":
        """These images, then those of another split."""
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
        """The split on a device; maps, and vectors on the disk for a CPU, are moved batch by batch."""
        x = self.x
        if isinstance(x, MappedFeatures) and x.ndim == 3 and device.type != "cpu":
            x = x.load().float()
        x = x.to(device) if isinstance(x, torch.Tensor) and x.ndim == 3 else x
        return replace(self, x=x, y=self.y.to(device))

    def _rows(self, images: torch.Tensor, views: torch.Tensor | int) -> torch.Tensor:
        return self.x[images.to(self.x.device), views].to(self.y.device)


@dataclass(frozen=True)
class HeadData:
    """Everything that a head is trained and evaluated on.

    Attributes:
        classes: their names, by label.
        splits: train, val and test.
        provenance: of the features.
        identity: a digest of the images, labels and splits.
        levels: the shapes of a pyramid's maps, whose numbers stand one after the other in the features.
        boxes: whether the dataset has any.
    """

    classes: list[str]
    splits: dict[str, SplitData]
    provenance: dict[str, Any]
    identity: str = ""
    levels: tuple[tuple[int, ...], ...] = ()
    boxes: bool = False

    @property
    def multilabel(self) -> bool:
        """Whether images have several labels."""
        return self.splits["train"].y.ndim == 2

    @property
    def shape(self) -> tuple[Any, ...]:
        """Of the features of one image: (D,), (C, H, W) or (T, C); of pixels (3, S, S); of a pyramid one per map."""
        if self.levels:
            return self.levels
        if pixels := self.splits["train"].pixels:
            return 3, pixels.preprocessing.crop, pixels.preprocessing.crop
        return tuple(self.splits["train"].x.shape[2:])

    def to(self, device: torch.device) -> "HeadData":
        """The same on a device, as far as `SplitData.to` moves it."""
        return replace(self, splits={name: split.to(device) for name, split in self.splits.items()})


def load_data(params: Params, images_of: splits.SplitImages | None = None) -> HeadData:
    """The features, labels and splits of the dataset in params. Images that cannot be decoded are left out.

    Args:
        params: of the run.
        images_of: other splits than those that are written, such as those of a fold.

    Raises:
        UserError: a file is missing or damaged, or the features are of another backbone, cut or set of images.
    """
    rows = index_file.read(params.dataset)
    path = paths.features(params.dataset, params.backbone, params.cut)
    features = h5.read(path)
    check_provenance(features.provenance, params, str(path))
    if not features.is_of([row.sha256 for row in rows]):
        raise UserError(f"{path} holds the features of other images than {paths.index(params.dataset)}: `dvc repro`.")
    multilabel = index_file.is_multilabel(rows)
    if multilabel and not HEADS[params.head].multilabel:
        raise UserError(
            f"`head`: {params.head} does not give each class a probability of its own, and images of {params.dataset} "
            f"have several labels. Take one of {', '.join(heads_for_labels())}, or read them with task=single."
        )
    with_objects, boxes = HEADS[params.head].finds_objects, any(row.objects for row in rows)
    if with_objects and not boxes:
        raise UserError(f"`head`: {params.head} finds objects, and dataset {params.dataset} has no boxes.")
    labels = (label for row in rows for label in ([box.label for box in row.objects] if with_objects else row.classes))
    classes = sorted(set(labels), key=natural)
    if boxes and len(classes) == 1 and not with_objects and not multilabel:
        finding = ", ".join(heads_for("detection"))
        raise UserError(
            f"`head`: {params.head} names the class of an image, and every image of dataset {params.dataset} is of "
            f"class {classes[0]}. Take a head that finds the objects ({finding}), as in recipe bccd-anchors."
        )
    position_of = {row.sha256: position for position, row in enumerate(rows)}
    layers, levels = _layers(features, params)
    split_data = {}
    for name, images in (images_of or splits.read(params.dataset)).items():
        positions = [position for position in sorted(map(position_of.__getitem__, images)) if features.ok[position]]
        positions = [position for position in positions if with_objects or multilabel or rows[position].label]
        split_data[name] = _split_data(features, layers, [rows[position] for position in positions], positions,
                                       classes=classes, params=params, multilabel=multilabel)  # fmt: skip
    if not with_objects and index_file.unlabelled(rows):
        _refuse_too_few_labels(split_data)
    data = HeadData(classes, split_data, features.provenance, _identity(rows, split_data), levels, boxes)
    if len(data.shape) > 1:  # maps or pixels; steps on vectors take no large blocks
        memory.keep_freed()
    return data


def _identity(rows: Sequence[IndexRow], split_data: Mapping[str, SplitData]) -> str:
    """A digest of the images and labels of each split; a line at a time, as there may be a million."""
    digest = hashlib.sha256()
    for name, split in split_data.items():
        digest.update(f"{name}\n".encode())
        for position in split.index_positions:
            digest.update(json.dumps(_labels_of(rows[position])).encode() + b"\n")
    return digest.hexdigest()


def _refuse_too_few_labels(split_data: Mapping[str, SplitData]) -> None:
    """Raises an error if too few images of a partly labelled dataset have a label to train a head."""
    classes = len(set(split_data["train"].y.tolist()))
    if classes < 2 or not len(split_data["val"].y):
        counts = ", ".join(f"{len(split.y)} of {name}" for name, split in split_data.items())
        raise UserError(
            f"Too few images have a label ({counts}; {counted(classes, 'classes')} in train). A head needs two classes "
            "in train and an image in val: `python -m stages.label --random` asks for labels (docs/labelling.md)."
        )


def _split_data(
    features: h5.Features,
    layers: list[h5.Array],
    rows: list[IndexRow],
    positions: list[int],
    *,
    classes: list[str],
    params: Params,
    multilabel: bool,
) -> SplitData:
    """The images of a split.

    Args:
        features: of all images.
        layers: their arrays, as the head takes them.
        rows: of the images of the split.
        positions: of these rows in the index.
        classes: names by label.
        params: `cut`, `head` and `augment`.
        multilabel: whether images have several labels.
    """
    x, pixels = _rows(layers, positions), _pixels(features, positions, params)
    if not HEADS[params.head].finds_objects:
        label_of = {name: label for label, name in enumerate(classes)}
        if multilabel:
            return SplitData(x, label_lists(rows, label_of), positions, pixels)
        return SplitData(x, torch.tensor([label_of[row.label] for row in rows], dtype=torch.long), positions, pixels)
    affine = torch.from_numpy(np.array(features.members["views"])[positions])
    ground_truth = read_ground_truth(rows, classes=classes, affine=affine, size=features.provenance["image_size"])
    return SplitData(x, torch.zeros(len(rows), dtype=torch.long), positions, pixels, ground_truth)


def label_lists(rows: Sequence[IndexRow], label_of: Mapping[str, int]) -> torch.Tensor:
    """(N, C) int8: 1 for the labels that an image has, UNKNOWN where nobody knows, else 0."""
    y = torch.zeros(len(rows), len(label_of), dtype=torch.int8)
    for number, row in enumerate(rows):
        y[number, [label_of[label] for label in row.unknown_labels if label in label_of]] = UNKNOWN
        y[number, [label_of[label] for label in row.classes]] = 1
    return y


def unlabelled(features: h5.Features, extents: torch.Tensor, params: Params) -> SplitData:
    """Images without labels, which are not in an index, for a head to predict; all of them must have been decoded.

    Args:
        features: of N images.
        extents: (N, 2) width and height in pixels of each image.
        params: `cut`, `tap` and `head` say what the head takes.
    """
    count, ground_truth = len(extents), None
    if HEADS[params.head].finds_objects:
        affine = torch.from_numpy(np.array(features.members["views"]))
        ground_truth = GroundTruthBoxes([], affine, extents, features.provenance["image_size"])
    positions = list(range(count))
    return SplitData(
        _rows(_layers(features, params)[0], positions),
        torch.zeros(count, dtype=torch.long),
        positions,
        _pixels(features, positions, params),
        ground_truth,
    )


def composed(second: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    """Affine maps (n, 2, 3) that apply `first` and then `second`, (n, 2, 3) each."""
    linear = second[:, :, :2] @ first[:, :, :2]
    return torch.cat([linear, second[:, :, :2] @ first[:, :, 2:] + second[:, :, 2:]], 2)


def _labels_of(row: IndexRow) -> list[Any]:
    """What training depends on of an image: its content and its labels."""
    lists = [] if row.labels is None else [row.labels, row.unknown_labels]
    return [row.sha256, row.label, [asdict(box) for box in row.objects], *lists]


def check_provenance(provenance: Mapping[str, Any], params: Params, path: str) -> None:
    """Checks that features are those that params describe.

    Raises:
        UserError: they are not; the message names the difference.
    """
    views = provenance.get("views")
    count = len(views) if isinstance(views, list) else 0
    if count != params.views:
        raise UserError(f"{path} has {count} views per image, params ask for {params.views}: `dvc repro`.")
    _compare(provenance, {"backbone": params.backbone, "cut": params.cut}, path)
    backbones = provenance.get("joined", [provenance])
    for backbone, (_, weights) in zip(backbones, names.joined(params.backbone, params.weights), strict=True):
        expected: dict[str, Any] = {}
        if weights != "default":
            expected["weights"] = weights
        if isinstance(params.image_size, int):
            expected["image_size"] = params.image_size
        if params.resize == "squash":
            expected["resize"] = params.resize
        _compare(backbone, expected, path)


def _compare(provenance: Mapping[str, Any], expected: Mapping[str, Any], path: str) -> None:
    for name, value in expected.items():
        if provenance.get(name) != value:
            raise UserError(
                f"{path} was extracted with {name} {provenance.get(name)!r}, params ask for {value!r}: `dvc repro`."
            )


def _pixels(features: h5.Features, positions: list[int], params: Params) -> PixelViews | None:
    if params.cut != h5.INPUT:
        return None
    preprocessing = Preprocessing.parse(features.provenance["preprocessing"])
    return PixelViews(torch.from_numpy(features.sizes[positions]), preprocessing, params.augment)


def _layers(features: h5.Features, params: Params) -> tuple[list[h5.Array], tuple[tuple[int, ...], ...]]:
    """The layers of features that a head takes, and for a pyramid the shapes of its maps, the finest first."""
    if params.cut == "pyramid":
        maps = sorted(features.layers.values(), key=lambda layer: -layer.shape[-1])
        return maps, tuple(layer.shape[2:] for layer in maps)
    layer = features.layers[params.cut]
    takes_vectors = HEADS[params.head].input == "vector" and params.tap == "same" and params.cut != h5.INPUT
    return [_vectors(layer) if layer.ndim > 3 and takes_vectors else layer], ()


def _rows(layers: list[h5.Array], positions: list[int]) -> torch.Tensor | MappedFeatures:
    """The features of some images; they stay on the disk if those of all images would take too much memory."""
    if mapped.stays_on_disk(layers):
        return MappedFeatures(layers, positions)
    maps = [torch.from_numpy(layer[positions]) for layer in layers]
    if len(maps) == 1:
        return maps[0].float() if maps[0].ndim == 3 else maps[0]
    return torch.cat([level.flatten(2) for level in maps], 2)


def _joined(
    first: torch.Tensor | MappedFeatures, second: torch.Tensor | MappedFeatures
) -> torch.Tensor | MappedFeatures:
    if isinstance(first, MappedFeatures):
        assert isinstance(second, MappedFeatures)  # the splits of one file are stored alike
        return first.join(second)
    assert isinstance(second, torch.Tensor)
    return torch.cat([first, second])


def _vectors(layer: h5.Array) -> h5.Array:
    """Float32 vectors (N, V, D): means of maps (N, V, D, H, W) over positions, of tokens (N, V, T, D) over tokens."""
    channels = layer.shape[3] if layer.ndim == 4 else layer.shape[2]
    vectors = np.empty((*layer.shape[:2], channels), np.float32)
    images = max(1, BLOCK // layer.shape[1])
    positions = {4: (2,), 5: (3, 4)}[layer.ndim]
    for first in range(0, len(layer), images):
        vectors[first : first + images] = np.array(layer[first : first + images], dtype=np.float32).mean(positions)
    return vectors
