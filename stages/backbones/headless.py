"""Networks of timm without their classifier: `num_classes=0`."""

import copy
from itertools import chain
from typing import Any

from torch import nn


def without_classifier(model: nn.Module) -> nn.Module:
    """A network of timm that puts out what its classifier would take; it shares its weights with the original."""
    tensors = chain(model.parameters(), model.buffers())
    bare: Any = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    bare.reset_classifier(0)
    return bare  # type: ignore[no-any-return]


def headless(model: nn.Module) -> nn.Module | None:
    """The network that is to be traced in place of one of timm: without its classifier.

    Returns:
        None where the classifier is one linear layer or one convolution, or the network is not one of timm: then what
        the last layer with weights takes is the same.
    """
    network: Any = model
    if not hasattr(model, "get_classifier"):
        return None
    bare = without_classifier(model)
    removed = {*model.parameters(), *model.buffers()} - {*bare.parameters(), *bare.buffers()}
    classifier = network.get_classifier()
    if isinstance(classifier, (nn.Linear, nn.Conv2d)) and removed == {*classifier.parameters()}:
        return None
    return bare if removed else model
