"""report: one page that shows what came out, and the same in text for the repository."""

import json

from stages import paths
from stages.features import io
from stages.params import Params
from stages.reporting import gather, page
from stages.reporting.pictures import Album
from stages.stage import run


def main(params: Params) -> dict[str, object]:
    """Writes `reports/report.html`, `reports/report.md` and `reports/bad_images.jsonl`.

    The page is one file that needs no other; the other two change only when the result does.
    """
    found = gather.load(params.dataset)
    album = Album.open(params.dataset, params.options, params.root)
    html = _encoded(page.html(found, album))
    io.write_bytes(paths.REPORTS / "report.html", html)
    io.write_bytes(paths.REPORTS / "report.md", _encoded(page.markdown(found)))
    bad = (json.dumps(image, ensure_ascii=False) + "\n" for image in found.bad)
    io.write_bytes(paths.REPORTS / "bad_images.jsonl", _encoded("".join(bad)))
    return {"pictures": album.shown, "pictures missing": len(album.missing), "bytes": len(html)}


def _encoded(text: str) -> bytes:
    return text.encode(errors="backslashreplace")


if __name__ == "__main__":
    run("report", main)
