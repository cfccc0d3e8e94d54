"""The heads by name: the features that each takes, its task and its options. Needs no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from stages.blocks import HeadOptions
from stages.boxes.options import DenseOptions
from stages.heads.options import (
    AnchorsOptions,
    AttentiveOptions,
    KnnOptions,
    LargestOptions,
    MlpOptions,
    MultiscaleOptions,
    SqueezenetOptions,
)

Input = Literal["vector", "map", "pyramid"]
Normalize = Literal["standardize", "l2", "sqrt", "none"]
INPUTS: Mapping[Input, str] = {"vector": "a vector", "map": "a map (C, H, W)", "pyramid": "maps at several strides"}


# What `head: auto` tries. ridge and lda are cheap; logistic and mlp were best with these on the sets of docs/heads.md
CANDIDATES: tuple[tuple[str, Normalize], ...] = (
    ("ridge", "none"),
    ("ridge", "standardize"),
    ("ridge", "l2"),
    ("ridge", "sqrt"),
    ("lda", "none"),
    ("lda", "standardize"),
    ("lda", "l2"),
    ("lda", "sqrt"),
    ("logistic", "sqrt"),
    ("mlp", "standardize"),
)


@dataclass(frozen=True)
class HeadSpec:
    """What the pipeline needs to know about a head before it imports its module.

    Attributes:
        input: the features that it takes; maps are averaged over positions for a head that takes a vector.
        task: `classification` predicts the class of an image, `detection` finds all objects, `largest` the largest one.
        options: the knobs that its module reads; those that are flat in params.yaml are stored with the head.
        closed_form: it is solved at once, without epochs and learning rate.
        streams: in closed form, it reads its vectors block by block, so that large ones may stay on the disk.
        default_lr: the learning rate where params.yaml has `lr: auto` and the range test suggests none.
        candidates: the heads among which validation chooses, each with a `normalize`, the simplest first, for a name
            that stands for them.
        multilabel: it can give each class a probability of its own, for images with several labels.
    """

    input: Input
    task: Literal["classification", "detection", "largest"] = "classification"
    options: type[HeadOptions] = HeadOptions
    closed_form: bool = False
    streams: bool = False
    default_lr: float = 0.001
    candidates: tuple[tuple[str, Normalize], ...] = ()
    multilabel: bool = False

    @property
    def candidate_heads(self) -> list[str]:
        """The heads among the candidates, each once."""
        return list(dict.fromkeys(head for head, _ in self.candidates))

    @property
    def finds_objects(self) -> bool:
        """Whether it predicts boxes, not just probabilities of classes."""
        return self.task != "classification"

    def read(self, knobs: Mapping[str, Any]) -> HeadOptions:
        """The options of the head, from the knobs that are stored with it."""
        return self.options.model_validate(knobs)


HEADS: dict[str, HeadSpec] = {
    "linear": HeadSpec("vector", multilabel=True),
    "mlp": HeadSpec("vector", options=MlpOptions, multilabel=True),
    "ridge": HeadSpec("vector", closed_form=True, streams=True, multilabel=True),
    "logistic": HeadSpec("vector", closed_form=True, multilabel=True),
    "lda": HeadSpec("vector", closed_form=True, streams=True),
    "knn": HeadSpec("vector", options=KnnOptions, closed_form=True, multilabel=True),
    "attentive": HeadSpec("map", options=AttentiveOptions, multilabel=True),
    "squeezenet": HeadSpec("map", options=SqueezenetOptions),
    "lenet5": HeadSpec("map", multilabel=True),
    "smallnet": HeadSpec("map", multilabel=True),
    "largest": HeadSpec("map", "largest", LargestOptions),
    "grid": HeadSpec("map", "detection", DenseOptions),
    "anchors": HeadSpec("map", "detection", AnchorsOptions),
    "multiscale": HeadSpec("pyramid", "detection", MultiscaleOptions),
    "auto": HeadSpec("vector", candidates=CANDIDATES, multilabel=True),
}


def head_with_rate(head: str) -> str:
    """The head that the learning rate is of: itself, or of several candidates the one that trains in epochs."""
    return next((name for name, _ in HEADS[head].candidates if not HEADS[name].closed_form), head)


def heads_taking(kind: Input) -> list[str]:
    """The heads that take a kind of features."""
    return [name for name, spec in HEADS.items() if spec.input == kind]


def heads_for(*tasks: str) -> list[str]:
    """The heads for some tasks."""
    return [name for name, spec in HEADS.items() if spec.task in tasks]


def heads_for_labels() -> list[str]:
    """The heads for images with several labels."""
    return [name for name, spec in HEADS.items() if spec.multilabel]
