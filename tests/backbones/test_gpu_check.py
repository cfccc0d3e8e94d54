"""`python -m tests.bench.gpu` runs to its end on a CPU, with nothing of ours but the libraries that it names."""

import json
import os
import subprocess
import sys
from pathlib import Path

ABSENT = (
    "dvc",
    "openvino",
    "ruamel",
    "onnx",
    "onnxruntime",
    "ray",
    "jinja2",
    "matplotlib",
    "sklearn",
    "scipy",
    "pandas",
)
HIDE = """\
import sys
sys.modules.update(dict.fromkeys({absent!r}))  # None: not installed
from tests.bench.gpu import main
sys.exit(main(["--device", "cpu", "--small", "--out", {out!r}]))
"""


def test_it_ends_with_a_table_and_figures(tmp_path: Path, repository: Path) -> None:
    out = tmp_path / "gpu.json"
    program = HIDE.format(absent=ABSENT, out=str(out))
    environment = os.environ | {"PYTHONPATH": str(repository), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "end to end, images/s" in done.stdout
    report = json.loads(out.read_text())
    assert report["machine"]["device"] == "cpu"
    for figures in report["results"].values():
        assert figures["right"] and figures["repeatable"] and figures["whatever the neighbours"]
        assert figures["engine, images/s"] > 0 and figures["decoding, images/s"] > 0 and figures["of the slower"] > 0
