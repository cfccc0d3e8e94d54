"""The files of a dataset by their contents: each file is read once, and is in exactly one list."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from stages.datasets.annotations import TURNED
from stages.datasets.base import Record
from stages.datasets.tree import LFS_POINTER, is_lfs_pointer
from stages.images.header import BadImage, looks_like_image, open_image, orientation
from stages.images.loading import inspect
from stages.machine import cores
from stages.processes import in_order

# If the same content is in several official splits, it stays in the first of these
SPLITS = ("test", "val", "train", None)
AHEAD = 256  # files that are read before the caller has taken the first of them


@dataclass(frozen=True)
class DatasetFile:
    """A file of a dataset, after it was read.

    Attributes:
        record: what the dataset says about it, all records of the file joined.
        labels: every class that a record gives it as its only one.
        sha256: of its bytes; empty if it cannot be read.
        size: width and height in pixels, as a viewer shows it; None if the file cannot be used.
        problem: why it cannot be used; empty for an image.
        is_image: whether its first bytes are those of an image.
        orientation: of EXIF; 1 unless the annotated size is that of the stored image.
        scaling: how its values are scaled to 8 bits; None if they have 8 bits.
    """

    record: Record
    labels: tuple[str, ...]
    sha256: str
    size: tuple[int, int] | None
    problem: str = ""
    is_image: bool = True
    orientation: int = 1
    scaling: str | None = None


@dataclass(frozen=True)
class Contents:
    """The files of a dataset, sorted by whether and why they are used.

    Attributes:
        used: one file per content, in path order.
        duplicates: the other files of the same content, each with the file that is used instead.
        conflicts: files of one content with several classes, one list per content: none of them is used.
        bad: images that cannot be read.
        not_images: other kinds of files.
    """

    used: list[DatasetFile]
    duplicates: list[tuple[DatasetFile, DatasetFile]]
    conflicts: list[list[DatasetFile]]
    bad: list[DatasetFile]
    not_images: list[DatasetFile]


def read(folder: Path, records: Iterable[Record]) -> Contents:
    """Reads every file once; records of the same file are joined, lists of labels also those of copies."""
    records_of: dict[str, list[Record]] = {}
    for record in records:
        records_of.setdefault(record.path, []).append(record)
    with ThreadPoolExecutor(cores()) as pool:
        reading = in_order(pool, lambda same: _read(folder, same), records_of.values(), ahead=AHEAD)
        files = list(tqdm(reading, total=len(records_of), unit=" files", leave=False, delay=2))
    files_of: dict[str, list[DatasetFile]] = defaultdict(list)
    order = lambda file: (SPLITS.index(file.record.split), file.record.label == "", file.record.path)  # noqa: E731
    for file in sorted(files, key=order):
        if not file.problem:
            files_of[file.sha256].append(file)
    conflicts = [same for same in files_of.values() if len({label for file in same for label in file.labels}) > 1]
    contradicted = {same[0].sha256 for same in conflicts}
    first = {sha256: _labelled(same) for sha256, same in files_of.items() if sha256 not in contradicted}
    used = {file.record.path for file in first.values()}
    good = [file for file in files if not file.problem and file.sha256 in first]
    return Contents(
        sorted(first.values(), key=lambda file: file.record.path),
        [(file, first[file.sha256]) for file in good if file.record.path not in used],
        sorted(conflicts, key=lambda same: same[0].record.path),
        [file for file in files if file.is_image and file.problem],
        [file for file in files if not file.is_image],
    )


def _labelled(same: Sequence[DatasetFile]) -> DatasetFile:
    """The file of a content that is used: the first, or a copy that has objects where the first has none.

    It has the split of the first, and its label or that of a copy, or the lists of labels of all.
    """
    first = same[0]
    if first.record.labels is not None:
        return replace(first, record=replace(first.record, **_lists([file.record for file in same])))
    if not first.record.objects and (annotated := next((file for file in same if file.record.objects), None)):
        return replace(annotated, record=replace(annotated.record, split=first.record.split))
    label = next((label for file in same for label in file.labels), None)
    return replace(first, record=replace(first.record, label=label)) if first.record.label == "" and label else first


def _read(folder: Path, same: Sequence[Record]) -> DatasetFile:
    record = _joined(same)
    labels = tuple(dict.fromkeys(one.label for one in same if one.label and one.labels is None))
    path = PurePosixPath(record.path)
    if record.problem or ".." in path.parts or path.is_absolute():
        return DatasetFile(
            record, labels, "", None, record.problem or "it would lie outside of the folder of the images"
        )
    try:
        record.path.encode()
        data = (folder / record.path).read_bytes()
    except UnicodeEncodeError:
        return DatasetFile(record, labels, "", None, "its name is not UTF-8")
    except (OSError, ValueError) as error:
        return DatasetFile(record, labels, "", None, getattr(error, "strerror", None) or str(error))
    sha256 = hashlib.sha256(data).hexdigest()
    if is_lfs_pointer(data):
        return DatasetFile(record, labels, sha256, None, LFS_POINTER)
    if not looks_like_image(data):
        return DatasetFile(record, labels, sha256, None, "not an image", is_image=False)
    try:
        width, height, scaling = inspect(data)
    except BadImage as error:
        return DatasetFile(record, labels, sha256, None, str(error))
    turned = _orientation(data, record, (width, height))
    return DatasetFile(record, labels, sha256, (width, height), orientation=turned, scaling=scaling)


def _joined(same: Sequence[Record]) -> Record:
    """The records of one file as one: the objects of all, the first of the splits, what is told by any."""
    if len(same) == 1:
        return same[0]
    first = min(same, key=lambda record: SPLITS.index(record.split))
    return replace(
        first,
        objects=tuple(box for record in same for box in record.objects),
        label=next((record.label for record in same if record.label), first.label),
        size=next((record.size for record in same if record.size), None),
        group=next((record.group for record in same if record.group), None),
        **_lists(same),
    )


def _lists(same: Sequence[Record]) -> dict[str, Any]:
    """The labels that any of some records has, and those of which none knows; nothing where images have one label."""
    if all(record.labels is None for record in same):
        return {}
    labels = tuple(dict.fromkeys(label for record in same for label in record.labels or ()))
    unknown = dict.fromkeys(label for record in same for label in record.unknown_labels if label not in labels)
    return {"labels": labels, "unknown_labels": tuple(unknown)}


def _orientation(data: bytes, record: Record, shown: tuple[int, int]) -> int:
    """The EXIF orientation if the annotation has the size of the stored image, not of the shown one; otherwise 1."""
    if record.size is None or record.size == shown or record.size != shown[::-1]:
        return 1
    with open_image(data) as image:
        value = orientation(image)
    return value if value in TURNED else 1
