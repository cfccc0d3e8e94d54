"""Recipes: small YAML files that set every flat knob, printed as `-S` arguments.

`dvc exp run -S` leaves its values in the workspace, so a recipe that set a few knobs would depend on what ran before.
Keys with a dot (`split.seed`, `datasets.caltech101.exclude`) may stand in a recipe beside the flat ones.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from stages import command, yaml12
from stages.errors import UserError, nearest
from stages.params import Params

FOLDER = Path(__file__).parent / "recipes"
NOT_IN_RECIPES = ("device",)  # the machine's, not the recipe's: no result depends on it by design


def names() -> list[str]:
    """All recipes."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def description(name: str) -> str:
    """The comment that opens a recipe: source, command, hardware, expected result."""
    lines = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    comment = []
    for line in lines:
        if not line.startswith("#"):
            break
        comment.append(line.removeprefix("#").strip())
    return "\n".join(comment)


def arguments(name: str) -> list[str]:
    """The recipe as arguments of `dvc exp run`: `-S`, `knob=value`, and so on.

    Raises:
        UserError: there is no such recipe, or it does not set every flat knob.
    """
    if name not in names():
        raise UserError(f"There is no recipe {name!r}; {nearest(name, names())}")
    knobs: dict[str, Any] = yaml12.parse((FOLDER / f"{name}.yaml").read_bytes(), f"{name}.yaml")
    missing = [knob for knob in flat_knobs() if knob not in knobs]
    if missing:
        raise UserError(f"Recipe {name} does not set {', '.join(missing)}: it must set every flat knob.")
    return [part for knob, value in knobs.items() for part in ("-S", f"{knob}={_text(value)}")]


def flat_knobs() -> list[str]:
    """The knobs at the top level of params.yaml that a recipe must set, in their order."""
    blocks = ("split", "augment", "extract", "boxes", "lr_sweep", "decide", "bad_images", "datasets")
    return [name for name in Params.model_fields if name not in (*blocks, *NOT_IN_RECIPES)]


def _text(value: object) -> str:
    """A value as Hydra's override syntax, which -S speaks, reads it."""
    if isinstance(value, list):
        return "[" + ",".join(_text(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    return str(value)


def main() -> None:
    """Prints a recipe as -S arguments of `dvc exp run`, or lists the recipes."""
    parser = argparse.ArgumentParser(
        prog="python -m stages.recipe",
        description=main.__doc__,
        epilog="example: dvc exp run $(python -m stages.recipe logos-default)",
    )
    parser.add_argument("name", nargs="?", help="a recipe")
    parser.add_argument("--list", action="store_true", help="all recipes with their source and expected result")
    given = parser.parse_args()
    with command.no_traceback():
        if given.name and not given.list:
            print(*arguments(given.name))  # unquoted: $(…) splits at blanks and would keep the quotes
            return
        for name in names():
            print(name)
            print("\n".join(f"    {line}" for line in description(name).splitlines()))


if __name__ == "__main__":
    main()
