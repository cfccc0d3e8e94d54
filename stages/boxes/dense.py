"""What heads share that predict an object, a box and a class at each of many locations.

A prediction at a location (a cell, an anchor, a point) is an object logit, the numbers that code the box in the head's
own way (K, mostly four), and C class logits. A target has six numbers: 1 for an object, 0 for background or -1 for
ignored; the code of the box; the class. Without an object, all but the first are 0.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from stages.boxes.convolution import Convolution3x3, Pointwise
from stages.boxes.geometry import Detections
from stages.boxes.losses import box_loss, class_loss, hardest, object_loss
from stages.boxes.options import DenseOptions

IGNORED, BACKGROUND = -2, -1  # the values of `assigned` at locations without a box
RARE = 0.01  # chance of an object at a location before training (Lin et al. 2017)
START = 0.01  # standard deviation of the initial weights of the last layer (ibid.)
FLOOR = 0.001  # boxes with a lower score are dropped
MOST = 1000  # boxes that are kept per image, those with the highest scores
GROUPS = 32  # of group normalisation, if they divide the channels


class Prediction(NamedTuple):
    """The outputs of a head at each location, for any leading dimensions.

    Attributes:
        object: (…) logits.
        code: (…, K) the box in the head's own code.
        classes: (…, C) logits.
    """

    object: torch.Tensor
    code: torch.Tensor
    classes: torch.Tensor


class Candidates(NamedTuple):
    """The decoded predictions of N images at P locations, in tensors of one shape for every image.

    Attributes:
        boxes: (N, P, 4) corners in [0, 1] of the view.
        objects: (N, P) the probability of an object.
        classes: (N, P, C) logits.
    """

    boxes: torch.Tensor
    objects: torch.Tensor
    classes: torch.Tensor


def split(raw: torch.Tensor, code: int = 4) -> Prediction:
    """Raw outputs (…, 1 + code + C) as a Prediction."""
    return Prediction(raw[..., 0], raw[..., 1 : 1 + code], raw[..., 1 + code :])


def mean_probability(*logits: torch.Tensor) -> torch.Tensor:
    """The geometric mean of probabilities, from their logits, all of one shape.

    By way of logarithms, because onnxruntime's sigmoid is exactly 0 for logits below -18.
    """
    logarithms = [-F.softplus(-values) for values in logits]
    return (torch.stack(logarithms).sum(0) / len(logits)).exp()


def narrow(inputs: int, options: DenseOptions) -> nn.Sequential:
    """A 1 x 1 convolution from a map (N, inputs, H, W) to `hidden` channels."""
    return _block(inputs, options, 1)


def tower(options: DenseOptions) -> nn.Sequential:
    """`tower_depth` convolutions of 3 x 3, `hidden` channels to `hidden` channels."""
    return nn.Sequential(*(_block(options.hidden, options, 3) for _ in range(options.tower_depth)))


def _block(inputs: int, options: DenseOptions, side: int) -> nn.Sequential:
    """A convolution to `hidden` channels, group normalisation (Wu and He 2018), ReLU and dropout.

    Dropout drops whole channels: neighbouring positions are so similar that dropping single ones changes nothing
    (Tompson et al. 2015, §3.2), and one random number per position took as long as the convolutions.
    """
    hidden = options.hidden
    convolution = Convolution3x3(inputs, hidden) if side == 3 else Pointwise(inputs, hidden, bias=False)
    groups = nn.GroupNorm(math.gcd(GROUPS, hidden), hidden)
    return nn.Sequential(convolution, groups, nn.ReLU(), nn.Dropout2d(options.dropout))


class PredictionLayer(nn.Module):
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
    """The target (P, 6) of the locations of an image.

    Args:
        assigned: (P,) the box that each location should predict, BACKGROUND or IGNORED.
        codes: (P, 4) the code of that box as seen from that location; not read where there is no box.
        labels: (boxes,) the class of each box.
    """
    target = codes.new_zeros(len(assigned), 6)
    target[assigned == IGNORED, 0] = -1
    objects = assigned >= 0
    target[objects, 0] = 1
    target[objects, 1:5] = codes[objects]
    target[objects, 5] = labels[assigned[objects]].to(target)
    return target


def loss(
    prediction: Prediction, truth: torch.Tensor, *, boxes: tuple[torch.Tensor, torch.Tensor], options: DenseOptions
) -> torch.Tensor:
    """The mean over images of J = Σ 1_obj (w_box L_box + w_class L_class) + L_object, over all locations.

    Args:
        prediction: of (N, P) locations.
        truth: (N, P, 6) targets.
        boxes: predicted and true boxes of the n objects, as `box_loss` compares them, (n, 4) each.
        options: the kind of loss, and the weights of its parts.
    """
    objects = truth[..., 0] > 0
    object_losses = object_loss(prediction.object, truth[..., 0], options)
    counted = hardest(object_losses.detach(), truth[..., 0], options.mining)
    parts = (
        object_losses[counted].sum(),
        options.box_weight * box_loss(*boxes, options.box_loss).sum(),
        options.class_weight * class_loss(prediction.classes[objects], truth[objects][:, 5].long(), options).sum(),
    )
    return torch.stack(parts).sum() / len(truth)


def detections(candidates: Candidates) -> list[Detections]:
    """The boxes of each image before suppression: one per location and class, if its score is among the best."""
    classes = candidates.classes.shape[-1]
    batch = []
    for boxes, image_scores in zip(candidates.boxes, scores(candidates).flatten(1), strict=True):
        best, index = image_scores.topk(min(MOST, len(image_scores)))
        index = index[best >= FLOOR]
        batch.append(Detections(boxes[index // classes], image_scores[index], index % classes))
    return batch


def scores(candidates: Candidates) -> torch.Tensor:
    """The score of each class at each location, (N, P, C): probability of an object times that of its class."""
    return candidates.objects[..., None] * candidates.classes.softmax(-1)


def cell_centres(height: int, width: int) -> torch.Tensor:
    """The centres (height * width, 2) of the cells of a map: x and y in [0, 1], row by row."""
    y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
    return torch.stack([x, y], dim=2).reshape(-1, 2)


def unassigned(boxes: int, assigned: Sequence[torch.Tensor]) -> int:
    """How many of the boxes of an image no location should predict.

    Args:
        boxes: how many boxes the image has.
        assigned: of each map, the box of each location (P,), BACKGROUND or IGNORED.
    """
    return boxes - len(set(torch.cat([level[level >= 0] for level in assigned]).tolist()))
