"""What commands share: messages on any console."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    "settings", [{"LC_ALL": "C", "PYTHONUTF8": "0"}, {"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"}]
)
def test_a_console_without_a_character_shows_its_escape(settings: dict[str, str], repository: Path) -> None:
    name = "\\u65e5\\u672c\\u8a9e.jpg"  # an escape in the program, as it travels as an argument
    program = (
        "from stages.command import no_traceback\n"
        "from stages.errors import UserError\n"
        "with no_traceback():\n"
        f"    print('9 images: {name}', flush=True)\n"
        f"    raise UserError('{name} is not an image')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(repository), "PYTHONCOERCECLOCALE": "0"} | settings,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout.startswith(b"9 images: ") and b"Traceback" not in done.stderr
    assert done.stdout.rstrip().endswith(b"\\u65e5\\u672c\\u8a9e.jpg")
    assert done.stderr.rstrip() == b"error: \\u65e5\\u672c\\u8a9e.jpg is not an image"
