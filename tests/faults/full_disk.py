"""A disk that is really full: run as `unshare -rm python -m tests.faults.full_disk FOLDER`, prints a JSON line a case.

Each case is an extraction on a tmpfs that holds a share of what is needed, then one with room enough.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from stages.errors import UserError
from stages.features import extraction, forecast, h5
from tests.faults import toy

SHARES = (0.0, 0.05, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 0.97, 1.1)  # of what is needed
IMAGES, PART, NUMBERS = 64, 16, 2048
ROWS = IMAGES * 3 * NUMBERS * 4  # bytes
OVERHEAD = 24 << 10  # a file: HDF5's own bytes, sha256, maps, whole pages
NEED = 2 * ROWS + (IMAGES // PART + 1) * OVERHEAD
PAGE = 4096


def case(home: Path, share: float, *, forecasts: bool) -> dict[str, object]:
    """One extraction on a small disk, what it left, and the one after it on a larger."""
    disk = home / "disk"
    disk.mkdir(exist_ok=True)
    size = max(4 * PAGE, int(share * NEED))
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], check=True)
    os.chdir(disk)
    said = home / "said"
    said.write_text("")

    def extract() -> int:
        if not forecasts:
            forecast.refuse_where_full = lambda *_, **__: None
        try:
            extraction.extract(toy.spec(home / "photos", PART), wanted, toy.OUT)
        except UserError as error:
            said.write_text(str(error))
            return toy.REFUSED
        return toy.FINISHED

    code = toy.forked(extract)
    files = [path for path in Path("cache").rglob("*.h5") if path.is_file()]
    whole = all(h5.verify(path) for path in files)
    left = len(list(Path("cache").rglob("*.partial")))
    subprocess.run(["mount", "-o", f"remount,size={2 * NEED}", disk], check=True)
    again = toy.forked(extract)
    same = toy.OUT.exists() and toy.OUT.read_bytes() == reference
    os.chdir(home)
    subprocess.run(["umount", disk], check=True)
    return {"share": share, "forecasts": forecasts, "code": code, "said": said.read_text(), "files": len(files),
            "whole": whole, "left": left, "again": again, "same": same}  # fmt: skip


if __name__ == "__main__":
    extraction.load_extractor = toy.load_extractor(NUMBERS)  # type: ignore[assignment]
    extraction.PART_VIEWS = PART
    here = Path(sys.argv[1]).resolve()
    os.chdir(here)
    wanted = toy.photos(here / "photos", IMAGES)

    def clean() -> int:
        extraction.extract(toy.spec(here / "photos", PART), wanted, toy.OUT)
        return toy.FINISHED

    assert toy.forked(clean) == toy.FINISHED
    reference = toy.OUT.read_bytes()
    for forecasts in (True, False):
        for share in SHARES:
            print(json.dumps(case(here, share, forecasts=forecasts)), flush=True)
