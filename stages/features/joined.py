"""Several backbones as one: their vectors side by side, from the rows that each of them has in the store.

`efficientnet_lite0+efficientnet_lite2` computes nothing that was computed for either before.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stages import files
from stages.features import h5
from stages.features.extraction import LOCAL, Extracted, ImageRef, Spec, Workers, extract

LAYER = "pooled"
BLOCK = 1024  # rows joined at a time


def extract_joined(
    specs: Sequence[Spec], images: Sequence[ImageRef], out: Path, *, workers: Workers = LOCAL
) -> Extracted:
    """Extracts with each spec in turn and writes the vectors of all of them to `out`; arguments as for `extract`.

    Returns:
        What `extract` returns; `computed` is the largest count of any backbone, `speed` that of the slowest.
    """
    files.remove_leftovers(out)
    single = [out.with_name(f"{out.name}.{number}{files.TEMPORARY}") for number in range(len(specs))]
    try:
        results = [extract(spec, images, path, workers=workers) for spec, path in zip(specs, single, strict=True)]
        _join([h5.read(path) for path in single], out)
    finally:
        for path in single:
            path.unlink(missing_ok=True)
    speeds = [result.speed for result in results if result.speed]
    return Extracted(max(result.computed for result in results), results[0].bad, min(speeds, default=None))


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


def _provenance(provenances: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What all of them have in common, and each of them in full under `joined`."""
    first, *others = provenances
    shared = {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}
    summed = {"parameters": sum(provenance["parameters"] for provenance in provenances)}
    names = {key: "+".join(provenance[key] for provenance in provenances) for key in ("backbone", "weights")}
    return shared | summed | names | {"joined": list(provenances)}
