"""Lists the experiments on top of HEAD in a few columns: the main numbers, and the knobs that differ from HEAD.

`dvc exp show` has every number and every knob in a table of more than a thousand characters. `compare` sets experiments
against each other image by image.
"""

import argparse
import ast
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from stages import command, paths, yaml12
from stages.command import LOG
from stages.errors import UserError
from stages.metrics import table
from stages.overrides import hydra
from stages.params import Params, read

EXAMPLES = """\
  python -m stages.experiments
  python -m stages.experiments --commits 5"""
WIDTH = 120  # characters of a line where there is no terminal, and at most
LEAST = 20  # characters of a line for the knobs
NUMBERS = 4  # metrics in the table
WORKSPACE = "workspace"  # as DVC calls it
LOCK = Path("dvc.lock")
FILES = ("reports/metrics.json", "", "params.yaml")  # whose columns count; of one name in two of them the last
Row = Mapping[str, Any]  # of DVC's table: columns of its own, metrics and knobs, each by its flat name


def main(arguments: argparse.Namespace) -> int:
    """Prints the table."""
    width = min(WIDTH, shutil.get_terminal_size((WIDTH, 0)).columns)
    for line in lines(rows(arguments.commits), width):
        print(line)
    if arguments.commits == 1:
        LOG.info(
            "Experiments on top of HEAD. `coldcut experiments --commits 5` also shows those of four commits before."
        )
    return 0


def rows(commits: int) -> list[Row]:
    """The workspace, HEAD and its experiments as DVC knows them, then those of the commits before.

    Raises:
        UserError: the current folder is not a checkout with a commit.
    """
    from dvc.api import exp_show
    from dvc.exceptions import DvcException
    from dvc.scm import SCMError

    try:
        shown = [plain(row) for row in exp_show(num=commits)]
    except (DvcException, SCMError) as error:
        raise UserError(f"DVC cannot list experiments here ({error}): run this in a checkout with a commit.") from None
    return [without_numbers(row) if row["rev"] == WORKSPACE and moved_on() else row for row in shown]


def moved_on() -> bool:
    """Whether a knob in params.yaml has another value than when the results of the workspace were made."""
    try:
        stages = yaml12.parse(LOCK.read_bytes(), str(LOCK))["stages"]
    except (OSError, LookupError, TypeError, UserError):
        return False
    tree = read()
    recorded = (stage.get("params", {}).get(str(paths.PARAMS), {}) for stage in stages.values())
    return any(_at(tree, name) != value for knobs in recorded for name, value in knobs.items())


def without_numbers(row: Row) -> Row:
    """The row of a workspace that has no results yet: those that lie there are of other knobs."""
    return {name: None if name.removeprefix(table.VAL) in table.METRICS else value for name, value in row.items()} | {
        "State": "no results yet"
    }


def plain(row: Row) -> Row:
    """A row of DVC's table with each number under its own name, and None where there is no number.

    DVC puts the file before a name that two files have (`params.yaml:lr`, as reports/lr_sweep.json has an lr too).
    Where a file is missing or another experiment has other metrics, it writes a text in place of a number.
    """
    values = dict[str, Any]()
    for source in FILES:
        for column, value in row.items():
            file, _, name = column.rpartition(":")
            if file == source:
                is_metric = name.removeprefix(table.VAL) in table.METRICS
                values[name] = None if is_metric and not isinstance(value, int | float) else value
    return values


def lines(shown: Sequence[Row], width: int) -> list[str]:
    """The lines of the table.

    Args:
        shown: as `rows` gives them.
        width: characters of a line at most; knobs that do not fit go on in lines of their own, below the first.
    """
    names = numbers(shown)
    base = next((row for row in shown if row["rev"] != WORKSPACE), {})
    cells = [["experiment", *names, "differs from HEAD in"]]
    for row in shown:
        values = [_text(name, row.get(name)) for name in names]
        cells.append([row["Experiment"] or row["rev"], *values, ", ".join(_state(row) + changes(row, base))])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    start = sum(widths[:-1]) + 2 * len(names) + 2  # of the last column
    texts = list[str]()
    for *fixed, knobs in cells:
        first = "  ".join(cell.ljust(size) for cell, size in zip(fixed, widths[:-1], strict=True)) + "  "
        wrapped = textwrap.wrap(knobs, max(width - start, LEAST), break_on_hyphens=False) or [""]
        texts += [(first + wrapped[0]).rstrip(), *(" " * start + line for line in wrapped[1:])]
    return texts


def numbers(shown: Sequence[Row]) -> list[str]:
    """The metrics in the table: the headline and what is next to it in the table of metrics, then validation."""
    task = next((task for row in shown if (task := _task(row))), None)
    if task is None:
        return []
    filled = {name: True for row in shown for name, value in row.items() if value is not None}
    first = table.headline(task, filled)
    wanted = [first, table.VAL + first, *table.of_task(task)]
    return [name for name in dict.fromkeys(wanted) if name in filled][:NUMBERS]


def changes(row: Row, base: Row) -> list[str]:
    """`knob=value` for each flat knob, or knob of a block, in which a row differs from `base`."""
    return [
        f"{name}={hydra(_whole(value))}"
        for name, value in row.items()
        if name.partition(".")[0] in Params.model_fields and name in base and value != base[name] and value is not None
    ]


def _task(row: Row) -> str | None:
    try:
        return table.task_of({name: value for name, value in row.items() if value is not None})
    except LookupError:
        return None


def _state(row: Row) -> list[str]:
    """Whether it is queued, running, failed or without results yet."""
    return [str(row["State"]).lower()] if row.get("State") not in (None, "Success") else []


def _at(tree: Mapping[str, Any], name: str) -> Any:
    """The value of a knob by its flat name; None where there is none."""
    value: Any = tree
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _text(name: str, value: float | None) -> str:
    return table.METRICS[name.removeprefix(table.VAL)].text(value)


def _whole(value: object) -> object:
    """A value as params.yaml has it: DVC's table has every number as a float, and truth values and lists as texts."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
        with suppress(ValueError, SyntaxError):
            return ast.literal_eval(value)
    return {"True": True, "False": False}.get(value, value) if isinstance(value, str) else value


def run() -> None:
    """Reads the arguments and lists."""
    parser = command.parser("experiments", description=__doc__, examples=EXAMPLES)
    parser.add_argument(
        "--commits", type=int, default=1, metavar="N", help="on top of the last N commits (default: 1, HEAD)"
    )
    command.run(main, parser.parse_args())


if __name__ == "__main__":
    run()
