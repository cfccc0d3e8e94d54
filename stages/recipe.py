"""Recipes: small YAML files that hold what differs from recipes/defaults.yaml, printed whole as `-S` arguments.

`dvc exp run -S` leaves its values in the workspace, so a recipe that set a few knobs would depend on what ran before:
every knob of the defaults is printed. Keys in blocks have a dot (`split.seed`, `datasets.caltech101.exclude`).
"""

import argparse
from pathlib import Path
from typing import Any

from stages import command, yaml12
from stages.blocks import flat_fields
from stages.errors import UserError, nearest
from stages.overrides import hydra
from stages.params import Params

FOLDER = Path(__file__).parent / "recipes"
DEFAULTS = "defaults"
NOT_IN_RECIPES = ("device",)  # a matter of the machine: by design no result depends on it


def names() -> list[str]:
    """All recipes."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem != DEFAULTS)


def description(name: str) -> str:
    """The comment that opens a recipe: source, command, hardware, expected result."""
    lines = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    comment = []
    for line in lines:
        if not line.startswith("#"):
            break
        comment.append(line.removeprefix("#").strip())
    return "\n".join(comment)


def knobs(name: str) -> dict[str, Any]:
    """Every knob that a recipe sets: those of the defaults in their order, then those of its own.

    Raises:
        UserError: there is no such recipe, or the defaults lack a flat knob.
    """
    if name not in names():
        raise UserError(f"There is no recipe {name!r}; {nearest(name, names())}")
    values = _read(DEFAULTS) | _read(name)
    if missing := [knob for knob in flat_knobs() if knob not in values]:
        raise UserError(f"{FOLDER / DEFAULTS}.yaml does not set {', '.join(missing)}: it must set every flat knob.")
    return values


def arguments(name: str) -> list[str]:
    """A recipe as arguments of `dvc exp run`: `-S`, `knob=value`, and so on.

    Raises:
        UserError: see `knobs`.
    """
    return [word for knob, value in knobs(name).items() for word in ("-S", f"{knob}={hydra(value)}")]


def flat_knobs() -> list[str]:
    """The knobs at the top level of params.yaml that every recipe sets, in their order."""
    return [name for name in flat_fields(Params) if name not in NOT_IN_RECIPES]


def _read(name: str) -> dict[str, Any]:
    """The knobs that stand in a recipe's file."""
    path = FOLDER / f"{name}.yaml"
    return dict(yaml12.parse(path.read_bytes(), str(path)) or {})


def main(options: argparse.Namespace) -> int:
    """Prints a recipe, or lists the recipes."""
    if options.name and not options.list:
        print(*arguments(options.name))  # unquoted: $(…) splits at blanks and would keep the quotes
        return 0
    for name in names():
        print(name)
        print("\n".join(f"    {line}" for line in description(name).splitlines()))
    return 0


def run() -> None:
    """Reads the arguments and prints."""
    parser = command.parser(
        "recipe",
        description="Prints a recipe as -S arguments of `dvc exp run`, or lists the recipes.",
        examples="  dvc exp run $(python -m stages.recipe logos-default)",
    )
    parser.add_argument("name", nargs="?", help="a recipe")
    parser.add_argument("--list", action="store_true", help="all recipes with their source and expected result")
    command.run(main, parser.parse_args())


if __name__ == "__main__":
    run()
