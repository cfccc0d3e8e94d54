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
from stages.datasets import tree
from stages.datasets.base import AnnotationFault, Box, DatasetOptions, EmptyClass, Item, Note, Record, UnusedFile
from stages.datasets.matching import ImageFinder, Match, slashed
from stages.errors import UserError, counted

LISTS = {"testset": "test", "trainset": "train", "valset-logosonly": "val", "valset-nologos": "val"}
IMAGES, MASKS = "classes/jpg", "classes/masks"
NO_LOGO = "no-logo"
NOT_LISTED = "no list names it"
HEADER = "x y width height"  # the first line of a file of boxes


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
        UserError: the archive has another layout, or a list cannot be read.
    """
    files = tree.read(folder).files
    tops = [path.removesuffix("trainset.relpaths.txt") for path in files if path.endswith("trainset.relpaths.txt")]
    if not tops:
        raise UserError("The archive of flickrlogos32 has no trainset.relpaths.txt: is it FlickrLogos-32_dataset_v2?")
    home = folder / tops[0]
    images = [path.removeprefix(tops[0]) for path in files if path.startswith(f"{tops[0]}{IMAGES}/")]
    finder, split_of, repeated = ImageFinder(home, images), dict[Match, str](), 0
    for name, split in LISTS.items():
        seen = defaultdict[str, int](int)
        for match in finder.find_all(_entries(home / f"{name}.relpaths.txt")):
            brand = _brand(match.path)
            half = options.protocol == "notebook" and split == "val" and seen[brand] % 2 == 0
            seen[brand] += 1
            repeated += match in split_of
            split_of.setdefault(match, "train" if half else split)
    if repeated:
        yield Note(
            f"{counted(repeated, 'images are')} listed again: the first of testset, trainset and the valsets counts"
        )
    for match, split in split_of.items():
        annotation, objects, faults = _boxes(home, tops[0], match.path)
        yield from faults
        brand, problem = _brand(match.path), match.problem
        problem = problem or ("" if brand else "it lies in no folder of a brand")
        yield Record(tops[0] + match.path, brand, objects, split=split, annotation=annotation, problem=problem)
    brands, listed = {_brand(match.path) for match in split_of}, {match.path for match in split_of}
    for path in (path for path in images if path not in listed):
        _, objects, faults = _boxes(home, tops[0], path)
        yield from (fault for fault in faults if fault.objects)
        yield UnusedFile(tops[0] + path, NOT_LISTED, objects=len(objects))
        if _brand(path) not in brands:
            yield EmptyClass(_brand(path), NOT_LISTED)


def _entries(file: Path) -> list[str]:
    """The images that a list names."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The list {file.name} of flickrlogos32 cannot be read: {error}") from None
    return [slashed(line) for line in lines if line.strip()]


def _brand(path: str) -> str:
    """The folder below those of all images, in lower case (some lists write HP, some hp); empty if there is none."""
    first, slash, _ = path.removeprefix(f"{IMAGES}/").partition("/")
    return first.lower() if slash else ""


def _boxes(home: Path, top: str, path: str) -> tuple[str, tuple[Box, ...], list[AnnotationFault]]:
    """The file of an image's boxes, the boxes, and what is broken in it; without a logo there is no such file.

    Args:
        home: the folder of the lists.
        top: the same below the folder that is read, with a slash at its end if it is not empty.
        path: of the image below `home`.
    """
    brand, below = _brand(path), f"{path.removeprefix(f'{IMAGES}/')}.bboxes.txt"
    names = (f"{MASKS}/{below}", f"{MASKS}/{brand}/{below.partition('/')[2]}")  # masks of HP lie in hp
    name = next((name for name in names if (home / name).is_file()), names[-1])
    if brand == NO_LOGO and not (home / name).is_file():
        return "", (), []
    objects, faults = list[Box](), list[AnnotationFault]()
    try:
        lines = (home / name).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = f"the boxes cannot be read: {getattr(error, 'strerror', error)}"
        return top + name, (), [AnnotationFault(top + name, reason, top + path)]
    for line in (line for line in lines if line.split() not in ([], HEADER.split())):
        try:
            x, y, width, height = map(int, line.split())
            objects.append(Box(brand, (x, y, x + width, y + height)))
        except ValueError:
            detail = f"{top}{path} has {line!r}"
            faults.append(AnnotationFault(top + name, f"expected {HEADER}", detail, objects=1, label=brand))
    return top + name, tuple(objects), faults
