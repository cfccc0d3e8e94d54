"""index: one line an image in `data/index/<dataset>.jsonl`; what became of every file beside it, in `.json`."""

import hashlib
import importlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from stages import paths
from stages.datasets import images, listing
from stages.datasets.base import Record
from stages.errors import UserError
from stages.features import io
from stages.features.header import BadImage, looks_like_image, size
from stages.params import Params
from stages.stage import run

SPLITS = ("test", "val", "train", None)  # across official splits, the same content stays in the first of these


class Seen(NamedTuple):
    """A file that was read: its sha256 and size in pixels, or why it is no good."""

    record: Record
    sha256: str
    pixels: tuple[int, int] | None
    problem: str | None
    is_image: bool


def main(params: Params) -> dict[str, object]:
    """Reads every file once and puts it into exactly one list: used, duplicate, bad, or no image by its first bytes."""
    folder = images.folder(params.dataset, params.options, params.root)
    module = importlib.import_module(f"stages.datasets.{params.dataset}")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        files = list(pool.map(lambda record: _look(folder, record), module.scan(folder, params.options)))
    rows, duplicates = _unique([file for file in files if file.problem is None], folder)
    bad = [{"path": file.record.path, "reason": file.problem} for file in files if file.is_image and file.problem]
    others = [file.record.path for file in files if not file.is_image]
    _refuse_unusable(rows, bad, params)
    listing.write(paths.index(params.dataset), rows)
    summary = {
        "dataset": params.dataset,
        "root": params.root,
        "options": params.options.model_dump(mode="json"),
        "files": len(files),
        "used": len(rows),
        "duplicates": duplicates,
        "bad": bad,
        "not_images": others,
        "classes": dict(sorted(Counter(row.label for row in rows).items())),
    }
    text = json.dumps(summary, indent=1, ensure_ascii=False) + "\n"
    io.write_bytes(paths.index(params.dataset).with_suffix(".json"), text.encode(errors="backslashreplace"))
    return {
        "images": len(rows),
        "classes": len(summary["classes"]),
        "duplicates": len(duplicates),
        "bad": len(bad),
        "no images": len(others),
    }


def _look(folder: Path, record: Record) -> Seen:
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
        return Seen(record, sha256, size(data), None, True)
    except BadImage as error:
        return Seen(record, sha256, None, str(error), True)


def _unique(files: list[Seen], folder: Path) -> tuple[list[listing.Row], list[dict[str, str]]]:
    """One row a content, in path order; a duplicate is listed with the file that stands for it."""
    first: dict[str, Seen] = {}
    for file in sorted(files, key=lambda file: (SPLITS.index(file.record.split), file.record.path)):
        kept = first.setdefault(file.sha256, file)
        if kept.record.label != file.record.label:
            raise UserError(
                f"One image has two labels: {folder / kept.record.path} is {kept.record.label!r} and "
                f"{folder / file.record.path}, the same file, is {file.record.label!r}. Remove one of them."
            )
    pairs = [(file.record.path, first[file.sha256].record.path) for file in files]
    duplicates = [{"path": path, "of": kept} for path, kept in pairs if path != kept]
    return list(_rows(sorted(first.values(), key=lambda file: file.record.path))), duplicates


def _rows(files: list[Seen]) -> Iterator[listing.Row]:
    for file in files:
        assert file.pixels is not None
        record = file.record
        yield listing.Row(record.path, file.sha256, *file.pixels, record.label, record.objects, record.split)


def _refuse_unusable(rows: list[listing.Row], bad: list[dict[str, str]], params: Params) -> None:
    where = params.root if not images.has_source(params.options) else str(paths.raw(params.dataset))
    if not rows:
        raise UserError(f"No image was found in {where}: expected class/image, in JPEG, PNG, GIF, BMP, TIFF or WebP.")
    classes = {row.label for row in rows}
    if len(classes) < 2:
        raise UserError(f"{where} holds one class ({classes.pop()!r}): a classifier needs two folders or more.")
    if len(bad) > params.bad_images.max_fraction * (len(rows) + len(bad)):
        text = "".join(json.dumps(image) + "\n" for image in bad)
        io.write_bytes(paths.REPORTS / "bad_images.jsonl", text.encode(errors="backslashreplace"))
        raise UserError(
            f"{len(bad)} of {len(rows) + len(bad)} images cannot be read, more than `bad_images.max_fraction` "
            f"({params.bad_images.max_fraction}) allows. The first: {bad[0]['path']}: {bad[0]['reason']}; "
            "reports/bad_images.jsonl has all."
        )


if __name__ == "__main__":
    run("index", main)
