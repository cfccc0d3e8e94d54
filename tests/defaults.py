"""The params that tests start from. Never those of the workspace, which hold what somebody tried last."""

from typing import Any

import yaml

from stages import yaml12
from stages.params import Params
from stages.recipe import DEFAULTS, FOLDER

BLOCKS = FOLDER.parent / "blocks.yaml"


def tree() -> dict[str, Any]:
    """Keys and values of a params.yaml: the defaults of recipes, and the blocks that these leave out."""
    values: dict[str, Any] = yaml12.parse(BLOCKS.read_bytes(), BLOCKS.name)
    for knob, value in yaml12.parse((FOLDER / f"{DEFAULTS}.yaml").read_bytes(), DEFAULTS).items():
        *blocks, name = knob.split(".")
        block = values
        for key in blocks:
            block = block.setdefault(key, {})
        block[name] = value
    return {name: values.pop(name) for name in Params.model_fields if name in values} | values


def shipped() -> dict[str, Any]:
    """Keys and values of the params.yaml that the project comes with: the recipe of that name."""
    own = yaml12.parse((FOLDER / "logos-default.yaml").read_bytes(), "logos-default")
    assert not any("." in knob for knob in own)
    return tree() | own


def text() -> str:
    """The same as a file."""
    return "# for a test\n" + yaml.safe_dump(tree(), sort_keys=False)
