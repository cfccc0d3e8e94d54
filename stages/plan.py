"""What the features of so many images would cost on this machine, before anything is computed.

The speed is measured for some seconds, on images of the current dataset, with the code that `dvc repro` runs; nothing
is written to the store. Sizes are exact.
"""

import argparse
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from itertools import cycle, islice
from typing import NamedTuple

import numpy as np

from stages import command, files, paths
from stages.backbones import cuts, names, zoo
from stages.backbones.untraced import UntracedNetwork
from stages.datasets import index_file, source
from stages.errors import UserError
from stages.extract import spec as specify
from stages.features import forecast, h5
from stages.features.extraction import (
    Extractor,
    ImageRef,
    Spec,
    compute_part,
    compute_parts,
    load_extractor,
    part_images,
    parts_of,
)
from stages.images import views
from stages.images.decode import kept_shape
from stages.params import load, with_overrides
from stages.training import mapped

EXAMPLES = """\
  python -m stages.plan
  python -m stages.plan --images 1000000 --backbone resnet50 --cut map
  python -m stages.plan --images 1e9 --views 6"""
SAMPLE = 4096  # images of the dataset to measure on, spread evenly: reading them again would measure the memory
WARM = 4  # batches


class Measured(NamedTuple):
    """What a short extraction took: seconds to start, images computed after that, and their seconds."""

    start: float
    images: int
    seconds: float

    @property
    def speed(self) -> float:
        """Images a second."""
        return self.images / self.seconds


class Kept(NamedTuple):
    """A choice of what is kept, and the bytes of one image; None of a cut that the backbone does not have."""

    cut: str
    views: int
    dtype: str
    size: int | None


def main(given: argparse.Namespace) -> int:
    """Measures, and prints time, sizes and advice."""
    arguments = {"backbone": given.backbone, "cut": given.cut, "views": given.views, "extract.dtype": given.dtype}
    params = with_overrides(load(), {knob: value for knob, value in arguments.items() if value is not None})
    folder, rows = source.folder(params.dataset, params.options, params.root), index_file.read(params.dataset)
    count = int(given.images or len(rows))
    sample = [rows[place] for place in np.linspace(0, len(rows) - 1, min(SAMPLE, len(rows))).round().astype(int)]
    wanted, seconds = [(row.path, row.sha256) for row in sample], 0.0
    for backbone, weights in names.joined(params.backbone, params.weights):
        one = specify(params, folder, (backbone, weights))
        found = measure(one, wanted, given.seconds)
        seconds += found.start + count / found.speed
        print(said(one, found, count))
    sizes = [(row.width, row.height) for row in rows]
    size = sum(
        _row_bytes(load_extractor(specify(params, folder, named)), sizes) * params.views
        for named in names.joined(params.backbone, params.weights)
    )
    print(f"\n{count:,} images of {params.dataset}: {forecast.duration(seconds)}, {forecast.in_bytes(count * size)}\n")
    for named in names.joined(params.backbone, params.weights):
        print(parts(specify(params, folder, named), count, sizes))
    if "+" not in params.backbone:
        print(table(alternatives(specify(params, folder, (params.backbone, params.weights)), sizes), count))
    print("\n".join(advice(count, count * size, seconds)))
    return 0


def measure(spec: Spec, wanted: Sequence[ImageRef], seconds: float) -> Measured:
    """Computes parts for about so many seconds, after a few batches that warm up and tell how many that will be.

    Args:
        spec: how.
        wanted: images to compute on, again and again if they are few.
        seconds: how long.
    """
    started = time.perf_counter()
    ready, endless = load_extractor(spec), cycle(wanted)
    compute_part(spec, list(islice(endless, spec.batch_size)), spec.views)
    start, warm = time.perf_counter() - started, list(islice(endless, WARM * spec.batch_size))
    compute_part(spec, warm, spec.views)
    guess = len(warm) / (time.perf_counter() - started - start)
    some = list(islice(endless, max(len(warm), round(seconds * guess))))
    began = time.perf_counter()
    with closing(
        compute_parts(spec, parts_of(spec, ready, images=some, missing={spec.views: range(len(some))}))
    ) as parts:
        done = sum(len(part.images) for part, _ in parts)
    return Measured(start, done, time.perf_counter() - began)


def said(spec: Spec, found: Measured, count: int) -> str:
    """What was measured, and what it makes of so many images."""
    about = load_extractor(spec).provenance
    how = f"{about['engine']}, {about['device']}, {about['precision']}" if "engine" in about else "kept as they are"
    several = f" of {len(spec.views)} views" if len(spec.views) > 1 else ""
    measured = f"{found.speed:,.0f} images/s{several}, measured on {found.images:,} in {found.seconds:.0f} s"
    takes = forecast.duration(found.start + count / found.speed)
    return f"{spec.backbone} ({how}): {measured}; {found.start:.1f} s to start. {count:,} take {takes}."


def parts(spec: Spec, count: int, sizes: Sequence[tuple[int, int]]) -> str:
    """In what pieces the work is done, kept and, where it stops, gone on with."""
    ready = load_extractor(spec)
    step = min(count, part_images(ready, len(spec.views)))
    size = forecast.in_bytes(step * len(spec.views) * _row_bytes(ready, sizes))
    return f"{spec.backbone}: in parts of {step:,} images, {size} each: {-(-count // step):,}. A finished one is kept."


def alternatives(spec: Spec, sizes: Sequence[tuple[int, int]]) -> list[Kept]:
    """What could be kept instead: the other cuts, dtypes and numbers of views, one changed at a time."""
    backbone = zoo.load(spec.backbone, "random", spec.image_size)
    network = cuts.load_network(backbone.model, load_extractor(spec).preprocessing.crop, spec.backbone)
    own = len(spec.views)
    choices = [(cut, own, spec.dtype) for cut in dict.fromkeys([spec.cut, *names.CUTS])]
    choices += [(spec.cut, count, spec.dtype) for count in (1, 6) if count != own]
    choices += [(spec.cut, own, dtype) for dtype in ("float16", "float32") if dtype != spec.dtype]
    return [Kept(cut, count, dtype, _size(spec, network, cut, count, dtype, sizes)) for cut, count, dtype in choices]


def _row_bytes(extractor: Extractor, sizes: Sequence[tuple[int, int]]) -> int:
    """Bytes that a view of an image takes; where images are kept, of the dataset's sizes (width, height in pixels)."""
    layers = extractor.layers
    if h5.INPUT in layers:
        layers = {h5.INPUT: (kept_shape(sizes, extractor.preprocessing), "u1")}
    return forecast.view_bytes(layers)


def _size(
    spec: Spec,
    network: cuts.Network | UntracedNetwork,
    cut: str,
    count: int,
    dtype: str,
    sizes: Sequence[tuple[int, int]],
) -> int | None:
    if cut == h5.INPUT:
        return _row_bytes(load_extractor(replace(spec, cut=cut, views=(views.EVALUATION,))), sizes)
    try:
        layers = network.layers(cut)
    except UserError:
        return None
    return count * forecast.view_bytes({name: (place.shape, dtype) for name, place in layers.items()})


def table(kept: Sequence[Kept], count: int) -> str:
    """Bytes of each choice, the current one first."""
    lines = [f"{'cut':10}{'views':>6}  {'dtype':9}{'an image':>12}{'all':>12}"]
    for one in kept:
        dtype = "uint8" if one.cut == h5.INPUT else one.dtype
        if one.size is not None:
            sizes = f"{forecast.in_bytes(one.size):>12}{forecast.in_bytes(count * one.size):>12}"
            lines.append(f"{one.cut:10}{1 if one.cut == h5.INPUT else one.views:>6}  {dtype:9}{sizes}")
    return "\n".join(lines)


def advice(count: int, size: int, seconds: float) -> list[str]:
    """What follows from these numbers on this machine."""
    found, free = list[str](), files.free(paths.store() / files.LOCK)
    if size > free:
        found.append(
            f"The disk has {forecast.in_bytes(free)} free: a smaller cut, float16, or cache/ on another disk (a link)."
        )
    if size > mapped.room():
        found.append(
            f"The features take more than {mapped.SHARE:.0%} of the memory: training reads them from the disk in "
            "shuffled blocks; vectors (cut=pooled) are always held in memory."
        )
    if seconds > forecast.DAY:
        found.append(
            f"In a day: {-(-seconds // forecast.DAY):,.0f} machines like this one, each with its share of the images."
        )
    elif seconds > forecast.HOUR:
        found.append("A run that is stopped goes on from its finished parts: nothing is computed twice.")
    return found


def run() -> None:
    """Reads the arguments and plans."""
    parser = command.parser("plan", description=__doc__, examples=EXAMPLES)
    parser.add_argument("--images", type=float, metavar="N", help="how many (default: those of the dataset)")
    for name in ("backbone", "cut"):
        parser.add_argument(f"--{name}", help="default: that of params.yaml")
    parser.add_argument("--views", type=int, metavar="K", help="default: that of params.yaml")
    parser.add_argument("--dtype", choices=("float16", "float32"), help="default: that of params.yaml")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long to measure (default: 10)")
    command.run(main, parser.parse_args())


if __name__ == "__main__":
    run()
