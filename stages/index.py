"""index: writes one line per image to `data/index/<dataset>.jsonl`, and lists unused files in `.json` beside it."""

import importlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from stages import files, paths
from stages.datasets import annotations, contents, corrections, index_file, multilabel, source, tree
from stages.datasets.annotations import Objects
from stages.datasets.base import AnnotationFault, DatasetOptions, Item, Note, Record, UnusedFile, has_source, natural
from stages.datasets.contents import DatasetFile
from stages.datasets.reasons import commonest
from stages.datasets.summary import IndexSummary, copies
from stages.datasets.tree import matches
from stages.errors import UserError, counted, listed, nearest
from stages.params import Params
from stages.stage import run

LISTED = 5  # faults that an error lists


def main(params: Params) -> dict[str, object]:
    """Reads every file once, puts it into exactly one list, and reports what is not used."""
    folder = source.folder(params.dataset, params.options, params.root)
    module = importlib.import_module(f"stages.datasets.{params.dataset}")
    exclude, strict = _choices(params)
    items = [*_links(params), *module.scan(folder, params.options)]
    items = _without_excluded(items, exclude, params.dataset)
    items, several = multilabel.read_as(items, params.task)
    decided = corrections.read(params.dataset)
    items = corrections.apply(items, decided, params.dataset)
    images = contents.read(folder, (item for item in items if isinstance(item, Record)))
    objects = [annotations.fit(file.record, _size(file), file.orientation) for file in images.used]
    rows = [_row(file, fitted, several) for file, fitted in zip(images.used, objects, strict=True)]
    faults = [
        *(item for item in items if isinstance(item, AnnotationFault)),
        *_unread(images.bad + images.not_images),
        *(fault for fitted in objects for fault in fitted.faults),
    ]
    summary = IndexSummary(items, images, rows, objects, faults, folder)
    if strict:
        _refuse_faults(faults, images.conflicts, f"datasets.{params.dataset}.strict=false")
    _refuse_unusable(summary, params)
    index_file.write(paths.index(params.dataset), rows)
    described = {
        "dataset": params.dataset,
        "root": params.root,
        "options": params.options.model_dump(mode="json"),
        **({"task": params.task} if several else {}),
        **summary.values(),
    }
    if decided:
        described["corrections"] = [correction._asdict() for correction in decided]
    files.write_json(paths.index(params.dataset).with_suffix(".json"), described, indent=1, ensure_ascii=False)
    for line in summary.console_lines():
        print(f"index: {line}".encode(errors="backslashreplace").decode(), flush=True)
    return summary.counts()


def _links(params: Params) -> list[Note]:
    """A note about linked folders below `root`, in which DVC does not see changes."""
    links = [] if has_source(params.options) else tree.read(Path(params.root).expanduser()).links
    text = (
        f"{listed(links)} {'is a link' if len(links) == 1 else 'are links'} to another folder, where DVC does not see "
        "changes: after one, run `dvc repro -f -s index`, then `dvc repro`"
    )
    return [Note(text, warning=True)] if links else []


def _choices(params: Params) -> tuple[list[str], bool]:
    """The patterns to leave out, and whether faults stop the run."""
    options = params.options
    return (options.exclude, options.strict) if isinstance(options, DatasetOptions) else ([], False)


def _without_excluded(items: Sequence[Item], exclude: Sequence[str], dataset: str) -> list[Item]:
    """The items without the classes and files that `exclude` names.

    Raises:
        UserError: a pattern names nothing.
    """
    if not exclude:
        return list(items)
    remaining, names = list[Item](), set[str]()
    for item in items:
        if isinstance(item, UnusedFile):
            names.add(item.path)
        if isinstance(item, Record):
            listed_labels = item.labels or ()
            labels = {label for label in (item.label, *listed_labels, *(box.label for box in item.objects)) if label}
            names |= {item.path, *labels}
            if any(matches(pattern, name) for pattern in exclude for name in (item.path, item.label or "")):
                remaining.append(UnusedFile(item.path, "`exclude` names it", len(item.objects)))
                continue
            objects = [box for box in item.objects if not any(matches(pattern, box.label) for pattern in exclude)]
            item = replace(item, objects=tuple(objects), excluded=len(item.objects) - len(objects))
            if item.labels is not None:
                item = replace(item, labels=_others(item.labels, exclude),
                               unknown_labels=_others(item.unknown_labels, exclude))  # fmt: skip
        remaining.append(item)
    for pattern in exclude:
        if not any(matches(pattern, name) for name in names):
            classes = sorted(name for name in names if "/" not in name)
            raise UserError(
                f"`datasets.{dataset}.exclude`: {pattern!r} matches no class and no file; {nearest(pattern, classes)}"
            )
    return remaining


def _others(labels: Sequence[str], exclude: Sequence[str]) -> tuple[str, ...]:
    """The labels that no pattern names."""
    return tuple(label for label in labels if not any(matches(pattern, label) for pattern in exclude))


def _size(file: DatasetFile) -> tuple[int, int]:
    assert file.size is not None
    return file.size


def _row(file: DatasetFile, fitted: Objects, several: bool) -> index_file.IndexRow:
    """The line of an image, with the objects that lie in it, and with all of its classes if images have several."""
    label = annotations.largest(fitted.boxes) if file.record.label is None else file.record.label
    present, unknown = file.record.labels, file.record.unknown_labels
    if several:
        label, (present, unknown) = "", (present, unknown) if present is not None else multilabel.of_objects(fitted)
    return index_file.IndexRow(
        file.record.path,
        file.sha256,
        *_size(file),
        label,
        fitted.boxes,
        file.record.split,
        file.scaling,
        file.record.group,
        None if present is None else tuple(sorted(present, key=natural)),
        tuple(sorted(unknown, key=natural)),
    )


def _unread(unusable: Sequence[DatasetFile]) -> list[AnnotationFault]:
    """Annotated images that are missing or cannot be read."""
    lost = [file for file in unusable if file.record.annotation]
    return [
        AnnotationFault(file.record.annotation, file.problem, file.record.path, len(file.record.objects))
        for file in lost
    ]


def _refuse_faults(
    faults: Sequence[AnnotationFault], conflicts: Sequence[Sequence[DatasetFile]], otherwise: str
) -> None:
    if conflicts:
        pairs = "".join(f"\n  {copies(same)}" for same in conflicts)
        raise UserError(
            f"{counted(len(conflicts), 'images are')} in several classes. Remove the wrong copies, or set "
            f"{otherwise} to leave all copies out:{pairs}"
        )
    if faults:
        first = "".join(f"\n  {fault.path}: {fault.reason}" for fault in faults[:LISTED])
        raise UserError(
            f"{counted(len(faults), 'annotations are')} broken: "
            f"{commonest((fault.kind, fault.path) for fault in faults)}. Fix them, or "
            f"set {otherwise} to leave them out and list them. The first ones:{first}"
        )


def _where(params: Params) -> str:
    return str(paths.raw(params.dataset)) if has_source(params.options) else params.root


def _refuse_unusable(summary: IndexSummary, params: Params) -> None:
    where, rows = _where(params), summary.rows
    reasons = summary.reasons()
    why = f" Of {counted(summary.files, 'files')}: {reasons}." if reasons else ""
    if not rows:
        why = why or (f" {'; '.join(summary.notes())}." if summary.notes() else "")
        expected = f"what dataset {params.dataset} reads"
        if params.dataset == "folder":
            expected = "one folder of images for each class"
            if summary.files and not any(entry.is_dir() for entry in Path(params.root).expanduser().iterdir()):
                expected += f"; if {where} is one of the classes, give the folder above it: root={Path(where).parent}"
        raise UserError(
            f"No image was found in {where} that can be used.{why} Expected {expected}. docs/data.md lists the formats."
        )
    classes, unlabelled = (
        {label for row in rows for label in row.classes},
        any(record.label == "" for record in summary.records),
    )
    has_objects, several = any(row.objects for row in rows), index_file.is_multilabel(rows)
    if not has_objects and summary.annotated:
        raise UserError(
            f"None of {counted(summary.annotated, 'objects')} of {where} can be used: {summary.dropped_reasons()}."
        )
    if several and not classes:
        raise UserError(f"No image of {where} has any label, so there is nothing to learn.{why}")
    if len(classes) < 2 and not several and not has_objects and not unlabelled:
        lost = f" Without a single image: {listed(summary.lost())}." if summary.lost() else ""
        held = f"one class ({min(classes)!r})" if classes else "no object and no class"
        needed = "two folders" if params.dataset == "folder" else "two classes, and a detector boxes of one"
        raise UserError(f"{where} holds {held}: a classifier needs {needed} or more.{lost}{why}")
    bad = summary.bad()
    if len(bad) > params.bad_images.limit(len(rows) + len(bad)):
        files.write_json_lines(paths.REPORTS / "bad_images.jsonl", bad)
        raise UserError(params.bad_images.refusal(bad, images=len(rows) + len(bad), verb="read"))


if __name__ == "__main__":
    run("index", main, announce=lambda params: f"every file of {_where(params)}, read once")
