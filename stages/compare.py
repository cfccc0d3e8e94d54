"""compare: experiments and commits side by side, as a page and a short table.

Without REV it is the workspace and all experiments on top of HEAD. The first revision is the baseline; every other is
set against it: parameters that differ, metrics, the images on which one is right and the other wrong, and how likely
chance alone makes such a difference. Answers come from DVC's cache, pictures from the images of the current dataset.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace

from tqdm import tqdm

from stages import command, files, paths
from stages.comparing import comparison, revisions
from stages.comparing.comparison import Comparison
from stages.comparing.revisions import WORKSPACE, Revision
from stages.errors import UserError
from stages.metrics.table import METRICS
from stages.params import load
from stages.reporting.pictures import Album
from stages.reporting.words import percent

EXAMPLES = """\
  python -m stages.compare
  python -m stages.compare main my-experiment workspace"""
PAGE = paths.REPORTS / "compare.html"
WIDTH = 60  # characters of a cell on the terminal


def main(names: Sequence[str]) -> Comparison:
    """Reads the revisions and writes the page.

    Args:
        names: revisions, the baseline first; none for the workspace and the experiments on top of HEAD.

    Raises:
        UserError: a revision is not there or has no results, or there is nothing to compare.
    """
    found = Comparison(_named(list(dict.fromkeys(names))) if names else _all())
    params, dataset = load(), found.base.metrics["dataset"]
    album = Album.open(dataset, getattr(params.datasets, dataset), found.base.settings.get("root", params.root))
    files.write_text(PAGE, comparison.html(found, album))
    return found


def table(found: Comparison) -> list[list[str]]:
    """Cells of a table, the head of it first, the best revision marked."""
    head = ["", "revision", METRICS[found.headline].title, "95 % interval", "val", "p", "differs in"]
    return [head, *(_row(found, one) for one in found.revisions)]


def _row(found: Comparison, one: Revision) -> list[str]:
    pair = found.pair_of(one)
    val = percent(one.metrics.get(f"val_{found.headline}"))
    p = f"{pair.p:.2g}" if pair else ""
    score = comparison.cell(one, found.headline)
    return ["*" if one is found.best else "", one.name, score, found.interval(one), val, p, found.changes(one)]


def _named(names: list[str]) -> list[Revision]:
    """These; of one, the workspace against it."""
    names = names if len(names) > 1 else list(dict.fromkeys([*names, WORKSPACE]))
    return [revisions.read(name) for name in tqdm(names, unit=" revisions", leave=False, delay=2)]


def _all() -> list[Revision]:
    """The workspace and the experiments on top of HEAD; the experiment that the workspace holds gives it its name."""
    workspace, others = revisions.read(WORKSPACE), list[Revision]()
    for name in tqdm(revisions.experiments(), unit=" experiments", leave=False, delay=2):
        try:
            others.append(revisions.read(name))
        except UserError as error:  # one of other code, or that failed, is no reason to leave out the rest
            print(f"left out: {error}", file=sys.stderr)
    held = [one for one in others if one.lock == workspace.lock]
    rest = [one for one in others if one not in held]
    if not rest:
        raise UserError(
            "There is nothing to set the workspace against: no other experiment sits on top of HEAD. `dvc exp run -S "
            "lr=0.01` makes one, and revisions can be named: `python -m stages.compare HEAD~1 workspace` (`dvc exp "
            "list --all-commits` has the experiments)."
        )
    if held:
        workspace = replace(workspace, name=f"{WORKSPACE} ({', '.join(one.name for one in held)})")
    return [workspace, *rest]


def _line(text: str) -> str:
    """Text for a cell of the terminal."""
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…"


def _print(arguments: argparse.Namespace) -> int:
    """Compares, and prints the table and the answer."""
    comparison = main(arguments.revisions)
    rows = [[_line(cell) for cell in row] for row in table(comparison)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print("", *comparison.caveats(), comparison.answer(), f"{PAGE} has the images.", sep="\n")
    return 0


def run() -> None:
    """Reads the arguments and compares."""
    parser = command.parser("compare", description=__doc__, examples=EXAMPLES)
    parser.add_argument("revisions", nargs="*", metavar="REV", help="a commit, an experiment, or workspace")
    command.run(_print, parser.parse_args())


if __name__ == "__main__":
    run()
