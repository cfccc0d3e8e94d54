"""Extraction: which rows are missing, compute them part by part, assemble the file.

The unit of work is a part: `compute_part(spec, images, views)` is pure and idempotent, so the same
function serves a loop in this process and many machines (`cluster`). Two parts are computed at a time, and so the
engine never waits for one to end.
"""

import sys
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from tqdm import tqdm

from stages import files
from stages.backbones import trunk, vino, zoo
from stages.backbones.device import pick_device
from stages.backbones.engine import Engine, TorchEngine, callers, images_at_once, pick_engine, pick_precision
from stages.backbones.trunk import TrunkInfo
from stages.datasets import source
from stages.errors import UserError, counted
from stages.features import forecast, h5, watchdog
from stages.features.decoders import (
    THREADS,
    Decoders,
    Decoding,
    GpuDecoder,
    ImageRef,
    Views,
    Window,
    of_the_image,
    pick_decoders,
    pick_gpu_decoder,
)
from stages.features.store import RowStore
from stages.images.decode import KEPT_RATIO, PIPELINE, decode, decode_shrunk, divisor, kept_side, shrink
from stages.images.header import BadImage
from stages.images.options import Augment
from stages.images.preprocessing import Preprocessing
from stages.images.scaling import SCALING
from stages.images.views import Affine
from stages.machine import cores
from stages.processes import in_order

PART_VIEWS = 512
PART_BYTES = 64 << 20
IMAGE_BATCH = 32  # of a part of stored images; no engine computes them
PARTS = 2  # computed at a time: one fills the engine while the other ends and is written
BAD_IMAGES_NAMED = 5  # on the console, while they are found


@dataclass(frozen=True)
class Spec:
    """All that the features of a part depend on, and where the images lie. Plain values, which can travel.

    `scaled` says that the values of some images are scaled (`stages.images.scaling`): only then is the version of that
    rule part of the provenance, so that features of ordinary images stay as they are.
    """

    folder: Path
    backbone: str
    weights: str
    cut: str
    image_size: int | Literal["auto"]
    resize: Literal["crop", "squash"]
    precision: str
    dtype: str
    batch_size: int | Literal["auto"]
    device: str
    views: tuple[str, ...]
    augment: Augment
    engine: str = "auto"
    scaled: bool = False
    compile: bool = False
    decoder: str = "cpu"


@dataclass(frozen=True)
class Extractor:
    """What computes the rows of a part, and their provenance.

    Attributes:
        engine: a trunk ready to run; None where images are stored as they are, or other processes compute.
        layers: layer -> shape of one view of one image (of images: the largest) and dtype, in the engine's order.
        batch_size: images that the engine computes at once; the last bits of a feature depend on it.
        parallel: number of batches that it computes at a time.
        decoder: a GPU that decodes the images; None where threads or processes do.
    """

    engine: Engine | None
    preprocessing: Preprocessing
    layers: h5.Shapes
    provenance: dict[str, Any]
    batch_size: int
    parallel: int = 1
    decoder: GpuDecoder | None = None


@cache
def load_extractor(spec: Spec) -> Extractor:
    """Loads the backbone, cuts it and describes the features; once per process. `cut: input` needs no backbone.

    Raises:
        UserError: the backbone, its weights, the cut, the device or the precision is not available.
    """
    return _image_extractor(spec) if spec.cut == h5.INPUT else _network_extractor(spec)


def _image_extractor(spec: Spec) -> Extractor:
    if len(spec.views) > 1:
        raise UserError(
            f"`views`: expected views=1 with cut=input, found views={len(spec.views)}: each image is stored once, and "
            "training augments it anew in every epoch."
        )
    preprocessing = zoo.preprocessing(spec.backbone, spec.weights).at(spec.image_size, spec.resize)
    side = kept_side(preprocessing)
    steps = f"decode|middle(1:{KEPT_RATIO})|shrink({side},{preprocessing.interpolation})"
    provenance = {
        "weights": spec.weights,
        "cut_at": h5.INPUT,
        "kept": steps,
        "parameters": 0,
        "dtype": "uint8",
        **_common_provenance(spec, preprocessing),
    }
    largest = (3, KEPT_RATIO * side, KEPT_RATIO * side)
    return Extractor(None, preprocessing, {h5.INPUT: (largest, "u1")}, provenance, IMAGE_BATCH)


def _common_provenance(spec: Spec, preprocessing: Preprocessing) -> dict[str, Any]:
    """The part of the provenance that stored images and features share."""
    return {
        "backbone": spec.backbone,
        "cut": spec.cut,
        "image_size": preprocessing.crop,
        "resize": "squash" if preprocessing.resize is None else "crop",
        "preprocessing": str(preprocessing),
        "pipeline": PIPELINE,
        **({"scaling": SCALING} if spec.scaled else {}),
        "versions": {name: version(name) for name in ("torch", "torchvision", "timm", "pillow")},
    }


def _network_extractor(spec: Spec) -> Extractor:
    device = pick_device(spec.device)
    library = pick_engine(spec.engine, device, compiled=spec.compile)
    precision = pick_precision(spec.precision, device)
    batch_size = images_at_once(spec.batch_size, device)
    openvino = _openvino_engine(spec, precision, batch_size) if library == "openvino" else None
    engine, trunk_info = openvino or _torch_engine(spec, device, precision, batch_size)
    library = "openvino" if openvino else "torch"
    common = _common_provenance(spec, trunk_info.preprocessing)
    provenance = (
        common
        | {
            "weights": trunk_info.weights,
            "weights_sha256": trunk_info.weights_sha256,
            "cut_at": trunk_info.cut_at,
            "parameters": trunk_info.parameters,
            "dtype": spec.dtype,
            "engine": library,
            "device": device.type,
            "precision": precision,
            "batch_size": batch_size,
            "versions": common["versions"] | {library: version(library)},
        }
        | (engine.details if isinstance(engine, TorchEngine) else {})
        | ({"decoder": decoder.name} if (decoder := pick_gpu_decoder(spec.decoder, device)) else {})
    )
    layers = {layer: (shape, spec.dtype) for layer, shape in trunk_info.layers.items()}
    return Extractor(engine, trunk_info.preprocessing, layers, provenance, batch_size, engine.parallel, decoder)


def _torch_engine(spec: Spec, device: torch.device, precision: str, batch_size: int) -> tuple[Engine, TrunkInfo]:
    network, trunk_info = trunk.load(
        spec.backbone, spec.weights, cut=spec.cut, image_size=spec.image_size, resize=spec.resize
    )
    compiled_for = batch_size if spec.compile else None
    return TorchEngine(network, device, precision, dtype=spec.dtype, compiled_for=compiled_for), trunk_info


def _openvino_engine(spec: Spec, precision: str, batch_size: int) -> tuple[Engine, TrunkInfo] | None:
    """OpenVINO's engine; None where it cannot run the network and torch may take its place."""
    try:
        converted = vino.load(
            spec.backbone,
            spec.weights,
            cut=spec.cut,
            image_size=spec.image_size,
            resize=spec.resize,
            batch_size=batch_size,
        )
    except vino.Unconvertible as error:
        if spec.engine == "openvino":
            raise UserError(
                f"`extract.engine`: openvino cannot run {spec.backbone} ({error}); take torch or auto."
            ) from error
        print(f"OpenVINO cannot run {spec.backbone} ({error}): torch computes.", flush=True)
        return None
    return vino.OpenVinoEngine(converted, precision, dtype=spec.dtype), converted.info


def compute_part(
    spec: Spec, images: Sequence[ImageRef], view_names: Sequence[str], decoders: Decoders = THREADS
) -> dict[str, h5.Array]:
    """The rows of some images: member -> (n, …), without `sha256`. Images that cannot be decoded get a zero row, ok 0.

    Each image is decoded once for all of its views, while the engine computes those before it. Batches are padded to a
    fixed size: a row never depends on its neighbours.

    Args:
        spec: how features are computed.
        images: n of them.
        view_names: the views of each image.
        decoders: who decodes; the rows are the same.

    Raises:
        UserError: a feature is not finite in the chosen dtype.
    """
    extractor = load_extractor(spec)
    if extractor.engine is None:
        return _image_rows(spec, extractor.preprocessing, images)
    count, step = len(images) * len(view_names), extractor.batch_size
    layers = [np.zeros((len(images), len(view_names), *shape), dtype) for shape, dtype in extractor.layers.values()]
    affine = np.zeros((len(images), len(view_names), 2, 3), np.float32)
    ok = np.zeros(len(images), np.uint8)
    flat = [layer.reshape(-1, *layer.shape[2:]) for layer in layers]  # the same memory as (images x views, …)
    batches = [range(first, min(first + step, count)) for first in range(0, count, step)]
    drawn = Views(spec.folder, tuple(view_names), extractor.preprocessing, spec.augment)
    window = _window(extractor, len(view_names))
    chosen = extractor.decoder or decoders
    with chosen.slots(window) as slots, callers(extractor.parallel) as computing:
        decoding = Decoding(drawn, images, slots, chosen.chunk, ok, affine)
        pixels = decoding.batches(batches, step, unread=extractor.parallel)
        computed = in_order(computing, extractor.engine, pixels, ahead=extractor.parallel)
        for rows, features in zip(batches, computed, strict=True):
            for layer, values in zip(flat, features, strict=True):
                layer[rows.start : rows.stop] = values[: len(rows)]
    for layer in layers:
        layer[ok == 0] = 0
    named = {h5.LAYER + name: layer for name, layer in zip(extractor.layers, layers, strict=True)}
    return named | {"ok": ok, "views": affine}


def _window(extractor: Extractor, view_count: int) -> Window:
    return Window(extractor.batch_size, extractor.parallel, view_count, extractor.preprocessing.crop)


def _image_rows(spec: Spec, preprocessing: Preprocessing, images: Sequence[ImageRef]) -> dict[str, h5.Array]:
    """The rows of some images where these themselves are stored: padded to the largest of them, with `sizes`."""

    def load(image: ImageRef) -> tuple[torch.Tensor, Affine] | None:
        path, sha256 = image
        data = source.read(spec.folder, path, sha256)
        try:
            with watchdog.decoding(spec.folder / path, sha256):
                by = divisor(data, kept_side(preprocessing))
                pixels, scale = decode_shrunk(data, by) if by > 1 else (decode(data), 1.0)
        except BadImage:
            return None
        shrunk, view_map = shrink(pixels, preprocessing)
        return shrunk, of_the_image(view_map, scale)

    with ThreadPoolExecutor(cores()) as pool:
        loaded = list(pool.map(load, images))
    sizes = np.array([pair[0].shape[1:] if pair else (0, 0) for pair in loaded], np.int32)
    rows = np.zeros((len(images), 1, 3, *h5.padded(sizes)), np.uint8)
    affine = np.zeros((len(images), 1, 2, 3), np.float32)
    for i, pair in enumerate(loaded):
        if pair:
            height, width = sizes[i]
            rows[i, 0, :, :height, :width] = pair[0].numpy()
            affine[i, 0] = pair[1]
    ok = np.array([pair is not None for pair in loaded], np.uint8)
    return {h5.LAYER + h5.INPUT: rows, "ok": ok, "views": affine, "sizes": sizes}


def try_decode(spec: Spec, image: ImageRef) -> torch.Tensor | None:
    """The pixels of an image, uint8 (3, H, W); None where it cannot be decoded."""
    try:
        return _decode(spec, image)
    except BadImage:
        return None


def _decode(spec: Spec, image: ImageRef) -> torch.Tensor:
    path, sha256 = image
    data = source.read(spec.folder, path, sha256)
    with watchdog.decoding(spec.folder / path, sha256):
        return decode(data)


class Workers(Protocol):
    """Where rows are computed: in this process (`LocalWorkers`), or in others (`cluster.Cluster`)."""

    def load_extractor(self, spec: Spec) -> Extractor:
        """How they compute."""

    def compute(self, spec: Spec, parts: Iterable["Part"], store: RowStore) -> Generator["Part", None, None]:
        """Computes parts; each that comes out is in the store."""


class LocalWorkers:
    """This process."""

    def load_extractor(self, spec: Spec) -> Extractor:
        return load_extractor(spec)

    def compute(self, spec: Spec, parts: Iterable["Part"], store: RowStore) -> Generator["Part", None, None]:
        parts = list(parts)
        with _decoders(spec, parts) as decoders, closing(compute_parts(spec, parts, decoders)) as computed:
            for part, rows in computed:
                store.add(rows, part.sha256, part.views)
                yield part


LOCAL = LocalWorkers()


class Extracted(NamedTuple):
    """What an extraction did.

    Attributes:
        computed: how many images had a view computed.
        bad: positions of the images that cannot be decoded.
        speed: views per second, as the progress bar shows it; None where nothing was computed.
    """

    computed: int
    bad: list[int]
    speed: float | None


def extract(spec: Spec, images: Sequence[ImageRef], out: Path, *, workers: Workers = LOCAL) -> Extracted:
    """Computes the rows that the store lacks and writes all rows, in order, to `out`; says beforehand what it costs.

    Args:
        spec: how features are computed.
        images: whose rows are wanted.
        out: the feature file.
        workers: where the rows are computed.

    Raises:
        UserError: the disk cannot hold it, or fails.
    """
    extractor = workers.load_extractor(spec)
    sha256 = [checksum for _, checksum in images]
    with RowStore(extractor.provenance).locked() as store:
        missing = store.missing(sha256, spec.views)
        computed = sum(map(len, missing.values()))
        print(
            f"{counted(len(images), 'images')}, {len(images) - computed:,} in the store, {computed:,} to compute",
            flush=True,
        )
        total = sum(len(names) * len(positions) for names, positions in missing.items())
        _announce(spec, extractor, store, images=sha256, missing=total)
        speed = None
        if total:
            parts = parts_of(spec, extractor, images=images, missing=missing)
            speed = _compute(spec, parts, total=total, store=store, workers=workers)
        store.assemble(sha256, spec.views, out)
        return Extracted(computed, store.bad(sha256, spec.views[0]), speed)


def _announce(spec: Spec, extractor: Extractor, store: RowStore, *, images: Sequence[str], missing: int) -> None:
    """Says what an extraction costs, and stops where the disk cannot hold it."""
    speed = forecast.last_speed(spec.backbone, spec.cut)
    print(
        forecast.describe(extractor.layers, images=len(images), views=len(spec.views), missing=missing, speed=speed),
        flush=True,
    )
    assembled = 0 if store.has_file(images, spec.views) else len(images) * len(spec.views)
    forecast.refuse_where_full(store.home / files.LOCK, extractor.layers, rows=missing + assembled)


def _compute(spec: Spec, parts: Iterator["Part"], *, total: int, store: RowStore, workers: Workers) -> float:
    """Computes parts of `total` views together; names the first images that cannot be decoded at once.

    Returns:
        Views per second.
    """
    started, bad, done = time.perf_counter(), 0, 0
    watchdog.report_progress(done, total)
    unit = " views" if len(spec.views) > 1 else " images"
    # smoothing=0: the bar shows the mean speed, which is what the stage reports at its end. It counts nothing itself
    # where TQDM_DISABLE hides it.
    with (
        tqdm(total=total, unit=unit, smoothing=0) as progress,
        closing(workers.compute(spec, parts, store)) as computed,
    ):
        for part in computed:
            views = len(part.images) * len(part.views)
            done += views
            progress.update(views)
            watchdog.report_progress(done, total)
            for i in store.bad(part.sha256, part.views[0]):
                if (bad := bad + 1) <= BAD_IMAGES_NAMED:
                    path, _ = image = part.images[i]
                    tqdm.write(f"{path}: {decoding_error(spec, image)}. It is left out.", sys.stderr)
    return total / (time.perf_counter() - started)


class Part(NamedTuple):
    """Images and the views that they lack."""

    images: list[ImageRef]
    views: tuple[str, ...]

    @property
    def sha256(self) -> list[str]:
        """Of the images."""
        return [sha256 for _, sha256 in self.images]


def parts_of(
    spec: Spec,
    extractor: Extractor,
    *,
    images: Sequence[ImageRef],
    missing: Mapping[tuple[str, ...], Sequence[int]],
) -> Iterator[Part]:
    """The work, cut into parts.

    Args:
        spec: how features are computed.
        extractor: what computes them.
        images: all images.
        missing: for each choice of views the positions of the images that lack them.
    """
    for names, positions in missing.items():
        step = part_images(extractor, len(names))
        for first in range(0, len(positions), step):
            yield Part([images[i] for i in positions[first : first + step]], names)


def _decoders(spec: Spec, parts: Sequence[Part]) -> AbstractContextManager[Decoders]:
    """Who decodes the images of parts."""
    extractor = load_extractor(spec)
    if extractor.engine is None or extractor.decoder:
        return nullcontext(THREADS)
    window = _window(extractor, max(len(part.views) for part in parts))
    counts = [len(part.images) for part in parts]
    return pick_decoders(sum(counts), parts=PARTS, images=max(counts), window=window)


def compute_parts(
    spec: Spec, parts: Iterable[Part], decoders: Decoders = THREADS
) -> Generator[tuple[Part, dict[str, h5.Array]], None, None]:
    """The rows of parts, in order; the next ones are computed while one is written."""

    def compute(part: Part) -> tuple[Part, dict[str, h5.Array]]:
        return part, compute_part(spec, part.images, part.views, decoders)

    with ThreadPoolExecutor(PARTS) as pool:
        yield from in_order(pool, compute, parts, ahead=PARTS)


def part_images(extractor: Extractor, views: int) -> int:
    """How many images make a part: a few hundred views, fewer when they are large, whole batches."""
    most = min(PART_VIEWS, PART_BYTES // forecast.view_bytes(extractor.layers)) // views
    return max(1, most // extractor.batch_size) * extractor.batch_size


def decoding_error(spec: Spec, image: ImageRef) -> str:
    """Why an image cannot be decoded."""
    try:
        _decode(spec, image)
    except BadImage as error:
        return str(error)
    return "unknown"
