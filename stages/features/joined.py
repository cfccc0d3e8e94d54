"""Several backbones as one: their vectors side by side, from the rows that each of them has in the store.

`efficientnet_lite0+efficientnet_lite2` computes nothing that was computed for either before. With several views, a
vector is of one view of an image: a view is the same crop for every backbone, at the input size of each.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stages import files
from stages.features import h5
from stages.features.decoders import ImageRef
from stages.features.extraction import LOCAL, Extracted, Spec, Workers, extract

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
    ((layer, vectors),) = files[0].layers.items()
    rows, views = vectors.shape[:2]
    columns = sum(file.layers[layer].shape[2] for file in files)
    members = h5.layout(rows, views, {layer: ((columns,), vectors.dtype.str[1:])})

    def pieces() -> Iterator[tuple[int, dict[str, h5.Array]]]:
        for first in range(0, rows, BLOCK):
            blocks = [{name: values[first : first + BLOCK] for name, values in file.members.items()} for file in files]
            yield first, join_rows(blocks, layer)

    h5.write(out, members=members, provenance=_provenance([file.provenance for file in files]), pieces=pieces())


def join_rows(per_backbone: Sequence[dict[str, h5.Array]], cut: str) -> dict[str, h5.Array]:
    """The rows of one backbone, with the vectors of all of them side by side in place of its own.

    Args:
        per_backbone: member -> (N, …), as a part file has them.
        cut: the layer of the vectors.
    """
    vectors = h5.LAYER + cut
    return per_backbone[0] | {vectors: np.concatenate([rows[vectors] for rows in per_backbone], -1)}


def _provenance(provenances: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What all of them have in common, and each of them in full under `joined`."""
    first, *others = provenances
    shared = {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}
    summed = {"parameters": sum(provenance["parameters"] for provenance in provenances)}
    names = {key: "+".join(provenance[key] for provenance in provenances) for key in ("backbone", "weights")}
    return shared | summed | names | {"joined": list(provenances)}
