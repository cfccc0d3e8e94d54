"""report: one page with the results, and the same in text for the repository; --open shows the page."""

import argparse
import hashlib
import pickle
import signal
import webbrowser
from collections.abc import Mapping
from concurrent.futures import Executor

from stages import command, files, paths
from stages.errors import UserError
from stages.params import Params
from stages.processes import process_pool
from stages.reporting import gather, page
from stages.reporting.pictures import Album
from stages.stage import run as run_stage

PAGE = paths.REPORTS / "report.html"
EXAMPLES = """  python -m stages.report
  python -m stages.report --open"""


def main(params: Params) -> dict[str, object]:
    """Writes `reports/report.html`, `reports/report.md` with its figures, and `reports/bad_images.jsonl`.

    The page is one file that needs no other; the others change only when the result does.
    """
    with beside() as second:
        found = gather.load(params.dataset)
        album = Album.open(params.dataset, params.options, params.root)
        drawn = page.drawings(found)
        pngs = second.submit(
            page.pngs, pickle.dumps(drawn)
        )  # they take as long as the page, and there is a second core
        files.write_text(PAGE, f"{page.html(found, album, drawn)}<!-- {made_of()} -->\n")
        files.write_text(paths.REPORTS / "report.md", page.markdown(found, drawn))
        _write_figures(pngs.result())
    files.write_json_lines(paths.REPORTS / "bad_images.jsonl", found.bad)
    print(f"report: the page is {PAGE}; `python -m stages.report --open` shows it")
    return {"pictures": album.shown, "pictures missing": len(album.missing), "bytes": PAGE.stat().st_size}


def made_of() -> str:
    """What a page is made of: the sha256 of the metrics and the predictions."""
    content = hashlib.sha256()
    for path in (paths.REPORTS / "metrics.json", *sorted(paths.PREDICTIONS.glob("*"))):
        content.update(path.read_bytes())
    return f"made of metrics and predictions with sha256 {content.hexdigest()}"


def open_page(arguments: argparse.Namespace) -> int:
    """Opens the page in the browser, if it is of the results that lie here.

    Raises:
        UserError: there is no page, or it belongs to other results.
    """
    if not PAGE.is_file():
        raise UserError(f"There is no {PAGE}: `dvc repro` makes it.")
    if made_of() not in PAGE.read_text(encoding="utf-8"):
        raise UserError(f"{PAGE} belongs to other results than reports/metrics.json: `dvc repro` makes it again.")
    address = PAGE.resolve().as_uri()
    print(address)
    webbrowser.open(address)
    return 0


def beside() -> Executor:
    """A second process, which imports what it takes while this one reads."""
    second = process_pool(1)
    interrupted = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as it then is there: Ctrl-C ends it with this process
    second.submit(page.pngs, pickle.dumps({}))
    signal.signal(signal.SIGINT, interrupted)
    return second


def _write_figures(pngs: Mapping[str, bytes]) -> None:
    """Writes the figures of this run, in place of those of the last one."""
    for path in paths.FIGURES.glob(page.FIGURE.format("*")):
        path.unlink()
    for name, png in pngs.items():
        files.write_bytes(paths.FIGURES / name, png)


def run() -> None:
    """Parses the arguments; writes the page, or shows it."""
    parser = command.parser("report", description=__doc__, examples=EXAMPLES)
    parser.add_argument("--open", action="store_true", help="show the page in the browser; nothing is written")
    arguments = parser.parse_args()
    if arguments.open:
        command.run(open_page, arguments)
    else:
        run_stage("report", main, announce=lambda params: f"page, text and figures of {params.dataset}")


if __name__ == "__main__":
    run()
