"""What heads share that predict an object, a box and a class at each of many places.

A place's prediction holds 5 + C numbers: an object logit, four numbers of its box in the head's own code, C class
logits. Its target holds six: 1 object, 0 background or IGNORED; the code of the box; the class. Where there is no
object all but the first are 0.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from stages.boxes.convolution import Pointwise, Square
from stages.boxes.geometry import Detections
from stages.boxes.losses import box_loss, class_loss, hardest, object_loss

IGNORED, BACKGROUND = -2, -1  # what `assign` gives places without a box
RARE = 0.01  # chance of an object at a place before training (Lin et al. 2017)
START = 0.01  # standard deviation of the last layer's first weights (ibid.)
FLOOR = 0.001  # boxes with a lower score are not worth carrying on
MOST = 1000  # nor are more than these of an image
GROUPS = 32  # of group normalisation, where the channels can be parted so


Places = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # what `found` takes: boxes, objects, class logits


class Prediction(NamedTuple):
    """A prediction taken apart, for any leading dimensions."""

    object: torch.Tensor  # (…)
    code: torch.Tensor  # (…, 4)
    classes: torch.Tensor  # (…, C)


def split(raw: torch.Tensor) -> Prediction:
    """(…, 5 + C) taken apart."""
    return Prediction(raw[..., 0], raw[..., 1:5], raw[..., 5:])


def narrow(inputs: int, knobs: Mapping[str, Any]) -> nn.Sequential:
    """A 1 x 1 convolution from a map (N, inputs, H, W) to `hidden` channels."""
    return _block(inputs, knobs, 1)


def tower(knobs: Mapping[str, Any]) -> nn.Sequential:
    """`tower_depth` convolutions of 3 x 3, `hidden` channels to `hidden` channels."""
    return nn.Sequential(*(_block(knobs["hidden"], knobs, 3) for _ in range(knobs["tower_depth"])))


def _block(inputs: int, knobs: Mapping[str, Any], side: int) -> nn.Sequential:
    """A convolution to `hidden` channels, group normalisation (Wu and He 2018), ReLU and dropout.

    Dropout is of whole channels: neighbouring places are so alike that single ones are not missed (Tompson et al. 2015,
    §3.2), and drawing one number a place took as long as the convolutions.
    """
    hidden = knobs["hidden"]
    convolution = Square(inputs, hidden) if side == 3 else Pointwise(inputs, hidden, bias=False)
    groups = nn.GroupNorm(math.gcd(GROUPS, hidden), hidden)
    return nn.Sequential(convolution, groups, nn.ReLU(), nn.Dropout2d(knobs["dropout"]))


class Predictor(nn.Module):
    """A 1 x 1 convolution from a map (N, C, H, W) to predictions (N, H, W, boxes, numbers)."""

    def __init__(self, inputs: int, boxes: int, numbers: int) -> None:
        super().__init__()
        self.layer = Pointwise(inputs, boxes * numbers, bias=True)
        self.boxes = boxes
        bias = torch.zeros(boxes, numbers)
        bias[:, 0] = -math.log((1 - RARE) / RARE)
        self.layer.bias = nn.Parameter(bias.flatten())
        nn.init.normal_(self.layer.weight, std=START)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        images, _, height, width = features.shape
        raw: torch.Tensor = self.layer(features)
        return raw.permute(0, 2, 3, 1).reshape(images, height, width, self.boxes, -1)


def target(assigned: torch.Tensor, codes: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The target (places, 6).

    Args:
        assigned: (places,) the box that each place is to predict, BACKGROUND or IGNORED.
        codes: (places, 4), of that box as seen from that place; anything where there is none.
        labels: (boxes,).
    """
    made = torch.zeros(len(assigned), 6)
    made[assigned == IGNORED, 0] = -1
    objects = assigned >= 0
    made[objects, 0] = 1
    made[objects, 1:5] = codes[objects]
    made[objects, 5] = labels[assigned[objects]].to(made)
    return made


def loss(
    prediction: Prediction, truth: torch.Tensor, boxes: tuple[torch.Tensor, torch.Tensor], knobs: Mapping[str, Any]
) -> torch.Tensor:
    """The mean over images of J = Σ 1_obj (w_box L_box + w_class L_class) + w_object L_object, over all places.

    Args:
        prediction: of (N, P) places.
        truth: (N, P, 6).
        boxes: found and true ones in what box_loss compares, (N, P, 4) each; the true ones mean nothing elsewhere.
        knobs: `box_loss`, `box_weight`, `class_weight`, `object_weight`, `mining`, `loss` and what belongs to it.
    """
    objects = truth[..., 0] > 0
    object_each = object_loss(prediction.object, truth[..., 0], knobs)
    counted = hardest(object_each.detach(), truth[..., 0], knobs["mining"])
    parts = (
        knobs["object_weight"] * object_each[counted].sum(),
        knobs["box_weight"] * box_loss(boxes[0][objects], boxes[1][objects], knobs["box_loss"]).sum(),
        knobs["class_weight"] * class_loss(prediction.classes[objects], truth[objects][:, 5].long(), knobs).sum(),
    )
    return torch.stack(parts).sum() / len(truth)


def found(boxes: torch.Tensor, objects: torch.Tensor, classes: torch.Tensor) -> list[Detections]:
    """The boxes of each image, before suppression: every class of every place, as far as its score counts.

    Args:
        boxes: (N, P, 4) corners.
        objects: (N, P) how sure it is that there is one, in [0, 1].
        classes: (N, P, C) logits.
    """
    each = []
    for image_boxes, image_scores in zip(boxes, scores(objects, classes).flatten(1), strict=True):
        best, which = image_scores.topk(min(MOST, len(image_scores)))
        which = which[best >= FLOOR]
        number = classes.shape[-1]
        each.append(Detections(image_boxes[which // number], image_scores[which], which % number))
    return each


def scores(objects: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """How sure it is of an object of each class, (N, P, C): of an object (N, P), times its class's probability."""
    return objects[..., None] * classes.softmax(-1)


def cell_centres(height: int, width: int) -> torch.Tensor:
    """(height * width, 2) x and y in [0, 1], row by row."""
    y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
    return torch.stack([x, y], dim=2).reshape(-1, 2)


def unassigned(boxes: int, assigned: Sequence[torch.Tensor]) -> int:
    """How many of an image's boxes no place is to predict."""
    held = torch.cat([each[each >= 0] for each in assigned])
    return boxes - len(set(held.tolist()))
