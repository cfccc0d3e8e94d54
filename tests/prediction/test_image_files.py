"""What predict says of a file before any pixel is decoded."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.prediction.answers import sentence
from stages.prediction.image_files import expand, read

GREY = np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8)


def test_scaled_values_are_told(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "plain.tif")
    Image.fromarray((GREY / 255).astype(np.float32)).save(tmp_path / "float.tif")
    assert read(str(tmp_path / "plain.tif")).scaled == ""
    file = read(str(tmp_path / "float.tif"))
    assert (file.extent, file.problem, file.scaled) == ((30, 20), "", "floats, 0 to 1")
    line = {"path": file.path, "scaled": file.scaled, "error": "x"}
    assert sentence(line) == f"{file.path} (values scaled: floats, 0 to 1): error: x"


@pytest.mark.parametrize(("name", "data"), [("x.jxl", b"\xff\x0a" + bytes(9)), ("x.psd", b"8BPS\0\1" + bytes(30))])
def test_a_format_that_is_not_read_is_named_and_not_passed_over(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    (tmp_path / "notes.txt").write_text("BMW")
    assert list(expand([str(tmp_path)])) == [str(tmp_path / name)]
    assert "files are not read: convert" in read(str(tmp_path / name)).problem
