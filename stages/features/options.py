"""The block `extract` of params.yaml."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from stages.blocks import Block


def _cluster(name: str) -> str:
    if not re.fullmatch(r"none|local|auto|[^/\s]+:\d+", name):
        raise ValueError("must be none, local, auto or host:port")
    return name


class Extract(Block):
    """How the trunk is run."""

    engine: Literal["auto", "torch", "openvino"]
    precision: Literal["auto", "float32", "bfloat16", "float16"]
    dtype: Literal["float16", "float32"]
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"]
    compile: bool
    decoder: Literal["cpu", "gpu"]
    seed: int
    cluster: Annotated[str, AfterValidator(_cluster)]
    cluster_cpus: Annotated[int, Field(ge=1)]
    cluster_gpus: Annotated[int, Field(ge=0)]
