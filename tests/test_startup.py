"""What starts without torch, whose import takes 2 to 3 seconds, and what without torchvision, 1.5 more."""

import subprocess
import sys
from pathlib import Path

# Of extract the process that watches.
LIGHT = "check download index split extract report store recipe"
DATASETS = "caltech101 coco csv flickrlogos32 folder logos voc"
FOR_LABELS = "train evaluate lr_sweep heads.linear heads.mlp heads.ridge heads.knn"
TORCHVISION = {"torchvision", "timm", "torch._dynamo"}
IMPORTS = """
import importlib, sys
unwanted, *names = sys.argv[1:]
for name in names:
    importlib.import_module(name)
    found = {*unwanted.split(",")} & sys.modules.keys()
    assert not found, f"{name} imports {found}"
"""


def check(repository: Path, unwanted: set[str], names: list[str]) -> None:
    subprocess.run([sys.executable, "-c", IMPORTS, ",".join(unwanted), *names], cwd=repository, check=True)


def test_stages_that_need_no_torch_do_not_import_it(repository: Path) -> None:
    names = [f"stages.{name}" for name in LIGHT.split()] + [f"stages.datasets.{name}" for name in DATASETS.split()]
    check(repository, TORCHVISION | {"torch", "pandas", "ray", "scipy"}, names)


def test_heads_for_labels_do_without_torchvision(repository: Path) -> None:
    check(repository, TORCHVISION, [f"stages.{name}" for name in FOR_LABELS.split()])
