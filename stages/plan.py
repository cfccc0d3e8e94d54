"""Estimates the time and the disk space for the features on this machine, before they are computed.

The speed is measured for a few seconds on images of the current dataset, with the code that `dvc repro` runs; nothing
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
from stages.backbones import cuts, encoders, names, zoo
from stages.backbones.untraced import UntracedNetwork
from stages.datasets import index_file, source
from stages.errors import UserError, counted
from stages.extract import sized
from stages.extract import spec as specify
from stages.features import forecast, h5
from stages.features.decoders import ImageRef
from stages.features.extraction import (
    Extractor,
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
  python -m stages.plan --list
  python -m stages.plan --images 1000000 --backbone resnet50 --cut map
  python -m stages.plan --images 1e9 --views 6"""
SAMPLE = 4096  # images to measure on, spread evenly over the dataset; many, because repeated ones come from memory
WARM_UP = 32  # images
COPIES = 2  # of the features on the disk before an extraction ends: the file, and the parts that it is assembled from
# How a name begins -> the encoder that is measured; others of this kind take as much longer as they have multiply-adds
KINDS = {
    ("timm:vit",): "timm:vit_small_patch16_224.dino",
    ("squeezenet", "mobilenet", "efficientnet"): "efficientnet_lite0",
    ("",): "resnet18",
}


class Measurement(NamedTuple):
    """A short extraction: the seconds to start, the images computed after that, and the seconds they took."""

    start: float
    images: int
    seconds: float

    @property
    def speed(self) -> float:
        """Images per second."""
        return self.images / self.seconds


class Choice(NamedTuple):
    """A way to keep features, and its bytes per image; None if the backbone does not have the cut."""

    cut: str
    views: int
    dtype: str
    size: int | None


def main(options: argparse.Namespace) -> int:
    """Measures, and prints time, sizes and advice."""
    knobs = {"backbone": options.backbone, "cut": options.cut, "views": options.views, "extract.dtype": options.dtype}
    params = with_overrides(load(), {knob: value for knob, value in knobs.items() if value is not None})
    folder, rows = source.folder(params.dataset, params.options, params.root), index_file.read(params.dataset)
    params, about_size = sized(params, rows)
    count = int(options.images or len(rows))
    spread = np.linspace(0, len(rows) - 1, min(SAMPLE, len(rows))).round().astype(int)
    sample = [(rows[i].path, rows[i].sha256) for i in spread]
    image_sizes = [(row.width, row.height) for row in rows]
    if about_size:
        print(about_size)
    if options.list:
        spec = specify(params, folder, (params.backbone, "random"))
        print(encoders_table(spec, sample, count=count, seconds=options.seconds))
        return 0
    specs = [specify(params, folder, network) for network in names.joined(params.backbone, params.weights)]
    seconds = 0.0
    for spec in specs:
        measurement = measure(spec, sample, options.seconds)
        seconds += measurement.start + count / measurement.speed
        print(speed_sentence(spec, measurement, count))
    size = sum(_row_bytes(load_extractor(spec), image_sizes) * params.views for spec in specs)
    print(
        f"\n{counted(count, 'images')} of {params.dataset}: {forecast.duration(seconds)}, "
        f"{forecast.in_bytes(count * size)}\n"
    )
    for spec in specs:
        print(parts_sentence(spec, count, image_sizes))
    if len(specs) == 1:
        print(table(alternatives(specs[0], image_sizes), count))
    print("\n".join(advice(count, count * size, seconds)))
    return 0


def measure(spec: Spec, images: Sequence[ImageRef], seconds: float) -> Measurement:
    """Computes parts for some seconds. A few batches before that warm up and tell how many images it will be.

    Args:
        spec: of the extraction.
        images: to compute on, repeatedly if they are few.
        seconds: about how long.
    """
    started = time.perf_counter()
    extractor, endless = load_extractor(spec), cycle(images)
    compute_part(spec, list(islice(endless, WARM_UP)), spec.views)
    start, warm_up = time.perf_counter() - started, list(islice(endless, 4 * WARM_UP))
    compute_part(spec, warm_up, spec.views)
    guess = len(warm_up) / (time.perf_counter() - started - start)
    measured = list(islice(endless, max(len(warm_up), round(seconds * guess))))
    measuring = time.perf_counter()
    missing = {spec.views: range(len(measured))}
    with closing(compute_parts(spec, parts_of(spec, extractor, images=measured, missing=missing))) as parts:
        count = sum(len(part.images) for part, _ in parts)
    return Measurement(start, count, time.perf_counter() - measuring)


def encoders_table(spec: Spec, images: Sequence[ImageRef], *, count: int, seconds: float) -> str:
    """What each encoder of `stages.backbone --list` would take here: one of each kind is measured, with random weights.

    Args:
        spec: of the extraction; its backbone, cut and views do not matter.
        images: to measure on.
        count: of images.
        seconds: about how long to measure, all together.
    """
    speeds = dict[str, float]()
    for name in KINDS.values():
        measured = replace(
            spec, backbone=name, cut="pooled", image_size="auto", views=(views.EVALUATION,), weights="random"
        )
        speeds[name] = measure(measured, images, seconds / len(KINDS)).speed
        load_extractor.cache_clear()  # its network
    operations = {encoder.name: encoder.multiply_adds for encoder in encoders.ENCODERS}
    width = max(map(len, operations)) + 2
    lines = [f"{'backbone':{width}}{'pixels':>6}{'top-1':>7}{'images/s':>10}   {count:,} images"]
    for encoder in encoders.ENCODERS:
        like = next(name for starts, name in KINDS.items() if encoder.name.startswith(starts))
        speed = speeds[like] * operations[like] / encoder.multiply_adds
        lines.append(
            f"{encoder.name:{width}}{encoder.size:>6}{encoder.accuracy:>7.1f}{speed:>10,.3g}   "
            f"{forecast.duration(count / speed)}{' (measured)' if encoder.name in speeds else ''}"
        )
    return "\n".join(
        [*lines, "", "One of each kind was measured; the others follow from their multiply-adds: roughly."]
    )


def speed_sentence(spec: Spec, measurement: Measurement, count: int) -> str:
    """What was measured, and how long so many images would take.

    Args:
        spec: of the extraction.
        measurement: of its speed.
        count: of images.
    """
    provenance = load_extractor(spec).provenance
    keys = ("engine", "device", "precision")
    engine = ", ".join(str(provenance[key]) for key in keys) if "engine" in provenance else "kept as they are"
    views = f" of {len(spec.views)} views" if len(spec.views) > 1 else ""
    measured = f"{measurement.images:,} in {measurement.seconds:.0f} s"
    duration = forecast.duration(measurement.start + count / measurement.speed)
    return (
        f"{spec.backbone} ({engine}): {measurement.speed:,.0f} images/s{views}, measured on {measured}; "
        f"{measurement.start:.1f} s to start. {counted(count, 'images take')} {duration}."
    )


def parts_sentence(spec: Spec, count: int, image_sizes: Sequence[tuple[int, int]]) -> str:
    """In how many parts the work is done and stored: a run that was stopped goes on with the next part.

    Args:
        spec: of the extraction.
        count: of images.
        image_sizes: width and height in pixels of the dataset's images.
    """
    extractor = load_extractor(spec)
    images = min(count, part_images(extractor, len(spec.views)))
    size = forecast.in_bytes(images * len(spec.views) * _row_bytes(extractor, image_sizes))
    parts = f"{counted(-(-count // images), 'parts')} of {counted(images, 'images')}, {size} each"
    return f"{spec.backbone}: {parts}. A finished part is kept."


def alternatives(spec: Spec, sizes: Sequence[tuple[int, int]]) -> list[Choice]:
    """The current choice, and others with another cut, dtype or number of views, one changed at a time."""
    backbone = zoo.load(spec.backbone, "random", spec.image_size)
    network = cuts.load_network(backbone.model, load_extractor(spec).preprocessing.crop, spec.backbone)
    own = len(spec.views)
    choices = [(cut, own, spec.dtype) for cut in dict.fromkeys([spec.cut, *names.CUTS])]
    choices += [(spec.cut, count, spec.dtype) for count in (1, 6) if count != own]
    choices += [(spec.cut, own, dtype) for dtype in ("float16", "float32") if dtype != spec.dtype]
    return [Choice(cut, count, dtype, _size(spec, network, cut, count, dtype, sizes)) for cut, count, dtype in choices]


def _row_bytes(extractor: Extractor, sizes: Sequence[tuple[int, int]]) -> int:
    """Bytes per view of an image.

    Args:
        extractor: whose layers are stored.
        sizes: width and height in pixels of the dataset's images, on which the size depends if images are stored.
    """
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
    return count * forecast.view_bytes({name: (layer.shape, dtype) for name, layer in layers.items()})


def table(choices: Sequence[Choice], count: int) -> str:
    """Bytes of each choice, the current one first."""
    lines = [f"{'cut':10}{'views':>6}  {'dtype':9}{'per image':>12}{'all':>12}"]
    for choice in choices:
        dtype = "uint8" if choice.cut == h5.INPUT else choice.dtype
        if choice.size is not None:
            sizes = f"{forecast.in_bytes(choice.size):>12}{forecast.in_bytes(count * choice.size):>12}"
            lines.append(f"{choice.cut:10}{1 if choice.cut == h5.INPUT else choice.views:>6}  {dtype:9}{sizes}")
    return "\n".join(lines)


def advice(count: int, size: int, seconds: float) -> list[str]:
    """What these numbers mean on this machine.

    Args:
        count: images.
        size: bytes of their features.
        seconds: to compute them.
    """
    sentences, free = list[str](), files.free(paths.store() / files.LOCK)
    if COPIES * size > free:
        sentences.append(
            f"The disk has {forecast.in_bytes(free)} free, and {forecast.in_bytes(COPIES * size)} are needed during the"
            " run, for the file and its parts: take a smaller cut or float16, or link cache/ elsewhere."
        )
    if size > mapped.room():
        sentences.append(
            f"The features take more than {mapped.SHARE:.0%} of the memory: training reads them from the disk in "
            "shuffled blocks."
        )
    if seconds > forecast.DAY:
        sentences.append(
            f"In a day: {-(-seconds // forecast.DAY):,.0f} machines like this one, each with its share of the images."
        )
    elif seconds > forecast.HOUR:
        sentences.append("A run that is stopped goes on from its finished parts: nothing is computed twice.")
    return sentences


def run() -> None:
    """Reads the arguments and plans."""
    parser = command.parser("plan", description=__doc__, examples=EXAMPLES)
    parser.add_argument(
        "--list", action="store_true", help="estimate the time for each encoder in `stages.backbone --list`"
    )
    parser.add_argument("--images", type=float, metavar="N", help="number of images (default: those of the dataset)")
    for name in ("backbone", "cut"):
        parser.add_argument(f"--{name}", help="default: the one in params.yaml")
    parser.add_argument("--views", type=int, metavar="K", help="default: the number in params.yaml")
    parser.add_argument("--dtype", choices=("float16", "float32"), help="default: the one in params.yaml")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long to measure (default: 10)")
    command.run(main, parser.parse_args())


if __name__ == "__main__":
    run()
