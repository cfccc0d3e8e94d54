"""What starts without torch, whose import takes 2 to 3 seconds."""

import subprocess
import sys
from pathlib import Path

# Of extract and grid the process that watches.
LIGHT = "params download index split extract report store recipe grid_data grid grid_table"
DATASETS = "caltech101 coco csv flickrlogos32 folder logos voc"
IMPORTS = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    found = {"torch", "torchvision", "timm", "pandas", "scipy"} & sys.modules.keys()
    assert not found, f"{name} imports {found}"
"""


def test_stages_that_need_no_torch_do_not_import_it(repository: Path) -> None:
    names = [f"stages.{name}" for name in LIGHT.split()] + [f"stages.datasets.{name}" for name in DATASETS.split()]
    subprocess.run([sys.executable, "-c", IMPORTS, *names], cwd=repository, check=True)
