"""A trained head: the module from cached features to logits, and how it was trained."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn
from tqdm import tqdm

from stages import files
from stages.backbones.device import training_precision
from stages.errors import REPAIR, UserError
from stages.heads.contract import module_of
from stages.heads.registry import HEADS, INPUTS, heads_taking
from stages.params import Params
from stages.training.calibration import ClassCalibration
from stages.training.data import HeadData, SplitData
from stages.training.history import Epoch
from stages.training.normalization import FeatureNormalization, LevelNormalization
from stages.training.rest import Rest, build


class HeadModel(nn.Module):
    """Everything between the cached features and the logits: the rest, normalisation, and the layers of the head.

    Attributes:
        rest: of the backbone, from the cut to the tap; None if the head is at the cut.
        standardize: the normalisation; this name is in the file of every stored head.
        head: the layers of the head.
        shape: of the features of one image, as the head takes them.
        takes: `vector`, `map` or `pyramid`; maps are averaged over positions for a head that takes a vector.
        precision: `float32` or `bfloat16`, of products and convolutions.
        calibration: from its scores to logits of each class, where images have several labels; None otherwise.
    """

    def __init__(
        self,
        head: nn.Module,
        standardize: FeatureNormalization | LevelNormalization,
        rest: Rest | None = None,
        *,
        shape: Sequence[Any],
        takes: str,
        precision: str,
        calibration: ClassCalibration | None = None,
    ) -> None:
        super().__init__()
        self.rest, self.standardize, self.head, self.calibration = rest, standardize, head, calibration
        self.shape: tuple[Any, ...] = tuple(shape)
        self.takes, self.precision = takes, precision

    def features(self, x: torch.Tensor) -> Any:
        """What the head takes, before normalisation: float32 (N, D), (N, C, H, W), or maps at several strides."""
        with self._autocast(x):
            features = self.rest(x) if self.rest else x
        if self.takes == "pyramid":
            return tuple(features.values()) if isinstance(features, dict) else levels(features, self.shape)
        return pooled(features.float()) if self.takes == "vector" else features.float()

    def fit_normalization(self, train: SplitData) -> None:
        """Takes the statistics of the features of every view of the train split, in eval mode."""
        self.eval()
        levels = self.standardize if isinstance(self.standardize, LevelNormalization) else [self.standardize]
        with torch.inference_mode():
            for level, normalize in enumerate(levels):
                assert isinstance(normalize, FeatureNormalization)
                views = range(train.x.shape[1])
                normalize.fit(self._level(batch, level) for view in views for batch in train.batches(view))

    def _level(self, x: torch.Tensor, level: int) -> torch.Tensor:
        features = self.features(x)
        level_features: torch.Tensor = features[level].float() if isinstance(features, tuple) else features
        return level_features

    def forward(self, x: torch.Tensor) -> Any:
        """The outputs of the head in float32: logits (N, classes), or what its loss takes."""
        normalized = self.standardize(self.features(x))
        with self._autocast(x):
            outputs = self.head(normalized)
        if self.calibration is not None:
            return self.calibration(outputs.float())
        return tuple(level.float() for level in outputs) if isinstance(outputs, tuple) else outputs.float()

    @property
    def multilabel(self) -> bool:
        """Whether each class has a probability of its own."""
        return self.calibration is not None

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """(N, C) of logits (N, C): of one class per image they add up to 1."""
        return logits.sigmoid() if self.multilabel else logits.softmax(1)

    def without_rest(self) -> "HeadModel":
        """The same layers, not a copy, for features at the tap."""
        return HeadModel(self.head, self.standardize, shape=self.shape, takes=self.takes, precision=self.precision,
                         calibration=self.calibration)  # fmt: skip

    def without_normalization(self) -> "HeadModel":
        """The same layers, not a copy, for vectors at the tap that are normalised already."""
        return HeadModel(self.head, FeatureNormalization(self.shape[0], "none"), shape=self.shape, takes=self.takes,
                         precision=self.precision, calibration=self.calibration)  # fmt: skip

    def _autocast(self, x: torch.Tensor) -> AbstractContextManager[object]:
        return torch.autocast(x.device.type, torch.bfloat16) if self.precision == "bfloat16" else nullcontext()


def levels(x: torch.Tensor, shapes: Sequence[Sequence[int]]) -> tuple[torch.Tensor, ...]:
    """Maps (N, C, H, W) of these shapes, from their numbers one after the other (N, …)."""
    flat_maps = torch.split(x, [prod(shape) for shape in shapes], dim=1)
    return tuple(flat_map.reshape(-1, *shape) for flat_map, shape in zip(flat_maps, shapes, strict=True))


def pooled(x: torch.Tensor) -> torch.Tensor:
    """One vector per image: maps (N, C, H, W) averaged over positions, tokens (N, T, C) over tokens."""
    return x.mean((-2, -1)) if x.ndim == 4 else x.mean(1) if x.ndim == 3 else x


@dataclass(frozen=True)
class TrainResult:
    """The result of training.

    Attributes:
        history: one row per epoch.
        best_epoch: the epoch that was kept, counted from 1.
        notes: what the head's own method reports, e.g. ridge's strength.
        knobs: what the head's layers are built from.
        trained: how many parameters trained, in any phase.
    """

    module: HeadModel
    history: list[Epoch]
    best_epoch: int
    notes: dict[str, Any]
    knobs: dict[str, Any] = field(default_factory=dict)
    trained: int = 0


def stored_knobs(head: str, *, params: Params, data: HeadData, device: torch.device) -> dict[str, Any]:
    """The knobs that are stored with a head, so that it can be built again; its options are read from them.

    They are `hidden`, `dropout`, the precision that it computes in, and the flat knobs among its options. A head that
    finds objects also has the block `boxes`, and what it learns from the boxes of train.

    Args:
        head: its name.
        params: all of them.
        data: the shape of the features, and the boxes of train.
        device: decides with `precision: auto` on the precision.
    """
    spec, heavy = HEADS[head], len(data.shape) > 1 or params.tap != "same"
    names = {"hidden", "dropout", *spec.options.model_fields} & type(params).model_fields.keys()
    knobs: dict[str, Any] = {name: getattr(params, name) for name in names}
    if data.multilabel:
        knobs["multilabel"] = True
    knobs["precision"] = training_precision(params.precision, device) if heavy else "float32"
    if spec.finds_objects:
        knobs |= params.boxes.model_dump()
        if prepare := getattr(module_of(head), "prepare", None):
            knobs |= prepare(_train_boxes(data.splits["train"]), spec.read(knobs))
    return knobs


def _train_boxes(train: SplitData) -> list[torch.Tensor]:
    """The boxes (n, 4) of each image in its evaluation view, in [0, 1]."""
    assert train.ground_truth is not None
    maps = train.affines(torch.arange(len(train.y)))
    assert maps is not None
    return [train.ground_truth.in_view(image, affine)[0] for image, affine in enumerate(maps)]


def assemble(
    head: str, shape: Sequence[Any], *, classes: int, knobs: Mapping[str, Any], rest: Rest | None = None
) -> HeadModel:
    """A head with the rest and normalisation before it.

    Args:
        head: its name.
        shape: of the features of one image at the cut, or the shapes of its maps.
        classes: how many.
        knobs: stored with the head.
        rest: of the backbone, from the cut to the tap.

    Raises:
        UserError: the features at the tap are not what the head takes.
    """
    takes = HEADS[head].input
    if rest:
        with torch.inference_mode():
            maps = rest.eval()(torch.zeros(1, *shape))
        shape = [tuple(level.shape[1:]) for level in maps.values()] if isinstance(maps, dict) else maps.shape[1:]
    several = isinstance(shape[0], Sequence)
    if (takes == "map" and (several or len(shape) != 3)) or (takes == "pyramid") != several:
        cut = {"map": "cut=map or tap=map", "pyramid": "cut=pyramid", "vector": "cut=pooled"}[takes]
        fitting = heads_taking("pyramid" if several else "map" if len(shape) == 3 else "vector")
        raise UserError(
            f"`head`: {head} takes {INPUTS[takes]}, and the features are of shape {tuple(shape)}: take {cut}, or a "
            f"head for these ({', '.join(fitting)})."
        )
    options = HEADS[head].read(knobs)
    normalize: FeatureNormalization | LevelNormalization
    if several:
        normalize = LevelNormalization(FeatureNormalization(level[0], options.normalize) for level in shape)
        head_shape = tuple(map(tuple, shape))
    else:
        channels = shape[1] if len(shape) == 2 else shape[0]
        normalize = FeatureNormalization(channels, options.normalize)
        head_shape = tuple(shape) if takes == "map" else (channels,)
    layers = module_of(head).build(head_shape, classes, options)
    calibration = ClassCalibration(classes) if knobs.get("multilabel") else None
    return HeadModel(layers, normalize, rest, shape=head_shape, takes=takes, precision=options.precision,
                     calibration=calibration)  # fmt: skip


@torch.inference_mode()
def calibrate(module: HeadModel, val: SplitData) -> None:
    """Fits the probability of each class on validation; a head for one label per image has nothing to fit."""
    if module.calibration is not None:
        module.calibration.load_state_dict(ClassCalibration(val.y.shape[1]).state_dict())
        module.calibration.fit(logits(module, val), val.y)


def keep_calibration(module: HeadModel, chosen: HeadModel) -> None:
    """Gives a head that was trained again, val included, the probabilities that val gave the one before."""
    if module.calibration is not None and chosen.calibration is not None:
        module.calibration.load_state_dict(chosen.calibration.state_dict())


@torch.inference_mode()
def embed(module: HeadModel, split: SplitData) -> torch.Tensor:
    """The features (N, V, …) that the head takes, of every view of every image, in eval mode."""
    module.eval()
    views = split.x.shape[1]
    return torch.stack([torch.cat([*map(module.features, split.batches(view))]) for view in range(views)], 1)


@torch.inference_mode()
def normalized(module: HeadModel, vectors: torch.Tensor) -> torch.Tensor:
    """Vectors (N, V, D) of every view of every image, as the layers of the head take them."""
    rows: torch.Tensor = module.standardize(vectors.flatten(0, 1))
    return rows.view_as(vectors)


@torch.inference_mode()
def batch_outputs(module: nn.Module, split: SplitData, view: int = 0) -> Iterator[Any]:
    """The outputs of a head for one view of every image, batch by batch, in eval mode.

    Args:
        module: the head.
        split: its N images.
        view: the number of the view; 0 is the evaluation view.
    """
    module.eval()
    batches = tqdm(split.batches(view), total=len(split.image_batches()), unit=" batches", leave=False, delay=2)
    for batch in batches:
        yield module(batch)


def logits(module: nn.Module, split: SplitData, view: int = 0) -> torch.Tensor:
    """Logits (N, C) of one view of every image, in eval mode; never twice in memory, as they may take some GB."""
    filled, first = None, 0
    for batch in batch_outputs(module, split, view):
        if filled is None:
            filled = torch.empty(len(split.y), *batch.shape[1:], dtype=batch.dtype, device=batch.device)
        filled[first : first + len(batch)] = batch
        first += len(batch)
    assert filled is not None  # a split without images has one empty batch
    return filled


def choices(module: nn.Module, split: SplitData, views: int) -> torch.Tensor:
    """The most probable class (N,) of each image, by the first `views` views of it together."""
    if views == 1:
        return torch.cat([batch.argmax(1) for batch in batch_outputs(module, split)])
    return averaged_logits(module, split, views).argmax(1)


def averaged_logits(module: nn.Module, split: SplitData, views: int) -> torch.Tensor:
    """Logits (N, C) of the first `views` views of each image together: the last of `logits_by_views`."""
    for together in logits_by_views(module, split, views):
        last = together
    return last


def logits_by_views(module: nn.Module, split: SplitData, views: int) -> Iterator[torch.Tensor]:
    """Logits (N, C) of the first 1, 2, … `views` views of each image: the logarithm of their mean probability."""
    several = isinstance(module, HeadModel) and module.multilabel
    of_view = logits(module, split)
    yield of_view
    if views == 1:  # no second copy of what may take some GB
        return
    total = of_view.sigmoid() if several else of_view.softmax(1)
    for view in range(1, views):
        of_view = logits(module, split, view)
        total += of_view.sigmoid() if several else of_view.softmax(1)
        yield _logits_of(total / (view + 1), several=several)


def _logits_of(probabilities: torch.Tensor, *, several: bool) -> torch.Tensor:
    limits = torch.finfo(probabilities.dtype)
    return probabilities.logit(limits.eps) if several else probabilities.clamp(min=limits.tiny).log()


def save_head(folder: Path, module: nn.Module, description: Mapping[str, Any]) -> None:
    """Writes `<folder>/head.safetensors` and `head.json`; equal input gives equal bytes."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    files.write_bytes(folder / "head.safetensors", save(state))
    files.write_json(folder / "head.json", description, indent=1, sort_keys=True)


def digest(folder: Path) -> str:
    """The sha256 of a head and its description, which says whether an evaluation is of this head.

    Raises:
        OSError: a file is missing.
    """
    contents = hashlib.sha256()
    for name in ("head.safetensors", "head.json"):
        contents.update((folder / name).read_bytes())
    return contents.hexdigest()


def load_head(folder: Path) -> tuple[HeadModel, dict[str, Any]]:
    """A head and its description, from the two files that `save_head` wrote; in eval mode.

    Raises:
        UserError: a file is missing or damaged.
    """
    try:
        description: dict[str, Any] = json.loads((folder / "head.json").read_text())
        shape, classes = description["shape"], len(description["classes"])
        rest = build(description["features"], description["tap"])
        module = assemble(description["head"], shape, classes=classes, knobs=description["knobs"], rest=rest)
        module.load_state_dict(load_file(folder / "head.safetensors"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{folder} has no complete head ({error}): {REPAIR} trains it again.") from None
    module.eval()
    return module, description
