"""Puts experiments and commits side by side, as a page and a short table.

Without REV it compares HEAD, the workspace and all experiments on top of HEAD, as far as they were evaluated on the
same images. The first revision is the baseline; every other is compared with it: the parameters that differ, the
metrics, the images on which one is right and the other wrong, and how often chance alone would make a difference at
least as large (p). Predictions come from DVC's cache, pictures from the images of the current dataset.
"""

import argparse
import textwrap
from collections.abc import Sequence
from dataclasses import replace

from tqdm import tqdm

from stages import command, files, paths
from stages.command import LOG
from stages.comparing import page, revisions
from stages.comparing.comparison import Comparison, same_images
from stages.comparing.revisions import HEAD, WORKSPACE, Revision
from stages.errors import UserError, listed
from stages.metrics.table import METRICS
from stages.params import load
from stages.reporting.pictures import Album

EXAMPLES = """\
  python -m stages.compare
  python -m stages.compare main my-experiment workspace"""
PAGE = paths.REPORTS / "compare.html"
CELL_WIDTH = 60  # characters of a cell on the terminal
WIDTH = 120  # characters of a line of text there


def main(arguments: argparse.Namespace) -> int:
    """Compares, writes the page and prints the table."""
    comparison = compare(arguments.revisions)
    rows = [[_printable(cell) for cell in row] for row in table(comparison)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print()
    for sentence in (*comparison.caveats(), comparison.answer(), f"{PAGE} shows the images."):
        print(textwrap.fill(sentence, WIDTH, break_on_hyphens=False, break_long_words=False))
    return 0


def compare(names: Sequence[str]) -> Comparison:
    """Reads the revisions and writes the page.

    Args:
        names: revisions, the baseline first; none for HEAD, the workspace and the experiments on top of HEAD.

    Raises:
        UserError: there is no such revision, it has no results, or there is nothing to compare.
    """
    comparison = Comparison(_named(list(dict.fromkeys(names))) if names else _all())
    params, dataset = load(), comparison.base.metrics["dataset"]
    root = comparison.base.settings.get("root", params.root)
    album = Album.open(dataset, getattr(params.datasets, dataset), root)
    files.write_text(PAGE, page.html(comparison, album))
    return comparison


def table(comparison: Comparison) -> list[list[str]]:
    """The cells of the table, its head first; a star marks the best revision."""
    metric = METRICS[comparison.headline]
    head = ["", "revision", metric.title, "95% interval", "val", "p", "differs in"]
    rows = []
    for revision in comparison.revisions:
        paired = comparison.pair_of(revision)
        rows.append(
            [
                "*" if revision is comparison.best else "",
                revision.name,
                metric.text(revision.score(comparison.headline)),
                comparison.interval(revision),
                metric.text(comparison.on_validation(revision)),
                f"{paired.p:.2g}" if paired else "",
                comparison.changes(revision),
            ]
        )
    lines = [head, *rows]
    filled = [not column or any(row[column] for row in rows) for column in range(len(head))]  # boxes have no interval
    return [[cell for cell, keep in zip(line, filled, strict=True) if keep] for line in lines]


def _named(names: list[str]) -> list[Revision]:
    """The revisions of these names; a single one is compared with the workspace."""
    names = names if len(names) > 1 else list(dict.fromkeys([*names, WORKSPACE]))
    return [revisions.read(name) for name in tqdm(names, unit=" revisions", leave=False, delay=2)]


def _all() -> list[Revision]:
    """HEAD, the workspace and the experiments on top of HEAD, without repetition.

    Revisions with the same dvc.lock are one: the workspace then names the others in parentheses. HEAD is the baseline
    unless its predictions are not at hand, as in a fresh clone; then the workspace is, so that there are p-values.
    """
    workspace, others = revisions.read(WORKSPACE), list[Revision]()
    for name in tqdm([HEAD, *revisions.experiments()], unit=" revisions", leave=False, delay=2):
        try:
            others.append(revisions.read(name))
            if name != HEAD and not others[-1].whole:
                LOG.warning("left out: %s ended before evaluate, and has the metrics of the run before it", name)
                others.pop()
        except UserError as error:  # an experiment that failed, or of other code, does not keep the others out
            LOG.warning("left out: %s", error)
    same = [revision.name for revision in others if revision.lock == workspace.lock]
    if same:
        workspace = replace(workspace, name=f"{WORKSPACE} ({', '.join(same)})")
    others = [revision for revision in others if revision.lock != workspace.lock]
    strange = [revision.name for revision in others if not same_images(workspace, revision)]
    others = [revision for revision in others if revision.name not in strange]
    if strange:
        LOG.warning("left out, as evaluated on other images than the workspace: %s", ", ".join(strange))
    if strange and not others:
        were = "was" if len(strange) == 1 else "were"
        raise UserError(
            f"There is nothing to compare the workspace with: {listed(strange)} {were} evaluated on other images, "
            "because the dataset or the split is another one. Commit this run (`git commit -am 'First run on these "
            "images'`), and later runs are compared with it."
        )
    if not others:
        raise UserError(
            "There is nothing to compare the workspace with: HEAD has the same results, and there is no other "
            "experiment on top of it. `dvc exp run -S lr=0.01` makes one. You can also name other revisions: "
            "`python -m stages.compare HEAD~1 workspace` (`dvc exp list --all-commits` lists experiments)."
        )
    if others[0].name == HEAD and others[0].answers is not None:
        return [others[0], workspace, *others[1:]]
    return [workspace, *others]


def _printable(text: str) -> str:
    """Text for a cell of the terminal."""
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    return text if len(text) <= CELL_WIDTH else f"{text[: CELL_WIDTH - 1]}…"


def run() -> None:
    """Parses the arguments and compares."""
    parser = command.parser("compare", description=__doc__, examples=EXAMPLES)
    parser.add_argument(
        "revisions", nargs="*", metavar="REV", help="a commit, a branch, the name of an experiment, or workspace"
    )
    command.run(main, parser.parse_args())


if __name__ == "__main__":
    run()
