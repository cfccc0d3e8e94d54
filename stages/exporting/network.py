"""A head with its backbones as one network from uint8 pixels to probabilities or boxes, in float32."""

import copy
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from stages.backbones import cuts, zoo
from stages.boxes import dense
from stages.errors import UserError
from stages.exporting import suppression
from stages.features.extraction import Spec, load_extractor
from stages.features.h5 import INPUT
from stages.heads.contract import ObjectHead, module_of
from stages.heads.options import LargestOptions
from stages.images.preprocessing import Preprocessing
from stages.prediction.predictor import Predictor

Outputs = dict[str, torch.Tensor]


class NormalizedTrunk(nn.Module):
    """From pixels (N, 3, S, S), 0 to 255, to the features that the stage extract keeps and heads take.

    Args:
        trunk: the backbone up to the cut.
        how: mean and standard deviation of the pixels, in [0, 1].
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, trunk: nn.Module, how: Preprocessing) -> None:
        super().__init__()
        self.body = trunk
        self.register_buffer("mean", torch.tensor(how.mean).view(1, 3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(how.std).view(1, 3, 1, 1) * 255)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        features = self.body((pixels - self.mean) / self.std)
        if isinstance(features, dict):  # a pyramid: heads take the numbers of all its maps in one row
            return torch.cat([level.flatten(1) for level in features.values()], 1)
        output: torch.Tensor = features
        return output


class OutputLayer(nn.Module):
    """From the raw output of a head to the outputs of the file.

    Args:
        predictor: whose head it is.
        suppresses: whether boxes go through suppression, besides being given as they are.
    """

    def __init__(self, predictor: Predictor, *, suppresses: bool = False) -> None:
        super().__init__()
        how = preprocessing(predictor.specs[0])
        self.options, self.size, self.decide, self.suppresses = (
            predictor.options,
            how.crop,
            predictor.decide,
            suppresses,
        )
        self.whole = how.resize is None  # the view is all of the image, so that its border is known
        self.multilabel = predictor.thresholds is not None
        self.head = cast("ObjectHead", module_of(predictor.described["head"])) if predictor.finds_boxes else None

    def forward(self, raw: torch.Tensor) -> Outputs:
        """`probabilities` (N, C); or of P boxes `all_boxes` (N, P, 4), corners in pixels of the view, and `all_scores`.

        With suppression there are also `boxes`, `scores` and `labels`: see `suppression.Selection`.
        """
        if not self.head:
            return {"probabilities": raw.sigmoid() if self.multilabel else F.softmax(raw, 1)}
        candidates = self.head.candidates(raw, self.options)
        boxes, scores = candidates.boxes * self.size, dense.scores(candidates)
        outputs = self.select(boxes, scores)._asdict() if self.suppresses else {}
        return outputs | {"all_boxes": boxes, "all_scores": scores}

    def select(self, boxes: torch.Tensor, scores: torch.Tensor) -> suppression.Selection:
        """The boxes (N, P, 4) that remain by their scores (N, P, C), with the thresholds that evaluate used last."""
        inside = boxes.clamp(0, self.size) if self.whole else boxes
        if isinstance(self.options, LargestOptions):  # predicts one class of its box
            scores = torch.where(scores >= scores.amax(2, keepdim=True), scores, 0.0)
        decide = self.decide
        return suppression.select(
            inside, scores, iou=decide.nms_iou, confidence=decide.confidence, votes=decide.merge == "vote"
        )


class ExportedNetwork(nn.Module):
    """From uint8 pixels (N, 3, S, S), resized and cropped, to the outputs of `OutputLayer`.

    Args:
        predictor: what is exported. It is copied, and the copy computes in float32.
        suppresses: whether boxes go through suppression.

    Raises:
        UserError: it has several backbones that take images of different sizes.
    """

    def __init__(self, predictor: Predictor, *, suppresses: bool = False) -> None:
        super().__init__()
        sizes = {(how.crop, how.resize, how.interpolation) for how in map(preprocessing, predictor.specs)}
        if len(sizes) > 1:
            raise UserError(
                f"The backbones {predictor.provenance['backbone']} take images in {len(sizes)} different sizes, and a "
                "file has one input: use `python -m stages.predict`, or train on one of these backbones."
            )
        has_trunk = predictor.provenance["cut"] != INPUT  # else the head has the whole network, normalisation too
        self.trunks = nn.ModuleList(map(_trunk, predictor.specs) if has_trunk else ())
        self.head = copy.deepcopy(predictor.head).cpu()
        self.answers = OutputLayer(predictor, suppresses=suppresses)
        self.head.precision = "float32"
        self.eval().requires_grad_(False)

    def forward(self, pixels: torch.Tensor) -> Outputs:
        values = pixels.float()
        features = torch.cat([trunk(values) for trunk in self.trunks], 1) if self.trunks else values
        outputs: Outputs = self.answers(self.head(features))
        return outputs


def preprocessing(spec: Spec) -> Preprocessing:
    """How images are prepared for the backbone of a spec."""
    return load_extractor(spec).preprocessing


def _trunk(spec: Spec) -> NormalizedTrunk:
    how, backbone = preprocessing(spec), zoo.load(spec.backbone, spec.weights, spec.image_size)
    return NormalizedTrunk(cuts.load_network(backbone.model, how.crop, spec.backbone).trunk(spec.cut), how)
