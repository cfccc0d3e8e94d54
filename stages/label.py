"""Asks for labels: picks images that have none and writes a page for the browser, reports/label.html, to label them on.

It picks the train images from which the head should learn most: typical ones while there are few labels, then doubtful
ones. With --random it draws from train, val and test alike, which is how val and test get labels. The page saves a
table, and --apply adds its labels to `data/corrections/<dataset>.csv`. See docs/labelling.md.
"""

import argparse
import webbrowser
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stages import command, files, paths, results
from stages.datasets import corrections, index_file, splits
from stages.datasets.base import natural
from stages.datasets.index_file import IndexRow
from stages.errors import UserError, counted, listed, nearest
from stages.features import h5
from stages.labelling import decisions, page, selection
from stages.labelling.page import AskedImage
from stages.params import Params, load
from stages.reporting import rounds
from stages.reporting.pictures import Album
from stages.reviewing import labels, vectors
from stages.reviewing.decisions import merged
from stages.reviewing.vectors import Vectors

PAGE = paths.REPORTS / "label.html"
SIDE = 480  # pixels of the longer side of an image on the page
FEWEST_JUDGED = 50  # images in val or test, below which the command says how to get more
EXAMPLES = """\
  python -m stages.label --random --number 100    # the first labels, and those of val and test
  python -m stages.label --number 100 --open
  python -m stages.label --apply ~/Downloads/labels-1a2b3c4d.csv"""


def main(arguments: argparse.Namespace) -> int:
    """Writes the page, or takes labels over."""
    params = load()
    rows = index_file.read(params.dataset)
    if index_file.is_multilabel(rows):
        raise UserError(
            f"`label` asks for one class per image, and images of {params.dataset} have several labels: add them to "
            "its table or annotations, where an image without any has none of them."
        )
    keep_round(params.dataset, rows)
    if arguments.apply:
        return apply(params, rows, arguments.apply)
    if arguments.number < 1:
        raise UserError(f"`--number` must be at least 1, found {arguments.number}.")
    return ask(params, rows, arguments)


def ask(params: Params, rows: Sequence[IndexRow], arguments: argparse.Namespace) -> int:
    """Picks images and writes the page on which to label them."""
    unlabelled = splits.read_unlabelled(params.dataset)
    if not any(unlabelled.values()):
        raise UserError(
            f"Every image of {params.dataset} has a label. To add images without one, leave their label empty in the "
            "table of dataset csv, or put them into the folder `datasets.folder.unlabelled` (docs/labelling.md)."
        )
    classes = sorted({row.label for row in rows} - {""}, key=natural)
    described = _vectors(params, rows)
    trained = set(splits.read(params.dataset)["train"])
    known = _those(described, [row.sha256 in trained for row in rows])
    y = np.array([classes.index(rows[image].label) for image in known.images], np.int64)
    if arguments.random:
        images = _drawn(rows, unlabelled)[: arguments.number]
    else:
        asked_for = set(unlabelled["train"])
        pool = _those(described, [row.sha256 in asked_for for row in rows])
        chosen = selection.choose(pool, known, y, classes=len(classes), number=arguments.number)
        images = pool.images[chosen]
    if not len(images):
        raise UserError("No image of train is without a label; `--random` asks for images of val and test.")
    guesses = _guesses(known, y, len(classes), replace(described, images=images))
    part_of = {sha256: part for part, members in unlabelled.items() for sha256 in members}
    album = Album.open(params.dataset, params.options, params.root, SIDE)
    asked = [
        AskedImage(picture, part_of[rows[image].sha256], guess)
        for image, guess in zip(images, guesses, strict=True)
        if (picture := album.picture(rows[image])).uri
    ]
    if not asked:
        raise UserError(f"None of the images can be shown: {album.why or listed(sorted(set(album.missing.values())))}")
    files.write_text(PAGE, page.html(asked, classes, params.dataset))
    counts = {part: sum(image.part == part for image in asked) for part in splits.SPLITS}
    print(f"{counted(len(asked), 'images')} to label ({_counted(counts)}): {PAGE.resolve()}")
    print("Label them in the browser, save, then `python -m stages.label --apply FILE`.")
    _advise(params.dataset, random=arguments.random)
    if arguments.open:
        webbrowser.open(PAGE.resolve().as_uri())
    return 0


def _vectors(params: Params, rows: Sequence[IndexRow]) -> Vectors:
    """The features of the images in the index."""
    path = paths.features(params.dataset, params.backbone, params.cut)
    if not path.exists():
        raise UserError(f"Images are chosen by their features, and {path} is missing: `dvc repro extract split`.")
    features = h5.read(path)
    if not features.is_of([row.sha256 for row in rows]):
        raise UserError(f"{path} holds the features of other images than {paths.index(params.dataset)}: `dvc repro`.")
    described = vectors.load(features)
    if described is None:
        raise UserError("`cut`: images are chosen by their features, and cut=input keeps pixels: take another.")
    return described


def _drawn(rows: Sequence[IndexRow], unlabelled: splits.SplitImages) -> npt.NDArray[np.int64]:
    """Positions of all images without a label, in an order that has nothing to do with what they show."""
    waiting = set[str]().union(*unlabelled.values())
    positions = (position for position, row in enumerate(rows) if row.sha256 in waiting)
    return np.array(sorted(positions, key=lambda position: rows[position].sha256), np.int64)


def _guesses(known: Vectors, y: npt.NDArray[np.int64], classes: int, asked: Vectors) -> list[list[int]]:
    """For each image the positions of all classes, the most probable first; empty while two classes are not known."""
    if len(np.unique(y)) < 2:
        return [[] for _ in asked.images]
    values = labels.predict(known, y, classes, asked)
    return [[int(label) for label in order] for order in np.argsort(-values, 1, kind="stable")]


def _those(described: Vectors, wanted: Sequence[bool]) -> Vectors:
    return replace(described, images=described.images[np.array(wanted)[described.images]])


def _advise(dataset: str, *, random: bool) -> None:
    """Says so where too few images have a label to judge a head by."""
    sizes = {part: len(images) for part, images in splits.read(dataset).items() if part != "train"}
    few = [f"{counted(size, 'images')} of {part}" for part, size in sizes.items() if size < FEWEST_JUDGED]
    if few and not random:
        print(f"Only {listed(few)} have a label, and a head is judged by them: `--random` asks for such images too.")


def apply(params: Params, rows: Sequence[IndexRow], table: Path) -> int:
    """Adds the labels in a table to the corrections of the dataset."""
    path, earlier = paths.corrections(params.dataset), corrections.read(params.dataset)
    labelled = decisions.read(table)
    if not labelled:
        raise UserError(f"{table} has no label: label images on the page first, then save.")
    decided = list(decisions.decided(labelled, rows, earlier))
    corrections.refuse_contradictions(decided, table)
    corrected = merged(earlier, decided)
    corrections.write(path, corrected)
    known = sorted({row.label for row in rows} - {""})
    for name in decisions.new_classes(labelled, rows):
        print(f"{name!r} is a new class{f'; {nearest(name, known)}' if known else ''}")
    dropped = sum(correction.decision == corrections.DROP for correction in decided)
    print(f"Into {path}: {counted(len(decided) - dropped, 'labels')}, {counted(dropped, 'images')} to leave out.")
    print(f"Then: git add {path.parent} && dvc repro")
    return 0


def keep_round(dataset: str, rows: Sequence[IndexRow]) -> None:
    """Keeps the result of the last run, if it is of the labels that are in force now."""
    if not index_file.unlabelled(rows) and not corrections.labelled_later(corrections.read(dataset)):
        return
    try:
        metrics = results.read_evaluation()
        judged = results.read_json(paths.PREDICTIONS / "predictions.json")["images"]
        split = splits.read(dataset)
    except (UserError, KeyError):
        return  # no run yet
    same = metrics.get("dataset") == dataset and all(set(judged[part]) <= set(split[part]) for part in ("val", "test"))
    if same:
        rounds.add(dataset, metrics)


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} of {name}" for name, count in counts.items() if count)


def run() -> None:
    """Parses the arguments; asks for labels or takes them over."""
    parser = command.parser("label", description=__doc__, examples=EXAMPLES)
    parser.add_argument("--number", type=int, default=100, metavar="N", help="images to ask for (default: 100)")
    parser.add_argument("--random", action="store_true", help="draw them at random, from train, val and test alike")
    parser.add_argument("--open", action="store_true", help="show the page in the browser")
    parser.add_argument(
        "--apply", type=paths.typed_path, metavar="FILE", help="apply the labels in the table that the page saved"
    )
    command.run(main, parser.parse_args())


if __name__ == "__main__":
    run()
