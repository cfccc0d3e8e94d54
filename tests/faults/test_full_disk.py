"""A disk that is really full: an error that tells the bytes, nothing half-written, and the next run ends the same."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stages import files
from stages.errors import UserError
from stages.features import extraction
from tests.faults import toy
from tests.faults.full_disk import SHARES


@pytest.mark.slow
def test_at_ten_sizes_of_the_disk(tmp_path: Path, repository: Path) -> None:
    unshare = shutil.which("unshare")
    if not unshare or subprocess.run([unshare, "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("a small disk needs a mount namespace (unshare -rm), which is forbidden here")
    environment = os.environ | {"PYTHONPATH": str(repository)}
    done = subprocess.run(
        [unshare, "-rm", sys.executable, "-m", "tests.faults.full_disk", str(tmp_path)],
        cwd=repository, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    cases = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(cases) == 2 * len(SHARES) == 20
    for case in cases:
        assert case["whole"] and case["left"] == 0, case
        assert case["again"] == toy.FINISHED and case["same"], case
        if case["share"] > 1:
            assert case["code"] == toy.FINISHED, case
        else:
            assert case["code"] == toy.REFUSED and "bytes" in case["said"] and "free" in case["said"], case
    early = sum(case["forecasts"] and case["code"] == toy.REFUSED and not case["files"] for case in cases)
    print(
        f"{len(cases)} disks: {early} refused before the work, {len(cases) - 2 - early} in the middle of it, 2 finished"
    )


def test_a_disk_without_room_is_refused_before_the_work(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(extraction, "load_extractor", toy.load_extractor(3))
    monkeypatch.setattr(files, "free", lambda path: 600)
    wanted = toy.photos(workplace / "photos", 9)
    with pytest.raises(UserError, match=r"648 bytes are needed .*, 600 are free. Make room"):
        extraction.extract(toy.spec(workplace / "photos", 4), wanted, toy.OUT)
    assert not list(workplace.rglob("*.h5"))
    assert "9 images × 9 × float32 = 324 B; 9 rows missing" in capsys.readouterr().out
