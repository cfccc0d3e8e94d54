"""The inputs of a stage when it begins, compared with those at its end.

DVC hashes the code and the inputs of a stage, and reads its knobs, after the stage has run. If one of them changes in
between, DVC would record the result under the new value for good. So a stage that finds a change fails, and DVC records
nothing.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages import paths, yaml12
from stages.errors import UserError
from stages.overrides import argument, flatten
from stages.params import read

PIPELINE = Path("dvc.yaml")
NAMED = 3  # changed files that a message names
Stamp = tuple[int, int]  # time of the last change in nanoseconds, size in bytes


@dataclass(frozen=True)
class Inputs:
    """The knobs that a stage depends on, with their values, and the files, each with its stamp."""

    knobs: Mapping[str, Any]
    files: Mapping[str, Stamp]


def of(stage: str) -> Inputs:
    """The current inputs of a stage, according to dvc.yaml; empty if there is no dvc.yaml.

    Raises:
        UserError: params.yaml or dvc.yaml cannot be read.
    """
    if not PIPELINE.is_file():
        return Inputs({}, {})
    entry = yaml12.parse(PIPELINE.read_bytes(), str(PIPELINE))["stages"].get(stage, {})
    tree = read(paths.PARAMS)
    lists = [line[str(paths.PARAMS)] if isinstance(line, dict) else [line] for line in entry.get("params", [])]
    knobs = {name: _value(tree, name) for name in (_filled(name, tree) for names in lists for name in names)}
    deps = [Path(_filled(dep, tree)).expanduser() for dep in entry.get("deps", [])]
    code = [path for dep in deps if dep.parent == paths.CODE and dep.exists() for path in _listed(dep)]
    return Inputs(knobs, {str(path): stamp for dep in [*deps, *code] for path, stamp in _stamps(dep)})


def check_unchanged(stage: str, before: Inputs) -> None:
    """Checks that the inputs of a stage are still what they were when it began.

    Raises:
        UserError: they are not; the message names each knob with both values, and the files.
    """
    after = of(stage)
    now = dict(flatten("", after.knobs))
    turned = {knob: value for knob, value in flatten("", before.knobs) if now.get(knob) != value}
    changes = [
        f"`{knob}` was {value!r} when {stage} began and is {now.get(knob)!r} now" for knob, value in turned.items()
    ]
    changed = sorted(path for path, _ in before.files.items() ^ after.files.items())
    changed = list(dict.fromkeys(changed))
    if changed:
        more = f" and {len(changed) - NAMED} more" if len(changed) > NAMED else ""
        changes.append(f"{', '.join(changed[:NAMED])}{more} changed while {stage} ran")
    if changes:
        kept = " ".join(argument(knob, value) for knob, value in turned.items())
        way = f" with what is there now. To keep the old value: `dvc exp run {kept}`." if turned else "."
        raise UserError(
            f"{'; '.join(changes)}. The output of {stage} may belong to neither state, so DVC records nothing: `dvc "
            f"repro` runs it again{way}"
        )


def _listed(code: Path) -> list[Path]:
    """The files in the list of a stage's code."""
    return [Path(line.split(maxsplit=1)[1]) for line in code.read_text("utf-8").splitlines()]


def _filled(text: str, tree: Mapping[str, Any]) -> str:
    """A text from dvc.yaml with the values of flat knobs in place of `${knob}`."""
    return re.sub(r"\$\{(\w+)\}", lambda match: str(tree[match[1]]), text)


def _value(tree: Mapping[str, Any], name: str) -> Any:
    value: Any = tree
    for key in name.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _stamps(path: Path) -> Iterator[tuple[str, Stamp]]:
    """The stamp of a file, or of all files below a folder except Python's caches."""
    if path.is_dir():
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name != "__pycache__":
                    yield from _stamps(Path(entry.path))
    elif path.exists():
        status = path.stat()
        yield str(path), (status.st_mtime_ns, status.st_size)
