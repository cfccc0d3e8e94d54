"""All suspicions about a dataset, and their numbers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.datasets import index_file
from stages.datasets.base import natural
from stages.datasets.corrections import SEPARATOR
from stages.datasets.index_file import IndexRow
from stages.datasets.splits import FOLD
from stages.features import h5
from stages.reviewing import duplicates, labels, neighbours, odd, vectors
from stages.reviewing.pixels import Pixels
from stages.reviewing.suspicions import (
    CONFLICT,
    COPIES,
    LABEL_IN_DOUBT,
    MIRROR_IMAGE,
    NEAR_DUPLICATE,
    LabelCheck,
    Suspicion,
)
from stages.reviewing.vectors import Vectors

FEWEST_OF_CLASS = 3  # images: of fewer, the others cannot tell what the class looks like
COARSE = 4  # pixels of a thumbnail that become one where there are no features to compare, per side
BLOCK = 4096  # thumbnails read at a time


@dataclass(frozen=True, slots=True)
class _Image:
    row: IndexRow
    split: str

    @property
    def label(self) -> str:
        """Its label, or all of several."""
        return SEPARATOR.join(self.row.classes)


def suspect(
    rows: Sequence[IndexRow],
    *,
    split_names: Sequence[str],
    conflicts: Sequence[Sequence[Mapping[str, Any]]],
    features: h5.Features,
    pixels: Pixels | None,
) -> tuple[list[Suspicion], LabelCheck | None]:
    """Everything that looks wrong, strongest first within its kind, and how well all others tell a label.

    Args:
        rows: of the index.
        split_names: train, val, test, a fold or nothing for each image.
        conflicts: path and labels of the files of each content that has several labels; they are not in the index.
        features: of the same images.
        pixels: what they look like; None where the images cannot be had.
    """
    images = [_Image(row, split) for row, split in zip(rows, split_names, strict=True)]
    described = vectors.load(features)
    wrong, checked = _labels_in_doubt(images, described) if described else ([], None)
    pairs = _candidates(described, pixels)
    copies = _copies(images, *pairs, pixels) if pairs and pixels else []
    oddities = _oddities(images, described, pairs, pixels)
    return [*_conflicts(conflicts), *wrong, *copies, *oddities], checked


def numbers(found: Sequence[Suspicion], pixels: Pixels | None, checked: LabelCheck | None) -> dict[str, Any]:
    """How much of each kind was found; floats to four digits."""
    copies = [suspicion for suspicion in found if suspicion.what in COPIES]
    known = {LABEL_IN_DOUBT, CONFLICT, *COPIES}
    tested = {image for copy in copies for image in _leaked(copy)}
    summary: dict[str, Any] = {
        "labels_in_doubt": sum(suspicion.what == LABEL_IN_DOUBT for suspicion in found),
        "near_duplicates": len(copies),
        "leaks": sum(copy.leak for copy in copies),
        "test_images_in_train": len(tested),
        "conflicting_files": sum(suspicion.what == CONFLICT for suspicion in found),
        "odd_images": len({suspicion.path for suspicion in found if suspicion.what not in known}),
        "pixels_compared": int(pixels.readable.sum()) if pixels else 0,
    }
    return (
        summary if checked is None else summary | {name: round(value, 4) for name, value in checked._asdict().items()}
    )


def _conflicts(conflicts: Sequence[Sequence[Mapping[str, Any]]]) -> Iterator[Suspicion]:
    """One row per file of a content with several labels."""
    for files in conflicts:
        for file in files:
            other = next((one["path"] for one in files if one is not file), "")
            yield Suspicion(
                CONFLICT, file["path"], "", label=", ".join(file["labels"]), proposed="", score=1, other=other
            )


def _labels_in_doubt(images: Sequence[_Image], described: Vectors) -> tuple[list[Suspicion], LabelCheck | None]:
    """Images whose label all others contradict, and how well they tell a label.

    None where the images hold objects, which have labels of their own, and where nothing can be learnt: contradictions
    then say something about the features or the classes, not about single labels.
    """
    if index_file.is_multilabel([image.row for image in images]):
        return _lists_in_doubt(images, described), None
    if any(image.row.objects for image in images):
        return [], None
    classes = sorted({image.row.label for image in images} - {""})
    if len(classes) < 2:
        return [], None
    number = {name: place for place, name in enumerate(classes)}
    label = np.array([number.get(image.row.label, -1) for image in images])[described.images]
    counts = np.bincount(label[label >= 0], minlength=len(classes))
    known = (label >= 0) & (counts[label] >= FEWEST_OF_CLASS)
    if len(np.unique(label[known])) < 2:
        return [], None
    asked = vectors.of_rows(described.rows, described.images[known])
    left_out = labels.leave_one_out(asked, label[known], len(classes))
    checked = LabelCheck(left_out.accuracy, float(counts.max() / counts.sum()))
    if not checked.learnt:
        return [], checked
    order = np.argsort(-left_out.doubt, kind="stable")
    suspicions = [
        Suspicion(
            LABEL_IN_DOUBT,
            image.row.path,
            image.split,
            label=image.row.label,
            proposed=classes[left_out.other[place]],
            score=float(left_out.doubt[place]),
        )
        for place in order[left_out.doubt[order] > 0]
        for image in [images[asked.images[place]]]
    ]
    return suspicions, checked


def _lists_in_doubt(images: Sequence[_Image], described: Vectors) -> list[Suspicion]:
    """Images that lack a label which all others say they have, or have one which they deny; one row per image.

    A label is missing where its value is nearly that of the images that have it, and wrong where it is nearly that of
    those that have it not. Labels which these features cannot tell are left alone.
    """
    classes = sorted({label for image in images for label in image.row.classes}, key=natural)
    label_of = {name: place for place, name in enumerate(classes)}
    truth = np.zeros((len(described.images), len(classes)), np.int8)
    for place, position in enumerate(described.images):
        row = images[position].row
        truth[place, [label_of[label] for label in row.unknown_labels if label in label_of]] = -1
        truth[place, [label_of[label] for label in row.classes]] = 1
    doubt = labels.doubted(labels.leave_one_out_lists(described, truth), truth)
    suspicions = []
    for place in np.argsort(-doubt.max(1), kind="stable"):
        if not doubt[place].max() > 0:
            break
        image, flipped = images[described.images[place]], {classes[label] for label in np.flatnonzero(doubt[place] > 0)}
        proposed = sorted({*image.row.classes} ^ flipped, key=natural)
        suspicions.append(
            Suspicion(
                LABEL_IN_DOUBT, image.row.path, image.split, label=image.label,
                proposed=SEPARATOR.join(proposed) or SEPARATOR, score=float(doubt[place].max()),
            )
        )  # fmt: skip
    return suspicions


def _candidates(
    described: Vectors | None, pixels: Pixels | None
) -> tuple[npt.NDArray[np.int64], neighbours.Pairs] | None:
    """Pairs to compare, by coarse thumbnails where there are no features; before them the rows (n,) that they count."""
    if described is None:
        if pixels is None or pixels.readable.sum() < 2:
            return None
        coarse = np.concatenate([_coarse(block) for block in pixels.thumbnails.blocks(BLOCK)])
        described = vectors.of_rows(coarse, np.flatnonzero(pixels.readable))
    return described.images, neighbours.nearest(described)


def _coarse(thumbnails: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """(n, 192) means over blocks of thumbnails (n, 32, 32, 3)."""
    count, side = len(thumbnails), thumbnails.shape[1] // COARSE
    blocks = thumbnails.reshape(count, side, COARSE, side, COARSE, 3).mean((2, 4), dtype=np.float32)
    coarse: npt.NDArray[np.float32] = blocks.reshape(count, -1)
    return coarse


def _copies(
    images: Sequence[_Image], rows: npt.NDArray[np.int64], pairs: neighbours.Pairs, pixels: Pixels
) -> list[Suspicion]:
    """Near-duplicates and mirror images, those in two splits first."""
    nearest, _ = neighbours.closest(pairs, len(rows))
    confirmed = duplicates.confirmed(pairs, nearest, pixels.thumbnails.of(rows), pixels.contrast[rows])
    copies = [_copy(images[rows[pair.first]], images[rows[pair.second]], pair) for pair in confirmed]
    return sorted(copies, key=lambda copy: (not copy.leak, -copy.score, copy.path, copy.other))


def _copy(first: _Image, second: _Image, pair: duplicates.Duplicate) -> Suspicion:
    return Suspicion(
        MIRROR_IMAGE if pair.mirrored else NEAR_DUPLICATE,
        first.row.path,
        first.split,
        label=first.label,
        proposed=second.label if second.label != first.label else "",
        score=pair.correlation,
        other=second.row.path,
        other_split=second.split,
    )


def _leaked(copy: Suspicion) -> Iterator[str]:
    """Those of the two images that are judged by a head that may have been trained on the other one."""
    if {copy.split, copy.other_split} == {"test", "train"}:
        yield copy.path if copy.split == "test" else copy.other
    elif copy.leak and copy.split.startswith(FOLD):
        yield from (copy.path, copy.other)


def _oddities(
    images: Sequence[_Image],
    described: Vectors | None,
    pairs: tuple[npt.NDArray[np.int64], neighbours.Pairs] | None,
    pixels: Pixels | None,
) -> list[Suspicion]:
    rows = [image.row for image in images]
    found = list(odd.by_size(rows))
    if described and pairs:
        _, cosine = neighbours.closest(pairs[1], len(described))
        far = odd.by_features(cosine)
        found += [oddity._replace(position=int(described.images[oddity.position])) for oddity in far]
    if pixels:
        found += odd.by_pixels(rows, pixels)
    found.sort(key=lambda oddity: (oddity.what, -oddity.score, oddity.position))
    return [
        Suspicion(what, image.row.path, image.split, image.label, proposed="", score=score)
        for position, what, score in found
        for image in [images[position]]
    ]
