"""report: one page that shows what came out, and the same in text for the repository."""

import signal
from collections.abc import Mapping
from concurrent.futures import Executor

from stages import files, paths
from stages.params import Params
from stages.processes import process_pool
from stages.reporting import gather, page
from stages.reporting.pictures import Album
from stages.stage import run


def main(params: Params) -> dict[str, object]:
    """Writes `reports/report.html`, `reports/report.md` with its figures, and `reports/bad_images.jsonl`.

    The page is one file that needs no other; the others change only when the result does.
    """
    with beside() as second:
        found = gather.load(params.dataset)
        album = Album.open(params.dataset, params.options, params.root)
        drawn = page.drawings(found)
        pngs = second.submit(page.pngs, drawn)  # they take as long as the page, and there is a second core
        files.write_text(paths.REPORTS / "report.html", page.html(found, album, drawn))
        files.write_text(paths.REPORTS / "report.md", page.markdown(found, drawn))
        _write_figures(pngs.result())
    files.write_json_lines(paths.REPORTS / "bad_images.jsonl", found.bad)
    size = (paths.REPORTS / "report.html").stat().st_size
    return {"pictures": album.shown, "pictures missing": len(album.missing), "bytes": size}


def beside() -> Executor:
    """A second process, which imports what it takes while this one reads."""
    second = process_pool(1)
    interrupted = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as it then is there: Ctrl-C ends it with this process
    second.submit(page.pngs, {})
    signal.signal(signal.SIGINT, interrupted)
    return second


def _write_figures(pngs: Mapping[str, bytes]) -> None:
    """Writes the figures of this run, in place of those of the last one."""
    for path in paths.FIGURES.glob(page.FIGURE.format("*")):
        path.unlink()
    for name, png in pngs.items():
        files.write_bytes(paths.FIGURES / name, png)


if __name__ == "__main__":
    run("report", main, lambda params: f"page, text and figures of {params.dataset}")
