"""Unpacking Parquet files with image bytes, in Hugging Face's layout or a plain one, a few rows at a time.

In Hugging Face's layout the column of images is a struct of `bytes` and `path`, and the column of labels has integers,
with the names of the classes in the schema. A plain layout has a binary column for the images, and a column of strings
or integers for the labels; both are recognised by their names.
"""

import json
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from stages import files
from stages.datasets.unpack import UNPACKING, safe_name
from stages.errors import UserError, listed
from stages.images.formats import image_format

ROWS = ".rows/rows.jsonl"  # in a hidden folder, which no reader of datasets enters
BATCH = 64  # rows in memory at a time
IMAGES = ("image", "img", "jpg", "jpeg", "png", "picture", "photo", "bytes")
LABELS = ("label", "labels", "class", "class_name", "cls", "category", "target")
SUFFIXES = {"JPEG": ".jpg", "TIFF": ".tiff", "WebP": ".webp", "PNG": ".png", "GIF": ".gif", "BMP": ".bmp"}
NO_LABELS = (None, -1, "")  # -1 is what Hugging Face's test splits have


class Columns(NamedTuple):
    """Which columns are read.

    Attributes:
        image: the column with the images.
        label: the column with the labels, or None if there is none.
        names: the names of the classes, by number; empty if the labels are strings, or numbers without names.
    """

    image: str
    label: str | None
    names: list[str]


def unpack_parquet(file: Path, destination: Path) -> None:
    """Writes the images of a Parquet file to `destination`, and a list of its rows beside them.

    The name of an image is the path in its row, if there is one that no earlier row has; otherwise it is the number of
    the row. `destination` is renamed into place at the end, so it is either complete or not there at all.

    Raises:
        UserError: pyarrow is not installed, or the file is damaged or has no column of images.
    """
    temporary = destination.with_name(f"{destination.name}.{uuid.uuid4().hex[:8]}{UNPACKING}")
    temporary.mkdir(parents=True)
    try:
        files.write_json_lines(temporary / ROWS, _unpack_rows(file, temporary))
        temporary.rename(destination)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _unpack_rows(file: Path, folder: Path) -> Iterator[dict[str, Any]]:
    """Writes each image; yields its path below the folder, its label, and why there is no image."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise UserError("dataset parquet needs pyarrow: pip install '.[parquet]'.") from None
    names, number = Names(), 0
    try:
        with parquet.ParquetFile(file) as packed:
            columns = find_columns(packed.schema_arrow, file.name)
            read = [name for name in (columns.image, columns.label) if name]
            progress = tqdm(total=packed.metadata.num_rows, desc=file.name, unit=" rows", leave=False, delay=2)
            with progress:
                for batch in packed.iter_batches(BATCH, columns=read):
                    images = batch.column(columns.image).to_pylist()
                    labels = batch.column(columns.label).to_pylist() if columns.label else [None] * len(images)
                    for image, label in zip(images, labels, strict=True):
                        yield _unpack_row(image, folder, names, number) | _label(label, columns.names)
                        number += 1
                    progress.update(len(images))
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"{file.name} is damaged or incomplete ({error}): fetch it again; {number:,} of its rows could be read."
        ) from None


def _unpack_row(image: Any, folder: Path, names: "Names", number: int) -> dict[str, Any]:
    data, named = (image.get("bytes"), image.get("path")) if isinstance(image, Mapping) else (image, None)
    if not data:
        path = names.new(None, f"row-{number:06}")
        return {"path": path, "problem": f"its row holds only a path ({named})" if named else "its row holds no image"}
    kind = image_format(data)
    path = names.new(named, f"row-{number:06}{SUFFIXES.get(kind.name, '') if kind else ''}")
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_bytes(data)
    return {"path": path}


def _label(label: Any, names: list[str]) -> dict[str, Any]:
    """The label of a row as a text, or what is wrong with it."""
    if label in NO_LABELS:
        return {"label": ""}
    if isinstance(label, int) and not isinstance(label, bool) and names:
        inside = 0 <= label < len(names)
        return {"label": names[label]} if inside else {"label": "", "fault": f"label {label} of {len(names)} classes"}
    return {"label": str(label)}


class Names:
    """Names of files that are safe and differ, also where capitals do not count and where one would be a folder."""

    def __init__(self) -> None:
        self._taken, self._folders = set[str](), set[str]()

    def new(self, path: str | None, otherwise: str) -> str:
        """`path` if it is safe and new, else `otherwise`, with as many `_` before it as make it new."""
        name = safe_name(path) if path else None
        while name is None or not self._is_new(name.casefold()):
            name, otherwise = otherwise, f"_{otherwise}"
        self._taken.add(name.casefold())
        self._folders |= _above(name.casefold())
        return name

    def _is_new(self, name: str) -> bool:
        return name not in self._taken and name not in self._folders and not _above(name) & self._taken


def _above(name: str) -> set[str]:
    """The folders that a file lies in."""
    parts = name.split("/")
    return {"/".join(parts[:count]) for count in range(1, len(parts))}


def find_columns(schema: Any, file: str) -> Columns:
    """The columns of images and labels: those that Hugging Face's description of the features names, or by their names.

    Args:
        schema: Arrow's.
        file: its name, for messages.

    Raises:
        UserError: there is no column of images, or the column of labels contains lists.
    """
    import pyarrow as pa

    features = _features(schema)
    kinds = {name: feature.get("_type") for name, feature in features.items() if isinstance(feature, Mapping)}
    types = dict(zip(schema.names, schema.types, strict=True))
    described = [name for name in schema.names if kinds.get(name) == "Image"]
    structs = [name for name, kind in types.items() if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0]
    binary = [name for name in IMAGES if name in types and _is_binary(types[name])]
    if not (images := [*described, *structs, *binary]):
        raise UserError(
            f"{file} has no column of images: found {listed(schema.names)}. Expected a struct of bytes and path, as "
            f"Hugging Face writes it, or a binary column called {IMAGES[0]}."
        )
    label = next(
        (name for name in schema.names if kinds.get(name) == "ClassLabel"),
        next((name for name in LABELS if name in types), None),
    )
    if label and (pa.types.is_list(types[label]) or pa.types.is_large_list(types[label])):
        raise UserError(f"{file}: the column {label} has lists, and dataset parquet takes one label per image.")
    return Columns(images[0], label, list(features.get(label, {}).get("names") or []) if label else [])


def _is_binary(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _features(schema: Any) -> dict[str, Any]:
    """What the metadata of the schema say of the columns, as Hugging Face writes it; empty where they do not."""
    try:
        features: dict[str, Any] = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    return features if isinstance(features, dict) else {}
