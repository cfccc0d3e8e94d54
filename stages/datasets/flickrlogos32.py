"""FlickrLogos-32 (Romberg, Pueyo, Lienhart, van Zwol, 2011): photographs of 32 brands, and of none.

Its owners send the archive on request
(https://www.uni-augsburg.de/en/fakultaet/fai/informatik/prof/mmc/research/datensatze/flickrlogos/); it is
`FlickrLogos-32_dataset_v2.zip`, with photographs, boxes of the logos, and lists:

| list | images | `protocol: notebook` | `protocol: owners` |
|---|---|---|---|
| trainset | 320, 10 a brand | train | train |
| valset-logosonly | 960, 30 a brand | half train, half val | val |
| valset-nologos | 3,000 without logo | half train, half val | val |
| testset | 960 with logo, 3,000 without | test | test |
| in all | | 2,300 train, 1,980 val, 3,960 test | 320 train, 3,960 val, 3,960 test |

`notebook` is the protocol of a published course notebook. A half is every other entry of a class, in the order of the
list; the first entry goes to train. Two things differ: the published text also counts the training logos as validation,
which we never do, and it halves the list without logos in the middle. With `owners` train has no image without a logo,
so a classifier never predicts no-logo. `testset-logosonly` is a part of testset and is not read.
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from stages.blocks import Block, Source
from stages.datasets.base import AnnotationFault, Box, DatasetOptions, Item, Record
from stages.datasets.reasons import commonest
from stages.errors import UserError

LISTS = {"trainset": "train", "valset-logosonly": "val", "valset-nologos": "val", "testset": "test"}
NO_LOGO = "no-logo"


class Archives(Block):
    """The file that the owners sent."""

    images: Source


class Options(DatasetOptions):
    """The block `datasets.flickrlogos32`."""

    source: Archives
    protocol: Literal["notebook", "owners"]


def scan(folder: Path, options: Options) -> Iterator[Item]:
    """The images of the lists, each in the split that the protocol gives it.

    Raises:
        UserError: the archive has another layout, or a list names files that do not exist.
    """
    homes = sorted(path.parent for path in folder.rglob("trainset.relpaths.txt") if "__MACOSX" not in path.parts)
    if not homes:
        raise UserError("The archive of flickrlogos32 holds no trainset.relpaths.txt: is it FlickrLogos-32_dataset_v2?")
    lists = {name: _listed(homes[0] / f"{name}.relpaths.txt") for name in LISTS}
    missing = [(f"{name} names it", path) for name, paths in lists.items() for path in paths if not path.is_file()]
    if missing:
        reasons = commonest((kind, path.relative_to(homes[0]).as_posix()) for kind, path in missing)
        raise UserError(
            f"{len(missing)} image(s) of flickrlogos32's lists are not in the archive: {reasons}. Ask its owners."
        )
    for name, split in LISTS.items():
        seen = defaultdict[str, int](int)
        for path in lists[name]:
            brand = path.parent.name.lower()  # some lists write HP, some hp
            half = options.protocol == "notebook" and split == "val" and seen[brand] % 2 == 0
            seen[brand] += 1
            yield from _image(folder, path, brand, "train" if half else split)


def _listed(file: Path) -> list[Path]:
    """The images that a list names."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The list {file.name} of flickrlogos32 cannot be read: {error}") from None
    return [file.parent / line.replace("\\", "/").removeprefix("./") for line in filter(None, map(str.strip, lines))]


def _image(folder: Path, path: Path, brand: str, split: str) -> Iterator[Item]:
    """The record of an image, and what is broken in its file of boxes; photographs without a logo have no such file."""
    name = path.relative_to(folder).as_posix()
    if brand == NO_LOGO:
        yield Record(name, brand, split=split)
        return
    masks = path.parents[2] / "masks"
    home = masks / path.parent.name if (masks / path.parent.name).is_dir() else masks / brand
    file = home / f"{path.name}.bboxes.txt"
    annotation, objects = file.relative_to(folder).as_posix(), list[Box]()
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()[1:]  # the first says `x y width height`
    except (OSError, UnicodeDecodeError) as error:
        yield AnnotationFault(annotation, f"the boxes cannot be read: {getattr(error, 'strerror', error)}", name)
        lines = []
    for line in filter(None, map(str.strip, lines)):
        try:
            x, y, width, height = map(int, line.split())
            objects.append(Box(brand, (x, y, x + width, y + height)))
        except ValueError:
            yield AnnotationFault(
                annotation, "expected x y width height", f"{name} has {line!r}", objects=1, label=brand
            )
    yield Record(name, brand, tuple(objects), split, annotation)
