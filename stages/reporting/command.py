"""The command that makes a result again, from recorded values: params.yaml may have moved on since."""

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from stages import yaml12
from stages.reporting.gather import RunResults

PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./+:~-]*")  # what Hydra, which reads -S, takes as text without quotes
COLUMNS = 100
RESERVED = {"true", "false", "null", "nan", "inf"}
STAGES = Path(__file__).parents[1]
DEFAULTS = (STAGES / "blocks.yaml", STAGES / "recipes" / "defaults.yaml")
OF_THE_MACHINE = ("extract.precision", "extract.batch_size")  # recorded as chosen on it, `auto` in the defaults
Settings = Iterable[tuple[str, Any]]


def complete(run: RunResults) -> str:
    """The command with every knob that the result depends on: it holds whatever params.yaml says."""
    return shell(settings(run))


def differing(run: RunResults) -> str:
    """The command with the knobs that differ from the defaults."""
    known = defaults()
    return shell(
        (name, value)
        for name, value in settings(run)
        if name not in OF_THE_MACHINE and (name not in known or hydra(value) != hydra(known[name]))
    )


def shell(chosen: Settings) -> str:
    """A command as a shell takes it, in lines of a readable length."""
    lines = ["dvc exp run"]
    for key, value in chosen:
        word = f"-S {shlex.quote(f'{key}={hydra(value)}')}"
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
        values |= dict(_flat("", yaml12.parse(path.read_bytes(), path.name)))
    return values


def settings(run: RunResults) -> Iterator[tuple[str, Any]]:
    """Yields every knob that the result depends on, by its key in params.yaml."""
    knobs, features = dict(run.head["params"]), run.head["features"]
    for first in ("dataset", "root", "backbone", "weights", "cut", "head"):
        yield first, run.index["root"] if first == "root" else knobs.pop(first)
    yield from _flat("", dict(sorted(knobs.items())))  # augment too, where images themselves are kept
    yield from _flat("split.", run.split["params"])
    yield from _augmentation(features["views"])
    if "precision" in features:
        yield from _flat("extract.", {name: features[name] for name in ("precision", "dtype", "batch_size")})
    yield from _flat("decide.", run.decide)
    yield from _flat(f"datasets.{run.index['dataset']}.", run.index["options"])


def _augmentation(views: list[str]) -> Iterator[tuple[str, Any]]:
    """Yields what random views were drawn from, which the name of the first says; nothing where there is none."""
    for name in views[1:2]:
        for key, value in re.findall(r"(crop|rotate|lighting|seed)\(([^)]*)\)", name):
            yield ("extract.seed" if key == "seed" else f"augment.{key}"), float(value) if key != "seed" else int(value)
        yield "augment.flip", "flip" in name.split("|")


def hydra(value: Any) -> str:
    """A value in the grammar of Hydra's overrides, which DVC uses for -S."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ",".join(map(hydra, value)) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{hydra(key)}:{hydra(item)}" for key, item in value.items()) + "}"
    text = str(value)
    if not isinstance(value, str) or (PLAIN.fullmatch(text) and text.lower() not in RESERVED):
        return text
    # Hydra: backslashes count only where they stand before a quote.
    return "'" + re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), text) + "'"


def _flat(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{prefix}{name}.", value)
        else:
            yield f"{prefix}{name}", value
