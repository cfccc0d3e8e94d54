"""Features as a Parquet file, for DuckDB, Lance and vector databases: one row per image, written a few at a time."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stages import files
from stages.datasets.index_file import IndexRow, is_multilabel
from stages.errors import UserError
from stages.features.h5 import Features

GROUP = 8192  # rows of a group, which are in memory at a time
PROVENANCE = b"coldcut"  # key in the metadata of the schema


def write(path: Path, features: Features, rows: Sequence[IndexRow], split_of: Mapping[str, str]) -> int:
    """Writes `path`, `sha256`, `label`, `split` and `vector` of each image; the file appears whole or not at all.

    `vector` is a fixed-size list of float32, the evaluation view. `label` is null where there is none; where images
    have several labels the column is `labels`, a list. The schema's metadata hold the provenance. Images that could not
    be decoded are left out.

    Args:
        path: of the file; an old one is replaced.
        features: of all rows, in their order.
        rows: of the index.
        split_of: sha256 -> split.

    Returns:
        How many rows were written.

    Raises:
        UserError: pyarrow is not installed, or the features are not vectors.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise UserError("Writing Parquet needs pyarrow: pip install '.[parquet]'.") from None
    (layer, *others) = features.layers.values()
    if others or layer.ndim != 3:
        shapes = ", ".join(str(array.shape[2:]) for array in features.layers.values())
        raise UserError(f"The features have shape {shapes}, and only vectors can be written: take cut=pooled.")
    several = is_multilabel(rows)
    schema = _schema(layer.shape[2], features.provenance, several=several)
    decoded = np.flatnonzero(features.ok)
    temporary = files.temp_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with parquet.ParquetWriter(temporary, schema) as writer:
            for first in range(0, len(decoded), GROUP):
                positions = decoded[first : first + GROUP]
                images = [rows[position] for position in positions.tolist()]
                vectors = layer[positions, 0].astype(np.float32)
                columns: list[Any] = [
                    [image.path for image in images],
                    [image.sha256 for image in images],
                    [image.classes if several else image.label or None for image in images],
                    [split_of.get(image.sha256) for image in images],
                    pa.FixedSizeListArray.from_arrays(vectors.reshape(-1), layer.shape[2]),
                ]
                writer.write_table(pa.table(columns, schema=schema))
        files.commit(temporary, path)
    except OSError as error:
        raise files.Unwritable(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        files.discard(temporary)
    return len(decoded)


def _schema(width: int, provenance: Mapping[str, Any], *, several: bool) -> Any:
    """The columns, and the provenance of the features.

    Args:
        width: of the vectors.
        provenance: of the features.
        several: whether images have several labels.
    """
    import pyarrow as pa

    columns = [
        pa.field("path", pa.string()),
        pa.field("sha256", pa.string()),
        pa.field("labels", pa.list_(pa.string())) if several else pa.field("label", pa.string()),
        pa.field("split", pa.string()),
        pa.field("vector", pa.list_(pa.float32(), width)),
    ]
    return pa.schema(columns, metadata={PROVENANCE: json.dumps(provenance, sort_keys=True)})
