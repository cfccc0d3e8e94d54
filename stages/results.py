"""Reading the small files that stages write: JSON and CSV."""

import csv
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from stages import paths
from stages.errors import REPAIR, UserError

log = logging.getLogger(__name__)
Parsed = TypeVar("Parsed")
FAILURES = (OSError, ValueError, TypeError, KeyError)


def read_text(path: Path, parse: Callable[[str], Parsed]) -> Parsed:
    """Parses a file that a stage wrote.

    Raises:
        UserError: it is missing or damaged.
    """
    log.debug("reads %s", path)
    try:
        return parse(path.read_text(encoding="utf-8"))
    except FAILURES as error:
        raise _unreadable(path, error) from None


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object that a stage wrote; errors as `read_text` has them."""
    value: dict[str, Any] = read_text(path, json.loads)
    return value


def read_evaluation() -> dict[str, Any]:
    """Reads all numbers of evaluate; a run of older code has them in metrics.json."""
    return read_json(paths.EVALUATION if paths.EVALUATION.exists() else paths.METRICS)


def read_csv(path: Path, parse: Callable[[dict[str, str]], Parsed]) -> list[Parsed]:
    """Reads the rows of a CSV file; errors as `read_text` has them."""
    log.debug("reads %s", path)
    try:
        with path.open(encoding="utf-8", newline="") as file:  # not split by lines: a class name may hold a newline
            return [parse(row) for row in csv.DictReader(file)]
    except FAILURES as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} cannot be read ({error!r}): {REPAIR} writes it again.")
