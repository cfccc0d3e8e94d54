"""extract: the frozen trunk runs once over every image; its features go to `cache/features/<dataset>/`."""

import json
import time

from stages import paths
from stages.datasets import images, listing
from stages.errors import UserError
from stages.features import io, views
from stages.features.extraction import Spec, extract, reason
from stages.params import Params
from stages.stage import run


def main(params: Params) -> dict[str, object]:
    """Computes the rows that the store lacks and assembles the feature file; images that fail are listed beside it."""
    spec = Spec(
        folder=images.folder(params.dataset, params.options, params.root),
        backbone=params.backbone,
        weights=params.weights,
        cut=params.cut,
        image_size=params.image_size,
        resize=params.resize,
        precision=params.extract.precision,
        dtype=params.extract.dtype,
        batch_size=params.extract.batch_size,
        device=params.device,
        views=tuple(views.names(params.views, params.augment, params.extract.seed)),
        augment=params.augment,
    )
    rows = listing.read(params.dataset)
    out = paths.features(params.dataset, params.backbone, params.cut)
    started = time.perf_counter()
    computed, undecodable = extract(spec, [(row.path, row.sha256) for row in rows], out)
    seconds = time.perf_counter() - started
    failed = [rows[place] for place in undecodable]
    bad = [{"path": row.path, "reason": reason(spec, (row.path, row.sha256))} for row in failed]
    if len(bad) > params.bad_images.max_fraction * len(rows):
        out.unlink()
        raise UserError(
            f"{len(bad)} of {len(rows)} images cannot be decoded, more than `bad_images.max_fraction` "
            f"({params.bad_images.max_fraction}) allows. The first: {bad[0]['path']}: {bad[0]['reason']}"
        )
    io.write_bytes(out.with_suffix(".bad.json"), (json.dumps(bad, indent=1, ensure_ascii=False) + "\n").encode())
    speed = {"images/s": round(computed / seconds, 1)} if computed else {}
    return {"images": len(rows), "computed": computed, "bad": len(bad), **speed, "bytes": out.stat().st_size}


if __name__ == "__main__":
    run("extract", main)
