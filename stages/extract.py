"""extract: runs the frozen trunk once over every image, and writes the features to `cache/features/<dataset>/`."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from stages import files, paths
from stages.backbones import names
from stages.datasets import index_file, source
from stages.errors import UserError
from stages.features import input_size, watchdog
from stages.features.options import Extract
from stages.params import Params, with_overrides
from stages.stage import run

if TYPE_CHECKING:  # torch is imported in the process that works, not in the one that watches over it
    from stages.features.extraction import Spec, Workers


def main(params: Params) -> dict[str, object]:
    """Computes the rows that the store lacks and assembles the feature file; images that fail are listed beside it."""
    from stages.features.extraction import decoding_error, extract
    from stages.features.joined import extract_joined

    folder = source.folder(params.dataset, params.options, params.root)
    rows = index_file.read(params.dataset)
    params, about_size = sized(params, rows)
    if about_size:
        print(about_size, flush=True)
    scaled = any(row.scaled for row in rows)
    networks = names.joined(params.backbone, params.weights)
    specs = [spec(params, folder, network, scaled=scaled) for network in networks]
    images = [(row.path, row.sha256) for row in rows]
    out = paths.features(params.dataset, params.backbone, params.cut)
    with connect_workers(params.extract) as workers:
        if len(specs) > 1:
            result = extract_joined(specs, images, out, workers=workers)
        else:
            result = extract(specs[0], images, out, workers=workers)
    bad = [{"path": rows[i].path, "reason": decoding_error(specs[0], images[i])} for i in result.bad]
    if len(bad) > params.bad_images.limit(len(rows)):
        out.unlink()
        files.write_json_lines(paths.REPORTS / "bad_images.jsonl", bad)
        raise UserError(params.bad_images.refusal(bad, images=len(rows), verb="decoded"))
    files.write_json(out.with_suffix(".bad.json"), bad, indent=1, ensure_ascii=False)
    unit = "views/s" if params.views > 1 else "images/s"
    speed = {unit: round(result.speed, 1)} if result.speed else {}
    return {"images": len(rows), "computed": result.computed, "bad": len(bad), **speed, "bytes": out.stat().st_size}


def sized(params: Params, rows: Sequence[index_file.IndexRow]) -> tuple[Params, str]:
    """Params with a number in place of `image_size: objects`, and a sentence that says why; empty for other values.

    Raises:
        UserError: there is no object.
    """
    if params.image_size != "objects":
        return params, ""
    size, sentence = input_size.choose(rows)
    return with_overrides(params, {"image_size": size}), sentence


def connect_workers(options: Extract) -> AbstractContextManager["Workers"]:
    """Where rows are computed: in this process, or by Ray's workers, and only then Ray is imported.

    Raises:
        UserError: Ray is not installed.
    """
    if options.cluster == "none":
        from stages.features.extraction import LOCAL

        return nullcontext(LOCAL)
    if not find_spec("ray"):
        raise UserError(f"`extract.cluster`: {options.cluster} needs Ray: pip install '.[ray]', or take none.")
    from stages.features import cluster

    return cluster.connected(options.cluster, cpus=options.cluster_cpus, gpus=options.cluster_gpus)


def spec(params: Params, folder: Path, network: tuple[str, str], *, scaled: bool = False) -> "Spec":
    """How the images of a folder go through a backbone, as params have it.

    Args:
        params: all of them.
        folder: below which the images lie.
        network: names of the backbone and of its weights.
        scaled: whether the values of some images are scaled.
    """
    from stages.features.extraction import Spec
    from stages.images import views

    return Spec(
        folder=folder,
        backbone=network[0],
        weights=network[1],
        cut=params.cut,
        image_size=params.input_size,
        resize=params.resize,
        precision=params.extract.precision,
        dtype=params.extract.dtype,
        batch_size=params.extract.batch_size,
        device=params.device,
        views=tuple(views.names(params.views, params.augment, params.extract.seed)),
        augment=params.augment,
        engine=params.extract.engine,
        scaled=scaled,
        compile=params.extract.compile,
        decoder=params.extract.decoder,
    )


if __name__ == "__main__":
    watchdog.start()
    run("extract", main)
