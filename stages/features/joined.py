"""Several backbones as one: their vectors side by side, from the rows that each of them has in the store.

`efficientnet_lite0+efficientnet_lite2` computes nothing that either computed before.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stages import files
from stages.features import h5
from stages.features.extraction import LOCAL, Image, Spec, Workers, extract

LAYER = "pooled"
BLOCK = 1024  # rows joined at a time


def extract_joined(
    specs: Sequence[Spec], wanted: Sequence[Image], out: Path, workers: Workers = LOCAL
) -> tuple[int, list[int]]:
    """Extracts with each spec in turn and writes the vectors of all of them to `out`.

    Returns:
        How many images had a view computed by any of them, and the positions of the images that cannot be decoded.
    """
    files.remove_leftovers(out)
    single = [out.with_name(f"{out.name}.{number}{files.TEMPORARY}") for number in range(len(specs))]
    try:
        found = [extract(spec, wanted, path, workers) for spec, path in zip(specs, single, strict=True)]
        _join([h5.read(path) for path in single], out)
    finally:
        for path in single:
            path.unlink(missing_ok=True)
    return max(computed for computed, _ in found), found[0][1]


def _join(files: Sequence[h5.Features], out: Path) -> None:
    """Writes one file of the vectors of several; the views' maps are those of the first."""
    rows, views = files[0].layers[LAYER].shape[:2]
    columns = sum(file.layers[LAYER].shape[2] for file in files)
    members = h5.layout(rows, views, {LAYER: ((columns,), files[0].layers[LAYER].dtype.str[1:])})

    def pieces() -> Iterator[tuple[int, dict[str, h5.Array]]]:
        for first in range(0, rows, BLOCK):
            block = {name: values[first : first + BLOCK] for name, values in files[0].members.items()}
            vectors = [file.layers[LAYER][first : first + BLOCK] for file in files]
            yield first, block | {h5.LAYER + LAYER: np.concatenate(vectors, -1)}

    h5.write(out, members=members, provenance=_provenance([file.provenance for file in files]), pieces=pieces())


def _provenance(each: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What all have in common, then each in full under `joined`."""
    shared = {key: value for key, value in each[0].items() if all(other.get(key) == value for other in each)}
    summed = {"parameters": sum(one["parameters"] for one in each)}
    names = {key: "+".join(one[key] for one in each) for key in ("backbone", "weights")}
    return shared | summed | names | {"joined": list(each)}
