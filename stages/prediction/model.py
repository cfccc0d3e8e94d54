"""A trained head with its backbone, rebuilt from what the head says of itself, and what it answers on new images.

params.yaml plays no part: it may have changed since the head was trained. Features are computed by the functions of
the stage extract and judged by those of the stage evaluate, so that the answers are theirs.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from stages import paths
from stages.backbones import names
from stages.backbones.device import pick_device
from stages.boxes.geometry import Detections
from stages.errors import UserError
from stages.evaluation.options import Decide
from stages.features import h5, joined
from stages.features.extraction import Image, Spec, compute_part, load_extractor
from stages.heads import DETECTION
from stages.images import views
from stages.params import Params
from stages.training import data, tasks
from stages.training.model import HeadModel, averaged_logits, restore

Answer = torch.Tensor | Detections  # probabilities (classes,), or boxes in pixels of the image
BATCH = 32  # images answered at a time, in fours, where the features are pixels and no engine has batches
NOT_COMPARED = ("views", "joined")  # of the provenance of features


@dataclass(frozen=True)
class Predictor:
    """A head with all that leads to it.

    Attributes:
        head: in eval mode, on its device.
        described: what was kept with it.
        decide: as evaluate decided with it.
        specs: how the features of each of its backbones are computed.
    """

    head: HeadModel
    described: dict[str, Any]
    decide: Decide
    specs: tuple[Spec, ...]

    @property
    def classes(self) -> list[str]:
        """By label."""
        found: list[str] = self.described["classes"]
        return found

    @property
    def provenance(self) -> dict[str, Any]:
        """Of the features that the head was trained on."""
        found: dict[str, Any] = self.described["features"]
        return found

    @property
    def finds_boxes(self) -> bool:
        """Whether it answers with boxes, not with the probabilities of classes."""
        return self.described["head"] in DETECTION

    @property
    def predicts(self) -> str:
        """Of an object: `box`, `class` or `both`."""
        return str(self.described["knobs"]["predict"]) if self.described["head"] == "largest" else "both"

    @cached_property
    def params(self) -> Params:
        """The knobs of its training, and only these."""
        return Params.model_construct(**self.described["params"] | {"augment": self.specs[0].augment})

    def answers(self, images: Sequence[Image], extents: Sequence[tuple[int, int]]) -> list[Answer | None]:
        """What it says of some images; None of those that cannot be decoded.

        Args:
            images: below the folder of the specs.
            extents: width and height of each, in pixels.

        Raises:
            UserError: an image has changed, or its features are not finite.
        """
        rows = self._rows(images)
        good = rows["ok"].astype(bool)
        if not good.any():
            return [None] * len(images)
        features = h5.Features({name: values[good] for name, values in rows.items()}, self.provenance)
        found = iter(self._judged(features, torch.tensor(extents)[torch.from_numpy(good)]))
        return [next(found) if there else None for there in good]

    def _rows(self, images: Sequence[Image]) -> dict[str, h5.Array]:
        each = [compute_part(spec, images, spec.views) for spec in self.specs]
        if len(each) == 1:
            return each[0]
        vectors = h5.LAYER + joined.LAYER
        return each[0] | {vectors: np.concatenate([rows[vectors] for rows in each], -1)}

    def _judged(self, features: h5.Features, extents: torch.Tensor) -> Sequence[Answer]:
        split = data.unlabelled(features, extents, self.params).to(next(iter(self.head.state_dict().values())).device)
        count = len(self.specs[0].views)
        if not self.finds_boxes:
            return list(averaged_logits(self.head, split, count).softmax(1).cpu())
        described = self.described
        task = tasks.DetectionTask(described["head"], self.head, described["knobs"], len(self.classes), self.params)
        return task.find(self.head, split, self.decide.nms_iou, count, self.decide.merge)


def load(folder: Path = paths.HEAD) -> Predictor:
    """The head of the last run.

    Raises:
        UserError: it is not there or not whole, or its backbone's weights are no longer those it was trained on.
    """
    head, described = restore(folder)
    device = pick_device("auto")
    decide = _decide()
    model = Predictor(head.to(device), described, decide, tuple(_specs(described, device, decide)))
    for spec, wanted in zip(model.specs, recorded(model), strict=True):
        _check_weights(spec, wanted)
    return model


def recorded(model: Predictor) -> list[dict[str, Any]]:
    """The provenance of the features of each backbone, as the head was trained."""
    found: list[dict[str, Any]] = model.provenance.get("joined", [model.provenance])
    return found


def differences(model: Predictor) -> dict[str, str]:
    """What is computed otherwise here than it was for training: name -> `then -> now`; empty where nothing is."""
    found: dict[str, str] = {}
    for spec, then in zip(model.specs, recorded(model), strict=True):
        now = load_extractor(spec).provenance
        keys = [key for key in then if key not in NOT_COMPARED and now.get(key) != then[key]]
        found |= {key: f"{_told(then[key])} -> {_told(now.get(key))}" for key in keys}
    return found


def _told(value: Any) -> str:
    return ", ".join(f"{name} {one}" for name, one in value.items()) if isinstance(value, dict) else str(value)


def _specs(described: dict[str, Any], device: torch.device, decide: Decide) -> list[Spec]:
    """How the features of each backbone were computed; precision is chosen anew on another kind of device."""
    made, params = described["features"], described["params"]
    every = tuple(made["views"])
    augment = views.settings(every[-1])
    specs = []
    networks = names.joined(params["backbone"], params["weights"])
    for (backbone, weights), one in zip(networks, made.get("joined", [made]), strict=True):
        alike = one.get("device") == device.type
        specs.append(
            Spec(
                folder=Path(),
                backbone=backbone,
                weights=weights,
                cut=made["cut"],
                image_size=params["image_size"],
                resize=params["resize"],
                engine=one["engine"] if alike else "auto",
                precision=one["precision"] if alike else "auto",
                dtype=one["dtype"],
                batch_size=one.get("batch_size", BATCH),
                device=str(device),
                views=every if decide.tta else every[:1],
                augment=augment,
            )
        )
    return specs


def _decide() -> Decide:
    """The settings that evaluate has used last."""
    path = paths.PREDICTIONS / "predictions.json"
    try:
        return Decide.model_validate(json.loads(path.read_text())["decide"])
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise UserError(f"{path} does not say how to decide ({error}): `dvc repro` evaluates the head.") from None


def _check_weights(spec: Spec, wanted: dict[str, Any]) -> None:
    then, now = wanted.get("weights_sha256"), load_extractor(spec).provenance.get("weights_sha256")
    if then != now:
        raise UserError(
            f"The weights of {spec.backbone} ({spec.weights}) are no longer those that the head was trained on "
            f"(sha256 {str(now)[:12]}, expected {str(then)[:12]}): put those back, or `dvc repro` trains anew."
        )
