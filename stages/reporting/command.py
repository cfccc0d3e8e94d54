"""The command that makes a result again, from recorded values: params.yaml may have moved on since."""

import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from stages import yaml12
from stages.overrides import argument, flatten, hydra
from stages.reporting.gather import RunResults

COLUMNS = 100
STAGES = Path(__file__).parents[1]
DEFAULTS = (STAGES / "blocks.yaml", *(STAGES / "recipes" / f"{name}.yaml" for name in ("defaults", "logos-default")))
OF_THE_MACHINE = ("engine", "precision", "batch_size")  # of `extract`: recorded as chosen on it, `auto` in the defaults
Settings = Iterable[tuple[str, Any]]


def complete(run: RunResults) -> str:
    """The command with every knob that the result depends on: it holds whatever params.yaml says."""
    return shell([*settings(run), *_unused(run)])


def differing(run: RunResults) -> str:
    """The command with the knobs that differ from the defaults."""
    known = defaults()
    return shell(
        (name, value)
        for name, value in settings(run)
        if name.removeprefix("extract.") not in OF_THE_MACHINE
        and (name not in known or hydra(value) != hydra(known[name]))
    )


def shell(chosen: Settings) -> str:
    """A command as a shell takes it, in lines of a readable length."""
    lines = ["dvc exp run"]
    for key, value in chosen:
        word = argument(key, value)
        if len(lines[-1]) + len(word) < COLUMNS:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return " \\\n  ".join(lines)


@cache
def defaults() -> dict[str, Any]:
    """Every knob of params.yaml as it comes, by its key; those of blocks have a dot."""
    values = dict[str, Any]()
    for path in DEFAULTS:
        values |= dict(flatten("", yaml12.parse(path.read_bytes(), path.name)))
    return values


def settings(run: RunResults) -> Iterator[tuple[str, Any]]:
    """Yields every knob that the result depends on and that is recorded, by its key in params.yaml."""
    knobs, features = dict(run.head["params"]), run.head["features"]
    for first in ("dataset", "root", "backbone", "weights", "cut", "head"):
        yield first, run.index["root"] if first == "root" else knobs.pop(first)
        if first == "root" and "task" in run.index:
            yield "task", "multi"  # whatever it was: the data decides with auto
    yield from flatten("", dict(sorted(knobs.items())))  # augment too, where images themselves are kept
    yield from flatten("split.", run.split["params"])
    yield from _augmentation(features["views"])
    if "precision" in features:
        names = (*OF_THE_MACHINE, "dtype")
        yield from flatten("extract.", {name: features[name] for name in names if name in features})
        yield "extract.decoder", "gpu" if "decoder" in features else "cpu"
    yield from flatten("decide.", run.decide)
    yield from flatten(f"datasets.{run.index['dataset']}.", run.index["options"])


def _unused(run: RunResults) -> Iterator[tuple[str, Any]]:
    """Yields knobs that are recorded only where they matter, with the values that leave them out."""
    if "task" not in run.index:
        yield "task", "single"
    if "groups" not in run.split["params"]:
        yield "split.groups", ""


def _augmentation(views: list[str]) -> Iterator[tuple[str, Any]]:
    """Yields what random views were drawn from, which the name of the first says; nothing where there is none."""
    for name in views[1:2]:
        for key, value in re.findall(r"(crop|rotate|lighting|seed)\(([^)]*)\)", name):
            yield ("extract.seed" if key == "seed" else f"augment.{key}"), float(value) if key != "seed" else int(value)
        yield "augment.flip", "flip" in name.split("|")
