"""index: one line an image in `data/index/<dataset>.jsonl`; what became of every file beside it, in `.json`."""

import hashlib
import importlib
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from tqdm import tqdm

from stages import files, paths
from stages.datasets import annotations, index_file, source
from stages.datasets.base import Annotated, Broken, Record, has_source
from stages.errors import UserError
from stages.images.header import BadImage, looks_like_image
from stages.images.loading import inspect
from stages.params import Params
from stages.stage import run

PARTS = ("train", "val", "test")
SPLITS = ("test", "val", "train", None)  # across official splits, the same content stays in the first of these
TOLD = 5  # broken annotations that an error names


class Seen(NamedTuple):
    """A file that was read: its sha256, size in pixels and scaling of its values, or why it is no good."""

    record: Record
    sha256: str
    pixels: tuple[int, int] | None
    problem: str | None
    is_image: bool
    scaling: str | None = None


def main(params: Params) -> dict[str, object]:
    """Reads every file once and puts it into exactly one list: used, duplicate, bad, or no image by its first bytes."""
    folder = source.folder(params.dataset, params.options, params.root)
    module = importlib.import_module(f"stages.datasets.{params.dataset}")
    found = list(module.scan(folder, params.options))
    records = [item for item in found if isinstance(item, Record)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        looked = pool.map(lambda record: _look(folder, record), records)
        seen = list(tqdm(looked, total=len(records), unit=" files", leave=False, delay=2))
    used, duplicates = _unique([file for file in seen if file.problem is None], folder)
    rows, broken = _rows(used)
    broken = [*(item for item in found if isinstance(item, Broken)), *_unread(seen), *broken]
    bad = [{"path": file.record.path, "reason": file.problem} for file in seen if file.is_image and file.problem]
    others = [file.record.path for file in seen if not file.is_image]
    _refuse_broken(broken, params.options)
    _refuse_unusable(rows, bad, params)
    index_file.write(paths.index(params.dataset), rows)
    lists = Counter(row.split for row in rows if row.split)
    summary = {
        "dataset": params.dataset,
        "root": params.root,
        "options": params.options.model_dump(mode="json"),
        "files": len(seen),
        "used": len(rows),
        "duplicates": duplicates,
        "bad": bad,
        "not_images": others,
        "scaled": [{"path": row.path, "scaling": row.scaled} for row in rows if row.scaled],
        "broken_annotations": [asdict(item) for item in broken],
        "classes": dict(sorted(Counter(row.label for row in rows if row.label).items())),
        "lists": {part: lists[part] for part in PARTS if part in lists},
        "objects": annotations.counts(records),
    }
    files.write_json(paths.index(params.dataset).with_suffix(".json"), summary, indent=1, ensure_ascii=False)
    return {
        "images": len(rows),
        **{f"in the {part} list": count for part, count in summary["lists"].items()},
        "classes": len(summary["classes"]),
        "duplicates": len(duplicates),
        "of them across lists": sum("lists" in pair for pair in duplicates),
        "bad": len(bad),
        "no images": len(others),
        **({"with scaled values": len(summary["scaled"])} if summary["scaled"] else {}),
        "broken annotations": len(broken),
    }


def _look(folder: Path, record: Record) -> Seen:
    if ".." in PurePosixPath(record.path).parts or PurePosixPath(record.path).is_absolute():
        return Seen(record, "", None, "it would lie outside of the folder of the images", True)
    try:
        record.path.encode()
        data = (folder / record.path).read_bytes()
    except UnicodeEncodeError:
        return Seen(record, "", None, "its name is not UTF-8", True)
    except OSError as error:
        return Seen(record, "", None, error.strerror or str(error), True)
    sha256 = hashlib.sha256(data).hexdigest()
    if not looks_like_image(data):
        return Seen(record, sha256, None, "not an image", False)
    try:
        width, height, scaling = inspect(data)
        return Seen(record, sha256, (width, height), None, True, scaling)
    except BadImage as error:
        return Seen(record, sha256, None, str(error), True)


def _unique(files: list[Seen], folder: Path) -> tuple[list[Seen], list[dict[str, str]]]:
    """One file a content, in path order; a duplicate is listed with the file that stands for it."""
    first: dict[str, Seen] = {}
    for file in sorted(files, key=lambda file: (SPLITS.index(file.record.split), file.record.path)):
        kept = first.setdefault(file.sha256, file)
        if kept.record.label != file.record.label:
            raise UserError(
                f"One image has two labels: {folder / kept.record.path} is {kept.record.label!r} and "
                f"{folder / file.record.path}, the same file, is {file.record.label!r}. Remove one of them."
            )
    duplicates = [_twin(file.record, first[file.sha256].record) for file in files if first[file.sha256] is not file]
    return sorted(first.values(), key=lambda file: file.record.path), duplicates


def _twin(record: Record, kept: Record) -> dict[str, str]:
    """A duplicate, with the lists it would have leaked between."""
    lists = {"lists": f"{record.split}, {kept.split}"} if record.split != kept.split else {}
    return {"path": record.path, "of": kept.path} | lists


def _rows(files: list[Seen]) -> tuple[list[index_file.IndexRow], list[Broken]]:
    """A row a file, with the objects that lie in its image; what was wrong with the others."""
    rows, broken = list[index_file.IndexRow](), list[Broken]()
    for file in files:
        assert file.pixels is not None
        record = file.record
        objects, wrong = annotations.fit(record, *file.pixels)
        label = annotations.largest(objects) if record.label is None else record.label
        rows.append(
            index_file.IndexRow(record.path, file.sha256, *file.pixels, label, objects, record.split, file.scaling)
        )
        broken += wrong
    return rows, broken


def _unread(files: list[Seen]) -> list[Broken]:
    """Annotated images that are missing or cannot be read."""
    lost = [file for file in files if file.problem and file.record.annotation]
    return [Broken(file.record.annotation, f"{file.record.path}: {file.problem}") for file in lost]


def _refuse_broken(broken: list[Broken], options: object) -> None:
    if broken and isinstance(options, Annotated) and options.strict:
        first = "".join(f"\n  {item.path}: {item.reason}" for item in broken[:TOLD])
        raise UserError(
            f"{len(broken)} annotation(s) are broken; mend them, or set `strict` to false and they are left out and "
            f"listed. The first:{first}"
        )


def _where(params: Params) -> str:
    return str(paths.raw(params.dataset)) if has_source(params.options) else params.root


def _refuse_unusable(rows: list[index_file.IndexRow], bad: list[dict[str, str]], params: Params) -> None:
    where = _where(params)
    if not rows:
        raise UserError(f"No image was found in {where}: expected class/image, in JPEG, PNG, GIF, BMP, TIFF or WebP.")
    classes = {row.label for row in rows}
    if len(classes) < 2 and not any(row.objects for row in rows):
        raise UserError(f"{where} holds one class ({classes.pop()!r}): a classifier needs two folders or more.")
    if len(bad) > params.bad_images.max_fraction * (len(rows) + len(bad)):
        files.write_json_lines(paths.REPORTS / "bad_images.jsonl", bad)
        raise UserError(
            f"{len(bad)} of {len(rows) + len(bad)} images cannot be read, more than `bad_images.max_fraction` "
            f"({params.bad_images.max_fraction}) allows. The first: {bad[0]['path']}: {bad[0]['reason']}; "
            "reports/bad_images.jsonl has all."
        )


if __name__ == "__main__":
    run("index", main, lambda params: f"every file of {_where(params)}, read once")
