"""Values of knobs as `dvc exp run -S` takes them."""

import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./+:~@-]*")  # what Hydra, which reads -S, takes as text without quotes
SHELL = re.compile(r'["$`\\!]')  # what a shell does not take literally between double quotes
RESERVED = {"true", "false", "null", "nan", "inf"}


def hydra(value: Any) -> str:
    """A value in Hydra's grammar of overrides."""
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


def argument(knob: str, value: Any) -> str:
    """A knob and its value as a shell takes them."""
    text = f"{knob}={hydra(value)}"
    readable = "'" in text and not SHELL.search(text)  # shlex would end and begin its quotes around each quote
    return f'-S "{text}"' if readable else f"-S {shlex.quote(text)}"


def flatten(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every knob with its value; one in a block has a dot in its name.

    Args:
        prefix: what comes before each name, its last dot included.
        values: the knobs; a mapping is a block.
    """
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(f"{prefix}{name}.", value)
        else:
            yield f"{prefix}{name}", value
