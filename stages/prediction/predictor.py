"""A trained head with its backbones, loaded from cache/head, and its predictions for new images.

params.yaml is not read: it may have changed since the head was trained. Features are computed by the functions of the
stage extract and go through those of the stage evaluate, so that predictions are the same as evaluate's.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError

from stages import paths
from stages.backbones import names
from stages.backbones.device import pick_device, pick_head_device
from stages.blocks import HeadOptions
from stages.boxes.geometry import Detections
from stages.errors import UserError
from stages.evaluation import unknown
from stages.evaluation.options import Decide
from stages.evaluation.unknown import Known
from stages.features import h5
from stages.features.decoders import ImageRef
from stages.features.extraction import Spec, compute_part, load_extractor
from stages.features.joined import join_rows
from stages.heads.options import LargestOptions
from stages.heads.registry import HEADS
from stages.images import views
from stages.params import Params
from stages.training import data, tasks
from stages.training.model import HeadModel, averaged_logits, digest, load_head


class Probabilities(NamedTuple):
    """What a head says of the class of an image.

    Attributes:
        values: (classes,); of one class per image they add up to 1.
        similarity: to the training images nearest to it, in [-1, 1]; None where that is not asked for.
    """

    values: torch.Tensor
    similarity: float | None


Prediction = Probabilities | Detections  # boxes in pixels of the image
BATCH = 32  # images per batch where the features are pixels, and no engine says how large a batch is
NOT_COMPARED = ("views", "joined")  # keys of the provenance


@dataclass(frozen=True)
class Predictor:
    """A trained head with all that it needs to predict.

    Attributes:
        head: in eval mode, on its device.
        described: the contents of head.json.
        decide: the thresholds that evaluate used.
        specs: how the features of each of its backbones are computed.
        known: what it was trained on; None where no image counts as unknown.
        thresholds: the probability from which on each of several labels is predicted; None for one label per image.
    """

    head: HeadModel
    described: dict[str, Any]
    decide: Decide
    specs: tuple[Spec, ...]
    known: Known | None = None
    thresholds: tuple[float, ...] | None = None

    @property
    def classes(self) -> list[str]:
        """The names of the classes, in the order of the labels."""
        classes: list[str] = self.described["classes"]
        return classes

    @property
    def provenance(self) -> dict[str, Any]:
        """The provenance of the features that the head was trained on."""
        provenance: dict[str, Any] = self.described["features"]
        return provenance

    @property
    def finds_boxes(self) -> bool:
        """Whether it predicts boxes and not the probabilities of classes."""
        return HEADS[self.described["head"]].finds_objects

    @property
    def predicts(self) -> str:
        """What it predicts of an object: `box`, `class` or `both`."""
        return self.options.predict if isinstance(self.options, LargestOptions) else "both"

    @property
    def options(self) -> HeadOptions:
        """The options of the head."""
        return HEADS[self.described["head"]].read(self.described["knobs"])

    @cached_property
    def params(self) -> Params:
        """The params of its training; other params are missing."""
        return Params.model_construct(**self.described["params"] | {"augment": self.specs[0].augment})

    def predict(self, images: Sequence[ImageRef], extents: Sequence[tuple[int, int]]) -> list[Prediction | None]:
        """Predicts images; None stands for an image that cannot be decoded.

        Args:
            images: N images, their paths absolute.
            extents: N pairs of width and height in pixels.

        Raises:
            UserError: an image has changed since its checksum was taken, or its features are not finite.
        """
        rows = self._features(images)
        decoded = rows["ok"].astype(bool)
        if not decoded.any():
            return [None] * len(images)
        features = h5.Features({name: values[decoded] for name, values in rows.items()}, self.provenance)
        predictions = iter(self._predict(features, torch.tensor(extents)[torch.from_numpy(decoded)]))
        return [next(predictions) if ok else None for ok in decoded]

    def _features(self, images: Sequence[ImageRef]) -> dict[str, h5.Array]:
        """The features of N images as a part file has them; those of several backbones joined to one vector."""
        per_backbone = [compute_part(spec, images, spec.views) for spec in self.specs]
        return per_backbone[0] if len(per_backbone) == 1 else join_rows(per_backbone, self.provenance["cut"])

    def _predict(self, features: h5.Features, extents: torch.Tensor) -> Sequence[Prediction]:
        """Predicts N images from their features; `extents` (N, 2) has their widths and heights in pixels."""
        split = data.unlabelled(features, extents, self.params).to(next(iter(self.head.state_dict().values())).device)
        count = len(self.specs[0].views)
        if not self.finds_boxes:
            similar = self.known.similarity(split).tolist() if self.known else [None] * len(extents)
            values = self.head.probabilities(averaged_logits(self.head, split, count)).cpu()
            return [Probabilities(*pair) for pair in zip(values, similar, strict=True)]
        name, classes = self.described["head"], len(self.classes)
        task = tasks.DetectionTask(name, self.head, self.options, classes=classes, params=self.params)
        return task.detect(self.head, split, iou=self.decide.nms_iou, views=count, merge=self.decide.merge)


def load(folder: Path = paths.HEAD) -> Predictor:
    """Loads the head of the last run with its backbones.

    Raises:
        UserError: the head is missing, damaged or not evaluated, or the weights of a backbone differ from those it was
            trained on.
    """
    head, described = load_head(folder)
    device = pick_device("auto")
    (decide, thresholds), known = _decisions(folder, head.multilabel), unknown.read()
    specs = tuple(_specs(described, device, decide))
    of_head = pick_head_device("auto")
    predictor = Predictor(head.to(of_head), described, decide, specs, known.to(of_head) if known else None, thresholds)
    for spec, provenance in zip(predictor.specs, recorded(predictor), strict=True):
        _check_weights(spec, provenance)
    return predictor


def recorded(predictor: Predictor) -> list[dict[str, Any]]:
    """The provenance of the features of each backbone, as recorded when the head was trained."""
    provenances: list[dict[str, Any]] = predictor.provenance.get("joined", [predictor.provenance])
    return provenances


def differences(predictor: Predictor) -> dict[str, str]:
    """What is computed differently here than for training: name -> `then -> now`; empty where nothing is."""
    changed: dict[str, str] = {}
    for spec, then in zip(predictor.specs, recorded(predictor), strict=True):
        now = load_extractor(spec).provenance
        keys = [key for key in then if key not in NOT_COMPARED and now.get(key) != then[key]]
        changed |= {key: f"{_text(then[key])} -> {_text(now.get(key))}" for key in keys}
    return changed


def _text(value: Any) -> str:
    return ", ".join(f"{name} {item}" for name, item in value.items()) if isinstance(value, dict) else str(value)


def _specs(described: dict[str, Any], device: torch.device, decide: Decide) -> list[Spec]:
    """How the features of each backbone were computed; precision is chosen anew on another kind of device."""
    features, params = described["features"], described["params"]
    all_views = tuple(features["views"])
    augment = views.settings(all_views[-1])
    specs = []
    networks = names.joined(params["backbone"], params["weights"])
    for (backbone, weights), provenance in zip(networks, features.get("joined", [features]), strict=True):
        same_device = provenance.get("device") == device.type
        specs.append(
            Spec(
                folder=Path(),
                backbone=backbone,
                weights=weights,
                cut=features["cut"],
                image_size=provenance["image_size"] if params["image_size"] == "objects" else params["image_size"],
                resize=params["resize"],
                engine=provenance["engine"] if same_device else "auto",
                precision=provenance["precision"] if same_device else "auto",
                dtype=provenance["dtype"],
                batch_size=provenance.get("batch_size", BATCH),
                device=str(device),
                views=all_views if decide.tta else all_views[:1],
                augment=augment,
                scaled="scaling" in provenance,
            )
        )
    return specs


def _decisions(folder: Path, multilabel: bool) -> tuple[Decide, tuple[float, ...] | None]:
    """The block `decide` that evaluate used last, and for several labels the threshold of each.

    Raises:
        UserError: the head has not been evaluated.
    """
    path = paths.PREDICTIONS / "predictions.json"
    try:
        described = json.loads(path.read_text())
        decide = Decide.model_validate(described["decide"])
        thresholds = tuple(map(float, described["thresholds"])) if multilabel else None
        of_this_head = described.get("head") == digest(folder)
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise UserError(
            f"{path} has no thresholds ({error}): `dvc repro` evaluates the head and writes them."
        ) from None
    if not of_this_head:
        raise UserError(f"{path} is of another head than {folder}: `dvc repro` evaluates this one.")
    return decide, thresholds


def _check_weights(spec: Spec, provenance: dict[str, Any]) -> None:
    then, now = provenance.get("weights_sha256"), load_extractor(spec).provenance.get("weights_sha256")
    if then != now:
        raise UserError(
            f"The weights of {spec.backbone} ({spec.weights}) are not those that the head was trained on (sha256 "
            f"{str(now)[:12]}, expected {str(then)[:12]}): put those back, or train again with `dvc repro`."
        )
