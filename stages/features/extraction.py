"""Extraction: which rows are missing, compute them part by part, assemble the file.

The unit of work is a part: `compute_part(spec, images)` is pure and idempotent, so the same function serves a loop in
this process and many machines (`cluster`). Two parts are computed at a time, so that the engine never waits for one to
end.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from tqdm import tqdm

from stages import files
from stages.backbones import trunk, vino, zoo
from stages.backbones.device import cores, pick_device
from stages.backbones.engine import Engine, TorchEngine, callers, images_at_once, pick_engine, pick_precision
from stages.backbones.trunk import About
from stages.datasets import source
from stages.errors import UserError
from stages.features import forecast, h5, watchdog
from stages.features.store import RowStore
from stages.images import views
from stages.images.decode import KEPT_RATIO, PIPELINE, decode, keep, kept_side
from stages.images.header import BadImage
from stages.images.options import Augment
from stages.images.preprocessing import Preprocessing
from stages.images.scaling import SCALING

PART_VIEWS = 512
PART_BYTES = 64 << 20
PARTS = 2  # computed at a time: one fills the engine while the other ends and is written
THREADS = cores()
Image = tuple[str, str]  # path below the folder, sha256
In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(frozen=True)
class Spec:
    """All that a part's features depend on, and where the images lie. Plain values, so that it can travel.

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
    batch_size: int
    device: str
    views: tuple[str, ...]
    augment: Augment
    engine: str = "auto"
    scaled: bool = False


@dataclass(frozen=True)
class Extractor:
    """What makes the rows of a part, and the provenance of what comes out.

    Attributes:
        engine: a trunk ready to run; None where images are kept as they are, or others compute.
        layers: layer -> shape of one view of one image (of images: the largest) and dtype, in the engine's order.
        batch_size: images that the engine computes at once; the last bits of a feature depend on it.
        parallel: batches that it computes at a time.
    """

    engine: Engine | None
    preprocessing: Preprocessing
    layers: h5.Shapes
    provenance: dict[str, Any]
    batch_size: int
    parallel: int = 1


@cache
def load_extractor(spec: Spec) -> Extractor:
    """Loads the backbone, cuts it and describes the features; once a process. `cut: input` needs no backbone.

    Raises:
        UserError: the backbone, its weights, the cut, the device or the precision cannot be had.
    """
    return _keeper(spec) if spec.cut == h5.INPUT else _runner(spec)


def _keeper(spec: Spec) -> Extractor:
    if len(spec.views) > 1:
        raise UserError(
            f"`views`: cut=input keeps each image once, found views={len(spec.views)}: what `augment` allows is drawn "
            "anew while training; take views=1."
        )
    preprocessing = zoo.preprocessing(spec.backbone, spec.weights).at(spec.image_size, spec.resize)
    side = kept_side(preprocessing)
    kept = f"decode|middle(1:{KEPT_RATIO})|shrink({side},{preprocessing.interpolation})"
    provenance = {
        "weights": spec.weights,
        "cut_at": h5.INPUT,
        "kept": kept,
        "parameters": 0,
        "dtype": "uint8",
        **_described(spec, preprocessing),
    }
    largest = (3, KEPT_RATIO * side, KEPT_RATIO * side)
    return Extractor(None, preprocessing, {h5.INPUT: (largest, "u1")}, provenance, spec.batch_size)


def _described(spec: Spec, preprocessing: Preprocessing) -> dict[str, Any]:
    """The provenance that images and features share."""
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


def _runner(spec: Spec) -> Extractor:
    device = pick_device(spec.device)
    engine = pick_engine(spec.engine, device)
    precision = pick_precision(spec.precision, device)
    batch_size = images_at_once(spec.batch_size, device)
    made = _openvino(spec, precision, batch_size) if engine == "openvino" else None
    ready, about = made or _torch(spec, device, precision)
    name = "openvino" if made else "torch"
    described = _described(spec, about.preprocessing)
    provenance = described | {
        "weights": about.weights,
        "weights_sha256": about.weights_sha256,
        "cut_at": about.cut_at,
        "parameters": about.parameters,
        "dtype": spec.dtype,
        "engine": name,
        "device": device.type,
        "precision": precision,
        "batch_size": batch_size,
        "versions": described["versions"] | {name: version(name)},
    }
    layers = {layer: (shape, spec.dtype) for layer, shape in about.layers.items()}
    return Extractor(ready, about.preprocessing, layers, provenance, batch_size, ready.parallel)


def _torch(spec: Spec, device: torch.device, precision: str) -> tuple[Engine, About]:
    network, about = trunk.load(spec.backbone, spec.weights, spec.cut, spec.image_size, spec.resize)
    return TorchEngine(network, device, precision), about


def _openvino(spec: Spec, precision: str, batch_size: int) -> tuple[Engine, About] | None:
    """OpenVINO's engine; None where it cannot have the network and torch may take its place."""
    try:
        converted = vino.load(spec.backbone, spec.weights, spec.cut, spec.image_size, spec.resize, batch=batch_size)
    except vino.Unconvertible as error:
        if spec.engine == "openvino":
            raise UserError(
                f"`extract.engine`: openvino cannot take {spec.backbone} ({error}); take torch or auto."
            ) from error
        print(f"OpenVINO cannot take {spec.backbone} ({error}): torch computes.", flush=True)
        return None
    return vino.OpenVinoEngine(converted, precision), converted.about


def compute_part(spec: Spec, part: Sequence[Image], names: Sequence[str]) -> dict[str, h5.Array]:
    """The rows of some images: member -> (n, …), without `sha256`. Images that cannot be decoded get a zero row, ok 0.

    Each image is decoded once for all of its views, while the engine computes those before it. Batches are padded to a
    fixed size: a row never depends on its neighbours.

    Args:
        spec: how.
        part: which images.
        names: which views of each.

    Raises:
        UserError: a feature is not finite in the chosen dtype.
    """
    ready = load_extractor(spec)
    if ready.engine is None:
        return _images(spec, ready.preprocessing, part)
    size, count, step = ready.preprocessing.crop, len(part) * len(names), ready.batch_size
    layers = [np.zeros((len(part), len(names), *shape), dtype) for shape, dtype in ready.layers.values()]
    affine = np.zeros((len(part), len(names), 2, 3), np.float32)
    ok = np.zeros(len(part), np.uint8)

    def load(place: int) -> list[torch.Tensor]:
        image = decoded(spec, part[place])
        if image is None:
            return [torch.zeros((3, size, size), dtype=torch.uint8)] * len(names)
        ok[place] = 1
        made = [views.view(image, name, part[place][1], ready.preprocessing, spec.augment) for name in names]
        affine[place] = [found for _, found in made]
        return [pixels for pixels, _ in made]

    def batch(rows: range) -> torch.Tensor:
        filled = torch.zeros((step, size, size, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
        for slot in range(len(rows)):
            filled[slot] = next(loading)
        return filled

    flat = [layer.reshape(-1, *layer.shape[2:]) for layer in layers]  # the same memory as (images x views, …)
    batches = [range(first, min(first + step, count)) for first in range(0, count, step)]
    with ThreadPoolExecutor(THREADS) as decoding, callers(ready.parallel) as computing:
        loading = (pixels for made in _ahead(decoding, load, range(len(part)), spec.batch_size) for pixels in made)
        computed = _ahead(computing, ready.engine, map(batch, batches), ready.parallel)
        for rows, found in zip(batches, computed, strict=True):
            for layer, values in zip(flat, found, strict=True):
                if not np.isfinite(values[: len(rows)]).all():
                    raise UserError(
                        f"{spec.backbone} computes values that are not finite: -S extract.precision=float32."
                    )
                with np.errstate(over="ignore"):
                    layer[rows.start : rows.stop] = values[: len(rows)]
    for layer in layers:
        layer[ok == 0] = 0
        if not np.isfinite(layer).all():
            raise UserError(f"A feature of {spec.backbone} does not fit into {spec.dtype}: -S extract.dtype=float32.")
    return {h5.LAYER + name: layer for name, layer in zip(ready.layers, layers, strict=True)} | {
        "ok": ok,
        "views": affine,
    }


def _ahead(pool: ThreadPoolExecutor, function: Callable[[In], Out], items: Iterable[In], count: int) -> Iterator[Out]:
    """`function` of each item, in order, computed by a pool that is at most `count` items ahead of who asks."""
    waiting: deque[Future[Out]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _images(spec: Spec, how: Preprocessing, part: Sequence[Image]) -> dict[str, h5.Array]:
    """The rows of some images where these themselves are kept: padded to the largest of them, with `sizes`."""

    def load(image: Image) -> tuple[torch.Tensor, views.Affine] | None:
        pixels = decoded(spec, image)
        return None if pixels is None else keep(pixels, how)

    with ThreadPoolExecutor(THREADS) as pool:
        loaded = list(pool.map(load, part))
    sizes = np.array([made[0].shape[1:] if made else (0, 0) for made in loaded], np.int32)
    kept = np.zeros((len(part), 1, 3, *h5.padded(sizes)), np.uint8)
    affine = np.zeros((len(part), 1, 2, 3), np.float32)
    for place, made in enumerate(loaded):
        if made:
            height, width = sizes[place]
            kept[place, 0, :, :height, :width] = made[0].numpy()
            affine[place, 0] = made[1]
    ok = np.array([made is not None for made in loaded], np.uint8)
    return {h5.LAYER + h5.INPUT: kept, "ok": ok, "views": affine, "sizes": sizes}


def decoded(spec: Spec, image: Image) -> torch.Tensor | None:
    """The pixels of an image; None where it cannot be decoded."""
    try:
        return _decode(spec, image)
    except BadImage:
        return None


def _decode(spec: Spec, image: Image) -> torch.Tensor:
    path, sha256 = image
    data = source.read(spec.folder, path, sha256)
    with watchdog.decoding(spec.folder / path, sha256):
        return decode(data)


class Workers(Protocol):
    """Who computes: this process (`Here`), or others (`cluster.Cluster`)."""

    def load_extractor(self, spec: Spec) -> Extractor:
        """How they compute."""

    def compute(self, spec: Spec, parts: Iterable["Part"], store: RowStore) -> Generator["Part", None, None]:
        """Computes parts; each that comes out is in the store."""


class LocalWorkers:
    """This process."""

    def load_extractor(self, spec: Spec) -> Extractor:
        return load_extractor(spec)

    def compute(self, spec: Spec, parts: Iterable["Part"], store: RowStore) -> Generator["Part", None, None]:
        with closing(computed_parts(spec, parts)) as computed:
            for part, rows in computed:
                store.add(rows, part.sha256, part.views)
                yield part


LOCAL = LocalWorkers()


def extract(spec: Spec, wanted: Sequence[Image], out: Path, workers: Workers = LOCAL) -> tuple[int, list[int]]:
    """Computes the rows that the store lacks and writes all rows, in order, to `out`; says before what it will cost.

    Args:
        spec: how.
        wanted: which images.
        out: the feature file.
        workers: who computes.

    Returns:
        How many images had a view computed, and the positions of the images that cannot be decoded.

    Raises:
        UserError: the disk cannot hold it, or fails.
    """
    ready = workers.load_extractor(spec)
    sha256 = [image for _, image in wanted]
    with RowStore(ready.provenance).locked() as store:
        missing = store.missing(sha256, spec.views)
        computed = sum(map(len, missing.values()))
        print(f"{len(wanted):,} images, {len(wanted) - computed:,} in the store, {computed:,} to compute", flush=True)
        total = sum(len(names) * len(places) for names, places in missing.items())
        kept, speed = len(wanted) * len(spec.views), forecast.last_speed(spec.backbone, spec.cut)
        print(
            forecast.describe(ready.layers, images=len(wanted), views=len(spec.views), missing=total, speed=speed),
            flush=True,
        )
        assembled = 0 if store.has_file(sha256, spec.views) else kept
        forecast.refuse_where_full(store.home / files.LOCK, ready.layers, rows=total + assembled)
        progress = tqdm(total=total, unit=" views" if len(spec.views) > 1 else " images", disable=not missing)
        with progress, closing(workers.compute(spec, parts_of(spec, ready, wanted, missing), store)) as parts:
            for part in parts:
                progress.update(len(part.images) * len(part.views))
        store.assemble(sha256, spec.views, out)
        return computed, store.bad(sha256, spec.views[0])


class Part(NamedTuple):
    """Images and the views that they lack."""

    images: list[Image]
    views: tuple[str, ...]

    @property
    def sha256(self) -> list[str]:
        """Of the images."""
        return [sha256 for _, sha256 in self.images]


def parts_of(
    spec: Spec, ready: Extractor, wanted: Sequence[Image], missing: Mapping[tuple[str, ...], Sequence[int]]
) -> Iterator[Part]:
    """The work, cut in parts: for each choice of views the positions of the images that lack them."""
    for names, places in missing.items():
        step = part_images(spec, ready, len(names))
        for first in range(0, len(places), step):
            yield Part([wanted[place] for place in places[first : first + step]], names)


def computed_parts(spec: Spec, parts: Iterable[Part]) -> Generator[tuple[Part, dict[str, h5.Array]], None, None]:
    """The rows of parts, in order; the next ones are computed while one is written."""

    def compute(part: Part) -> tuple[Part, dict[str, h5.Array]]:
        return part, compute_part(spec, part.images, part.views)

    with ThreadPoolExecutor(PARTS) as pool:
        yield from _ahead(pool, compute, parts, PARTS)


def part_images(spec: Spec, ready: Extractor, views: int) -> int:
    """How many images make a part: a few hundred views, fewer when they are large, whole batches."""
    most = min(PART_VIEWS, PART_BYTES // forecast.view_bytes(ready.layers)) // views
    return max(1, most // ready.batch_size) * ready.batch_size


def reason(spec: Spec, image: Image) -> str:
    """Why an image cannot be decoded."""
    try:
        _decode(spec, image)
    except BadImage as error:
        return str(error)
    return "unknown"
