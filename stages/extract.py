"""extract: the frozen trunk runs once over every image; its features go to `cache/features/<dataset>/`."""

import time
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from stages import files, paths
from stages.backbones import names
from stages.datasets import index_file, source
from stages.errors import UserError
from stages.features import watchdog
from stages.features.options import Extract
from stages.params import Params
from stages.stage import run

if TYPE_CHECKING:  # torch is imported in the process that works, not in the one that watches over it
    from stages.features.extraction import Spec, Workers


def main(params: Params) -> dict[str, object]:
    """Computes the rows that the store lacks and assembles the feature file; images that fail are listed beside it."""
    from stages.features.extraction import extract, reason
    from stages.features.joined import extract_joined

    folder = source.folder(params.dataset, params.options, params.root)
    rows = index_file.read(params.dataset)
    scaled = any(row.scaled for row in rows)
    networks = names.joined(params.backbone, params.weights)
    specs = [spec(params, folder, *network, scaled=scaled) for network in networks]
    wanted = [(row.path, row.sha256) for row in rows]
    out = paths.features(params.dataset, params.backbone, params.cut)
    started = time.perf_counter()
    with workers(params.extract) as many:
        found = extract_joined(specs, wanted, out, many) if len(specs) > 1 else extract(specs[0], wanted, out, many)
    (computed, undecodable), seconds = found, time.perf_counter() - started
    bad = [{"path": rows[place].path, "reason": reason(specs[0], wanted[place])} for place in undecodable]
    if len(bad) > params.bad_images.max_fraction * len(rows):
        out.unlink()
        raise UserError(
            f"{len(bad)} of {len(rows)} images cannot be decoded, more than `bad_images.max_fraction` "
            f"({params.bad_images.max_fraction}) allows. The first: {bad[0]['path']}: {bad[0]['reason']}"
        )
    files.write_json(out.with_suffix(".bad.json"), bad, indent=1, ensure_ascii=False)
    speed = {"images/s": round(computed / seconds, 1)} if computed else {}
    speed |= {"views": params.views} if params.views > 1 else {}
    return {"images": len(rows), "computed": computed, "bad": len(bad), **speed, "bytes": out.stat().st_size}


def workers(how: Extract) -> AbstractContextManager["Workers"]:
    """Who computes: this process, or Ray's workers, and only then is Ray imported.

    Raises:
        UserError: Ray is not installed.
    """
    if how.cluster == "none":
        from stages.features.extraction import LOCAL

        return nullcontext(LOCAL)
    if not find_spec("ray"):
        raise UserError(f"`extract.cluster`: {how.cluster} needs Ray: pip install '.[ray]', or take none.")
    from stages.features import cluster

    return cluster.connected(how.cluster, cpus=how.cluster_cpus, gpus=how.cluster_gpus)


def spec(params: Params, folder: Path, backbone: str, weights: str, *, scaled: bool = False) -> "Spec":
    """How the images of a folder go through a backbone, as params have it.

    Args:
        params: all of them.
        folder: below which the images lie.
        backbone: its name.
        weights: their name.
        scaled: whether the values of some images are scaled.
    """
    from stages.features.extraction import Spec
    from stages.images import views

    return Spec(
        folder=folder,
        backbone=backbone,
        weights=weights,
        cut=params.cut,
        image_size=params.image_size,
        resize=params.resize,
        precision=params.extract.precision,
        dtype=params.extract.dtype,
        batch_size=params.extract.batch_size,
        device=params.device,
        views=tuple(views.names(params.views, params.augment, params.extract.seed)),
        augment=params.augment,
        engine=params.extract.engine,
        scaled=scaled,
    )


if __name__ == "__main__":
    watchdog.start()
    run("extract", main)
