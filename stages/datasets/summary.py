"""Which files and objects of a dataset are not used, and why: for the index's summary, the console and the page."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from stages.datasets import annotations, index_file
from stages.datasets.annotations import Objects
from stages.datasets.base import AnnotationFault, EmptyClass, Item, Note, Record, UnusedFile, natural
from stages.datasets.contents import Contents, DatasetFile
from stages.datasets.index_file import IndexRow
from stages.datasets.matching import plain
from stages.datasets.reasons import COMMONEST, commonest
from stages.datasets.tree import named_as_image
from stages.errors import counted, listed

SPLITS = ("train", "val", "test")


class IndexSummary:
    """Counts and lists of one index.

    Args:
        items: as the dataset's reader yielded them.
        contents: the files, sorted by whether they are used.
        rows: the lines of the index.
        objects: of each line, with the objects that are not used.
        faults: everything that is wrong in annotations.
        folder: that was read.
    """

    def __init__(
        self,
        items: Sequence[Item],
        contents: Contents,
        rows: Sequence[IndexRow],
        objects: Sequence[Objects],
        faults: Sequence[AnnotationFault],
        folder: Path,
    ) -> None:
        self.contents, self.rows, self.objects, self.faults, self.folder = contents, rows, objects, faults, folder
        self.records = [item for item in items if isinstance(item, Record)]
        self.items = items
        files = {record.path for record in self.records}
        self.left_out = [item for item in items if isinstance(item, UnusedFile) and item.path not in files]
        self.files = len(files) + len({item.path for item in self.left_out})
        self.dropped = self._dropped()
        self.annotated = (
            sum(len(row.objects) for row in rows)
            + sum(len(fitted.twice) for fitted in objects)
            + sum(self.dropped.values())
        )

    def _dropped(self) -> dict[str, int]:
        """Reasons why objects are not used -> how many."""
        contents, counts = self.contents, Counter[str]()
        for fault in self.faults:
            counts[fault.kind] += fault.objects
        unannotated = [file for file in contents.bad + contents.not_images if not file.record.annotation]
        for reason, unused in (
            ("the image cannot be read", unannotated),
            ("the image is a copy of another", [file for file, _ in contents.duplicates]),
            ("the image is in several classes", [file for same in contents.conflicts for file in same]),
        ):
            counts[reason] += sum(len(file.record.objects) for file in unused)
        for item in self.left_out:
            counts[item.reason] += item.objects
        counts["`exclude` names it"] += sum(record.excluded for record in self.records)
        return {reason: count for reason, count in counts.most_common() if count}

    def values(self) -> dict[str, Any]:
        """The summary as it is written to JSON."""
        contents, lists = self.contents, Counter(row.split for row in self.rows if row.split)
        labels = Counter(label for row in self.rows for label in row.classes)
        unknown = Counter(label for row in self.rows for label in row.unknown_labels)
        return {
            "files": self.files,
            "used": len(self.rows),
            "duplicates": [_duplicate(file, first) for file, first in contents.duplicates],
            "conflicts": [[{"path": file.record.path, "labels": list(file.labels)} for file in same]
                          for same in contents.conflicts],
            "bad": self.bad(),
            "not_images": [file.record.path for file in contents.not_images],
            "scaled": [{"path": row.path, "scaling": row.scaled} for row in self.rows if row.scaled],
            "excluded": [{"path": item.path, "reason": item.reason} for item in self.left_out],
            "broken_annotations": [{"path": fault.path, "reason": fault.reason} for fault in self.faults],
            "repeated_objects": [
                {"path": row.path, "label": box.label, "box": list(box.box)}
                for row, fitted in zip(self.rows, self.objects, strict=True)
                for box in fitted.twice
            ],
            "dropped_objects": self.dropped,
            "reasons": dict(Counter(kind for kind, _ in self._reasons()).most_common()),
            "lost_classes": self.lost(),
            "notes": self.notes(),
            "classes": {label: labels[label] for label in sorted(labels, key=natural)},
            **({"unknown_labels": dict(sorted(unknown.items()))} if unknown else {}),
            **({"unlabelled": count} if (count := len(index_file.unlabelled(self.rows))) else {}),
            "lists": {split: lists[split] for split in SPLITS if split in lists},
            "objects": annotations.counts(self.records),
        }  # fmt: skip

    def counts(self) -> dict[str, object]:
        """The numbers that the stage prints at its end."""
        duplicates = self.contents.duplicates
        lists = Counter(row.split for row in self.rows if row.split)
        counts: dict[str, object] = {
            "images": len(self.rows),
            **{f"in the {split} list": lists[split] for split in SPLITS if split in lists},
            "classes": len(
                {label for row in self.rows for label in (*row.classes, *(box.label for box in row.objects))}
            ),
            "duplicates": len(duplicates),
            "of them across lists": sum(file.record.split != first.record.split for file, first in duplicates),
            "bad": len(self.contents.bad),
            "other files": len(self.contents.not_images),
            "broken annotations": len(self.faults),
        }
        conflicts = sum(map(len, self.contents.conflicts))
        scaled = sum(row.scaled is not None for row in self.rows)
        unlabelled = len(index_file.unlabelled(self.rows))
        several = index_file.is_multilabel(self.rows)
        return counts | {
            name: count
            for name, count in (
                ("without a label", unlabelled),
                ("with none of the labels", sum(several and not row.labels for row in self.rows)),
                ("unknown labels", sum(len(row.unknown_labels) for row in self.rows)),
                ("with scaled values", scaled),
                ("in several classes", conflicts),
                ("left out", len(self.left_out)),
            )
            if count
        }

    def bad(self) -> list[dict[str, str]]:
        """Images that cannot be read, with the reason."""
        return [{"path": file.record.path, "reason": file.problem} for file in self.contents.bad]

    def notes(self) -> list[str]:
        """How the data was read, if that is not obvious; warnings first."""
        notes = [item for item in self.items if isinstance(item, Note)]
        return [note.text for note in sorted(notes, key=lambda note: not note.warning)]

    def lost(self) -> list[str]:
        """Classes without any image or object left, except those that `exclude` names."""
        used = {label for row in self.rows for label in (*row.classes, *(box.label for box in row.objects))}
        labels = {item.label for item in self.items if isinstance(item, EmptyClass)}
        labels |= {fault.label for fault in self.faults if fault.label}
        for record in self.records:
            own = (record.label, *(record.labels or ()), *record.unknown_labels)
            labels |= {name for name in (*own, *(box.label for box in record.objects)) if name}
        return sorted(labels - used, key=natural)

    def reasons(self) -> str:
        """The most frequent reasons why files and annotations are not used."""
        return commonest(self._reasons())

    def dropped_reasons(self) -> str:
        """The most frequent reasons why objects are not used."""
        sentences = list[str]()
        for reason, count in list(self.dropped.items())[:COMMONEST]:
            first = next((fault for fault in self.faults if fault.objects and fault.kind == reason), None)
            sentences.append(f"{count} x {reason}" + (f" (such as {first.path}: {first.reason})" if first else ""))
        if others := len(self.dropped) - len(sentences):
            sentences.append(counted(others, "other reasons"))
        return "; ".join(sentences)

    def _reasons(self) -> Iterable[tuple[str, str]]:
        unread = {(file.record.annotation, file.problem) for file in self.contents.bad + self.contents.not_images}
        yield from ((_kind(file.problem), file.record.path) for file in self.contents.bad)
        yield from ((file.problem, file.record.path) for file in self.contents.not_images)
        yield from ((item.reason, item.path) for item in self.left_out)
        yield from (("the same bytes in several classes", same[0].record.path) for same in self.contents.conflicts)
        yield from (
            (fault.kind, f"{fault.path}: {fault.detail}" if fault.detail else fault.path)
            for fault in self.faults
            if (fault.path, fault.kind) not in unread
        )

    def console_lines(self) -> list[str]:
        """The lines for the console, the most important first."""
        lines = self.notes()
        lines += [f"no image is left of class {label!r}: {self._why_lost(label)}" for label in self.lost()]
        if conflicts := self.contents.conflicts:
            lines.append(
                f"{counted(len(conflicts), 'images are')} in several classes; all their copies are left out, "
                f"{sum(map(len, conflicts))} files:"
            )
            lines += [f"  {copies(same)}" for same in conflicts]
        apart = [(file, first) for file, first in self.contents.duplicates if _objects(file) != _objects(first)]
        if apart:
            pairs = listed([f"{file.record.path}: {first.record.path}" for file, first in apart], 3)
            lines.append(
                f"{counted(len(apart), 'copies have')} other objects than the file that is used instead ({pairs}): "
                "correct one of the two"
            )
        images = [item for item in self.left_out if named_as_image(item.path) and not item.in_note]
        if images:
            lines.append(
                f"{counted(len(images), 'images are')} not used: "
                f"{commonest((item.reason, item.path) for item in images)}"
            )
        if self.contents.bad:
            reasons = commonest((_kind(image["reason"]), image["path"]) for image in self.bad())
            lines.append(f"{counted(len(self.contents.bad), 'images')} cannot be read: {reasons}")
        if strange := [file.record.path for file in self.contents.not_images if named_as_image(file.record.path)]:
            lines.append(f"{counted(len(strange), 'files are')} named as an image and no image: {listed(strange, 3)}")
        if self.faults:
            lines.append(f"{counted(len(self.faults), 'annotations are')} broken: {commonest(_examples(self.faults))}")
        return lines + self._object_lines() + _similar_names(self.rows)

    def _object_lines(self) -> list[str]:
        lines, boxes = list[str](), [box for row in self.rows for box in row.objects]
        if repeated := sum(len(fitted.twice) for fitted in self.objects):
            lines.append(
                f"{counted(repeated, 'objects stand')} twice in an image, with the same box and class: such "
                "a pair counts once"
            )
        if turned := sum(fitted.turned for fitted in self.objects):
            lines.append(f"the boxes of {counted(turned, 'images')} are turned, as EXIF turns the image")
        if self.dropped:
            lines.append(
                f"{sum(self.dropped.values())} of {counted(self.annotated, 'objects are')} not used: "
                f"{self.dropped_reasons()}"
            )
        annotated = {record.path for record in self.records if record.objects}
        annotated |= {path for fault in self.faults if fault.objects for path in (fault.detail.partition(":")[0],)}
        if emptied := [row.path for row in self.rows if not row.objects and not row.classes and row.path in annotated]:
            lines.append(
                f"{counted(len(emptied), 'images have')} lost all objects (such as {emptied[0]}): background now"
            )
        if boxes and all(box.difficult or box.crowd or box.ignore for box in boxes):
            lines.append(f"no object counts in any score: all {len(boxes)} are crowds, difficult or to be ignored")
        return lines

    def _why_lost(self, label: str) -> str:
        """Why no file of a class is used."""
        contents, why = self.contents, list[tuple[str, str]]()
        conflicting = [file for same in contents.conflicts for file in same]
        for files, reason in (
            (contents.bad + contents.not_images, ""),
            (conflicting, "the same bytes in several classes"),
            ([file for file, _ in contents.duplicates], "a copy of another"),
        ):
            why += [(reason or file.problem, file.record.path) for file in files if label in _labels(file)]
        why += [(fault.kind, fault.path) for fault in self.faults if fault.label == label]
        if not why:
            mentioned = any(label in _labels(file) for file in contents.used)
            empty = next((item for item in self.items if isinstance(item, EmptyClass) and item.label == label), None)
            return "its objects cannot be used" if mentioned or not empty else empty.reason
        return commonest(why)


def _kind(problem: str) -> str:
    """What is wrong with a file, without the numbers of this one: such files are counted together."""
    return re.sub(r" \(\d+ bytes? not processed\)", "", problem.partition(": ")[0])


def _objects(file: DatasetFile) -> set[tuple[str, tuple[float, ...]]]:
    return {(box.label, box.box) for box in file.record.objects}


def _labels(file: DatasetFile) -> set[str]:
    return {*file.labels, *(file.record.labels or ()), *(box.label for box in file.record.objects)}


def copies(same: Sequence[DatasetFile]) -> str:
    """Files with the same bytes, each with its labels."""
    return " = ".join(f"{file.record.path} ({', '.join(file.labels)})" for file in same)


def _duplicate(file: DatasetFile, first: DatasetFile) -> dict[str, str]:
    """A duplicate, with the two lists that would both have had it."""
    across = file.record.split != first.record.split
    lists = {"lists": f"{file.record.split}, {first.record.split}"} if across else {}
    return {"path": file.record.path, "of": first.record.path} | lists


def _examples(faults: Iterable[AnnotationFault]) -> Iterable[tuple[str, str]]:
    return ((fault.kind, f"{fault.path}: {fault.detail}" if fault.detail else fault.path) for fault in faults)


def _similar_names(rows: Sequence[IndexRow]) -> list[str]:
    """Warnings about classes whose names differ only in blanks, capitals or normal form."""
    alike: dict[str, set[str]] = {}
    for row in rows:
        for label in (*row.classes, *(box.label for box in row.objects)):
            if label:
                alike.setdefault(" ".join(plain(label).split()), set()).add(label)
    return [
        f"{listed([ascii(label) for label in sorted(labels)])} are different classes, and look alike: did you mean one?"
        for labels in alike.values()
        if len(labels) > 1
    ]
