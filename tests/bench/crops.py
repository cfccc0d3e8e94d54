"""Cuts the objects of a set with boxes out, into one folder per class: a set of photographs of single things.

python -m tests.bench.crops voc /data/BCCD /tmp/cells
python -m tests.bench.crops coco /data/coco /tmp/things datasets.coco.annotations.val=annotations/instances_val2017.json
"""

import argparse
import contextlib
import tempfile
from collections import Counter
from pathlib import Path

from torchvision.io import write_png

from stages import index
from stages.datasets import index_file, source
from stages.images.decode import decode
from stages.params import from_tree, with_overrides
from tests import defaults
from tests.conftest import merged

SMALLEST = 16  # pixels of the shorter side
FEWEST = 12  # objects of a class


def main() -> None:
    """Writes the crops and prints how many there are of each class."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.crops", description=main.__doc__)
    parser.add_argument("dataset", choices=("voc", "coco"))
    parser.add_argument("root", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("knobs", nargs="*", help="KNOB=VALUE, as after -S")
    arguments = parser.parse_args()
    knobs = dict(knob.split("=", 1) for knob in arguments.knobs)
    print(dict(write(arguments.dataset, arguments.root.resolve(), arguments.out.resolve(), knobs)))


def write(dataset: str, root: Path, out: Path, knobs: dict[str, str]) -> Counter[str]:
    """Writes the objects of each class that has FEWEST or more, as `<out>/<class>/<image>-<number>.png`."""
    params = from_tree(merged(defaults.tree(), {"dataset": dataset, "root": str(root)}))
    params = with_overrides(params, knobs)
    with tempfile.TemporaryDirectory() as home, contextlib.chdir(home):
        index.main(params)
        rows, folder = index_file.read(dataset), source.folder(dataset, params.options, str(root))
    objects = [(row, number, box) for row in rows for number, box in enumerate(row.objects) if not box.crowd]
    objects = [item for item in objects if min(_sides(item[2].box)) >= SMALLEST]
    counts = Counter(box.label for _, _, box in objects)
    counts = Counter({label: count for label, count in counts.items() if count >= FEWEST})
    for row, number, box in objects:
        if box.label in counts:
            left, top, right, bottom = map(round, box.box)
            pixels = decode(source.read(folder, row.path, row.sha256))[:, top:bottom, left:right]
            path = out / box.label / f"{Path(row.path).stem}-{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_png(pixels, str(path))
    return counts


def _sides(box: tuple[float, ...]) -> tuple[float, float]:
    left, top, right, bottom = box
    return right - left, bottom - top


if __name__ == "__main__":
    main()
