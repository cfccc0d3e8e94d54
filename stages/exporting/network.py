"""A head and its backbone as one network from uint8 pixels to probabilities or boxes, in float32."""

import copy
from importlib import import_module

import torch
from torch import nn
from torch.nn import functional as F

from stages.backbones import cuts, zoo
from stages.boxes import dense
from stages.errors import UserError
from stages.features.extraction import Spec, load_extractor
from stages.features.h5 import INPUT
from stages.images.normalization import Normalize
from stages.images.preprocessing import Preprocessing
from stages.prediction.model import Predictor

Outputs = dict[str, torch.Tensor]


class NormalizedTrunk(nn.Module):
    """From pixels (N, 3, S, S), 0 to 255, to features as a head takes them: what the stage extract keeps."""

    def __init__(self, body: nn.Module, how: Preprocessing) -> None:
        super().__init__()
        self.body = body
        self.normalize = Normalize(how)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        found = self.body(self.normalize(pixels))
        if isinstance(found, dict):  # of a pyramid the numbers of all maps, as heads take them
            return torch.cat([level.flatten(1) for level in found.values()], 1)
        kept: torch.Tensor = found
        return kept


class OutputLayer(nn.Module):
    """From what a head gives to what the file answers.

    Args:
        model: for its head, knobs and size of a view.
    """

    def __init__(self, model: Predictor) -> None:
        super().__init__()
        self.knobs, self.size = model.described["knobs"], preprocessing(model.specs[0]).crop
        self.head = import_module(f"stages.heads.{model.described['head']}") if model.finds_boxes else None

    def forward(self, raw: torch.Tensor) -> Outputs:
        """`probabilities` (N, C); or `boxes` (N, P, 4), corners in pixels of the view, and `scores` (N, P, C)."""
        if not self.head:
            return {"probabilities": F.softmax(raw, 1)}
        boxes, objects, classes = self.head.places(raw, self.knobs)
        return {"boxes": boxes * self.size, "scores": dense.scores(objects, classes)}


class ExportedNetwork(nn.Module):
    """The whole: uint8 pixels (N, 3, S, S), resized and cropped, to `OutputLayer`.

    Args:
        model: a head with all that leads to it. It is copied, and computes in float32.

    Raises:
        UserError: it has several backbones that look at images differently.
    """

    def __init__(self, model: Predictor) -> None:
        super().__init__()
        looks = {(how.crop, how.resize, how.interpolation) for how in map(preprocessing, model.specs)}
        if len(looks) > 1:
            raise UserError(
                f"{model.provenance['backbone']} looks at each image in {len(looks)} sizes, and a file has one input: "
                "`python -m stages.predict` answers, or train on one of these backbones."
            )
        kept = model.provenance["cut"] != INPUT  # else the head has all of the network, normalisation too
        self.trunks = nn.ModuleList(map(_trunk, model.specs) if kept else ())
        self.head, self.answers = copy.deepcopy(model.head).cpu(), OutputLayer(model)
        self.head.precision = "float32"
        self.eval().requires_grad_(False)

    def forward(self, pixels: torch.Tensor) -> Outputs:
        values = pixels.float()
        features = torch.cat([trunk(values) for trunk in self.trunks], 1) if self.trunks else values
        answers: Outputs = self.answers(self.head(features))
        return answers


def preprocessing(spec: Spec) -> Preprocessing:
    """How the network of a spec looks at an image."""
    return load_extractor(spec).preprocessing


def _trunk(spec: Spec) -> NormalizedTrunk:
    how, backbone = preprocessing(spec), zoo.load(spec.backbone, spec.weights)
    return NormalizedTrunk(cuts.Network(backbone.model, how.crop, spec.backbone).trunk(spec.cut), how)
