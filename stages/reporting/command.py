"""The command that makes this result again, from recorded values: params.yaml may have moved on since."""

import re
import shlex
from collections.abc import Iterator
from typing import Any

from stages.overrides import flatten, hydra
from stages.reporting.gather import RunResults

COLUMNS = 100


def shell(run: RunResults) -> str:
    """The command as a shell takes it, in lines of a readable length."""
    lines = ["dvc exp run"]
    for key, value in settings(run):
        word = f"-S {shlex.quote(f'{key}={hydra(value)}')}"
        if len(lines[-1]) + len(word) < COLUMNS:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return " \\\n  ".join(lines)


def settings(run: RunResults) -> Iterator[tuple[str, Any]]:
    """Every knob the result depends on, by its key in params.yaml."""
    knobs, made = dict(run.head["params"]), run.head["features"]
    for first in ("dataset", "root", "backbone", "weights", "cut", "head"):
        yield first, run.index["root"] if first == "root" else knobs.pop(first)
    yield from flatten("", dict(sorted(knobs.items())))  # augment too, where images themselves are kept
    yield from flatten("split.", run.split["params"])
    yield from _drawn(made["views"])
    if "precision" in made:
        yield from flatten("extract.", {name: made[name] for name in ("precision", "dtype", "batch_size")})
    yield from flatten("decide.", run.decide)
    yield from flatten(f"datasets.{run.index['dataset']}.", run.index["options"])


def _drawn(views: list[str]) -> Iterator[tuple[str, Any]]:
    """What views were drawn from, which their names tell; nothing where there is the evaluation view alone."""
    for name in views[1:2]:
        for key, value in re.findall(r"(crop|rotate|lighting|seed)\(([^)]*)\)", name):
            yield ("extract.seed" if key == "seed" else f"augment.{key}"), float(value) if key != "seed" else int(value)
        yield "augment.flip", "flip" in name.split("|")
