"""`parquet`: Parquet files with image bytes below the flat, absolute parameter `root`, as Hugging Face stores them.

Each file is a shard; those called `train-…`, `validation-…`, `test-…`, or in folders of these names, are lists. A row
has an image and a label, see `unpack_parquet`. The files are only read, never written.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stages.datasets import shards
from stages.datasets.base import AnnotationFault, DatasetOptions, Item, Record, UnusedFile
from stages.datasets.unpack_parquet import ROWS
from stages.results import read_text


class Options(DatasetOptions):
    """The block `datasets.parquet`."""

    has_objects = False
    shard_suffixes = (".parquet",)


def scan(folder: Path, options: Options) -> Iterator[Item]:
    """One record per row, shard by shard; a row without a label is told, not used."""
    names = shards.shard_names(folder)
    split_of = shards.splits(names)
    for name in names:
        for row in read_text(folder / name / ROWS, _rows):
            yield from _items(row, name, split_of[name])


def _items(row: dict[str, Any], shard: str, split: str | None) -> Iterator[Item]:
    path, annotation = f"{shard}/{row['path']}", f"{shard}.parquet"
    if fault := row.get("fault"):
        yield AnnotationFault(annotation, "the label has no name", f"{path}: {fault}")
    if row["label"]:
        yield Record(path, row["label"], (), split, annotation, problem=row.get("problem", ""))
    else:
        yield UnusedFile(path, "its row has no label")


def _rows(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.split("\n") if line]
